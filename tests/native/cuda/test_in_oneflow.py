"""OneFlow with emulated CUDA kernels: operators against NumPy, trainings against the CPU's."""
import pytest


def test_operators(run_with_kernels, emulated):
    said = run_with_kernels("-m", "tests.native.cuda.operators", emulated, STRICT="1")
    right, of, count = said.splitlines()[-1].split()[1:4]
    assert right == count and int(count) > 250, said[-3000:]


def test_a_graph_trains_as_eager_mode_does_on_the_cpu(experiment):
    wanted = experiment.on_cpu("eager shallow")["losses"]
    found = experiment.emulated("train shallow")["losses"]
    assert found[: len(wanted)] == pytest.approx(wanted, rel=1e-5)


def test_an_operator_without_a_kernel_is_refused_by_name(experiment):
    assert experiment.emulated("refuse") == {"refused_by_name": True, "afterwards": 6.0}


@pytest.mark.soak
def test_operators_beside_those_of_oneflow(run_with_kernels, emulated):
    said = run_with_kernels("-m", "tests.native.cuda.operators", emulated, "arithmetic", "reduce")
    assert "WRONG" not in said


@pytest.mark.soak
@pytest.mark.parametrize("name", ["train", "eager", "evaluate", "evaluate graph", "classifier"])
def test_same_numbers(experiment, name):
    wanted, found = experiment.on_cpu(name), experiment.emulated(name)
    for key, numbers in wanted.items():
        if isinstance(numbers, list):
            assert found[key] == pytest.approx(numbers, rel=1e-5, abs=1e-5), key


@pytest.mark.soak
@pytest.mark.parametrize("word", ["", "skip", "checkpointing"])
def test_another_run_gives_the_same_bits(experiment, word):
    assert experiment.emulated(f"train {word}") == experiment.emulated("train")


@pytest.mark.soak
def test_vision_transformer_of_libai(experiment):
    losses = experiment.emulated("libai_vit")["losses"]
    assert losses == sorted(losses, reverse=True)
