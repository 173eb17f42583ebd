"""Whole trainings with emulated CUDA kernels against OneFlow's own on the CPU."""
import json

import pytest

from tests.native_cuda.conftest import ROOT

SCRIPT = str(ROOT / "tools" / "gpu" / "experiments.py")


def result(said):
    line = next(line for line in said.splitlines() if line.startswith("RESULT"))
    return json.JSONDecoder().raw_decode(line[len("RESULT ") :])[0]


@pytest.mark.parametrize(
    "name", ["train", "eager", "evaluate", "evaluate graph", "classifier"], ids=str
)
def test_same_numbers(run_with_kernels, emulated, name):
    wanted = result(run_with_kernels(SCRIPT, "cpu", *name.split()))
    found = result(run_with_kernels(SCRIPT, emulated, *name.split(), STRICT="1"))
    for key, numbers in wanted.items():
        if isinstance(numbers, list):
            assert found[key] == pytest.approx(numbers, rel=1e-5, abs=1e-5), key


def test_two_runs_agree_in_every_bit(run_with_kernels, emulated):
    one, two = (result(run_with_kernels(SCRIPT, emulated, "train")) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("word", ["skip", "checkpointing"])
def test_the_other_graphs_give_the_same_bits(run_with_kernels, emulated, word):
    plain = result(run_with_kernels(SCRIPT, emulated, "train"))
    assert result(run_with_kernels(SCRIPT, emulated, "train", word, STRICT="1")) == plain


def test_vision_transformer_of_libai(run_with_kernels, emulated):
    losses = result(run_with_kernels(SCRIPT, emulated, "libai_vit", STRICT="1"))["losses"]
    assert losses == sorted(losses, reverse=True)


def test_an_operator_without_a_kernel_is_refused_by_name(run_with_kernels, emulated):
    found = result(run_with_kernels(SCRIPT, emulated, "refuse", STRICT="1"))
    assert found == {"refused_by_name": True, "afterwards": 6.0}
