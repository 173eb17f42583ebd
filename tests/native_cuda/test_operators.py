"""Every operator that has a CUDA kernel here, run by emulation, against NumPy."""


def test_operators(run_with_kernels, emulated):
    # STRICT: what would need code of OneFlow's own on a GPU is refused, and so fails here.
    said = run_with_kernels("-m", "tests.native_cuda.operators", emulated, STRICT="1")
    right, of, count = said.splitlines()[-1].split()[1:4]
    assert right == count and int(count) > 250, said[-3000:]


def test_operators_beside_those_of_oneflow(run_with_kernels, emulated):
    said = run_with_kernels("-m", "tests.native_cuda.operators", emulated, "arithmetic", "reduce")
    assert "WRONG" not in said
