"""Processes that load the native kernels, with the BLAS and the threads that they are told."""
import glob
import os
import subprocess
import sys

import numpy as np
import pytest

from projects.MAE.runtime import native
from tests.support.command import ROOT, environment

pytestmark = pytest.mark.usefixtures("native_kernels")


def with_blas(name):
    """An environment in which the kernels use "mkl" or "openblas"."""
    mkl = glob.glob(os.path.join(sys.prefix, "lib", "libmkl_rt.so.*"))[0]
    preload = mkl if name == "mkl" else ""
    return dict(environment(), MAE_BLAS=name, LD_PRELOAD=preload, PYTHONPATH=str(ROOT))


ON_SOME_THREADS = """
import sys, numpy as np, oneflow as flow
from projects.MAE.modeling.one_operator import linear
from projects.MAE.runtime import native
assert native.load()
draw = np.random.default_rng(0).standard_normal
x, w = (flow.tensor(draw(s).astype("f"), requires_grad=True) for s in [(700, 301), (301,)])
# Products large enough to be cut for threads, to be cut for some of them, and not to be.
sizes = (301, 230), (230, 170), (170, 4)
weights = [flow.tensor(draw(s).astype("f") / 15, requires_grad=True) for s in sizes]
y = flow._C.layer_norm_affine(x, w, w, begin_norm_axis=1, begin_params_axis=1, epsilon=1e-6)
y = flow._C.gelu(y)
for weight in weights:
    y = linear(y, weight)
(y * y).sum().backward()
np.savez(sys.argv[1], y.detach().numpy(), *(t.grad.numpy() for t in (x, w, *weights)))
"""


@pytest.mark.parametrize("blas", ["mkl", "openblas"])
def test_threads_do_not_change_a_bit(tmp_path, blas):
    results = []
    for threads in ("1", "2", "3", "7"):
        path = tmp_path / f"{threads}.npz"
        env = dict(with_blas(blas), OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
        subprocess.run([sys.executable, "-c", ON_SOME_THREADS, path], env=env, check=True, cwd=ROOT)
        results.append(np.load(path))
    for result in results[1:]:
        for name in result.files:
            np.testing.assert_array_equal(results[0][name], result[name])


def test_loading_after_operators_have_run():
    code = (
        "import numpy as np, oneflow as flow\n"
        "from projects.MAE.runtime import native\n"
        "x = flow.ones(3, 5)\n"
        "def work():\n"
        "    y = flow._C.gelu(x + flow.ones(5)) * flow.ones(3, 1)\n"
        "    return flow.softmax(y + y, dim=-1).sum(dim=0).numpy()\n"
        "before = work()\n"
        "assert native.load()\n"
        "np.testing.assert_allclose(work(), before, rtol=1e-6)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_result_that_is_not_differentiated_does_not_outlive_python():
    code = (
        "import oneflow as flow\n"
        "from projects.MAE.modeling.one_operator import linear\n"
        "from projects.MAE.runtime import native\n"
        "assert native.load()\n"
        "weight = flow.ones(5, 4, requires_grad=True)\n"
        "linear(flow.ones(3, 5), weight)\n"
    )
    # What is left over is taken down after Python, and aborted.
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def load_with(wish):
    """What loading with MAE_NATIVE=wish says, in a new process."""
    code = "from projects.MAE.runtime import native; print(native.load())"
    env = dict(os.environ, MAE_NATIVE=wish)
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True
    )


def test_the_switch(tmp_path):
    assert load_with("0").stdout.strip() == "None"
    assert load_with("1").stdout.strip() == native.load()
    missing = load_with(str(tmp_path / "none.so")).stderr
    assert "UserError" in missing and "MAE_NATIVE" in missing
    broken = tmp_path / "broken.so"
    broken.write_text("not a library")
    assert "can't be loaded" in load_with(str(broken)).stderr


def loaded_with(environment):
    """What multiplies matrices after loading in this environment, and the last line of errors."""
    code = "from projects.MAE.runtime import native; native.load(); print(native.matrix_products())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip(), done.stderr.strip().split("\n")[-1]


def test_the_choice_of_a_blas():
    assert loaded_with(with_blas("mkl"))[0] == "MKL"
    assert loaded_with(with_blas("openblas"))[0] == "OpenBLAS"
    assert loaded_with(dict(with_blas("openblas"), MAE_BLAS=""))[0] == "OpenBLAS"  # no MKL there
    assert loaded_with(dict(with_blas("mkl"), MAE_BLAS=""))[0] in ("MKL", "OpenBLAS")
    refused = [
        ("MAE_BLAS=atlas must be mkl or openblas", with_blas("atlas")),
        ("MAE_BLAS=atlas must be mkl or openblas", dict(with_blas("atlas"), MAE_NATIVE="0")),
        ("MAE_BLAS=mkl: MKL is not preloaded", dict(with_blas("openblas"), MAE_BLAS="mkl")),
        ("MAE_BLAS=openblas: only the native", dict(with_blas("openblas"), MAE_NATIVE="0")),
    ]
    for message, wrong in refused:
        assert message in loaded_with(wrong)[1]
