"""Which GPUs are used: those that OneFlow has code for, and newer ones where there are kernels."""
import os
import subprocess

import oneflow as flow
import pytest

from projects.MAE.errors import UserError
from projects.MAE.runtime import cuda_kernels
from projects.MAE.runtime.device import choose_device
from tests.support.command import ROOT


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Let this process have a GPU of a compute capability, and kernels for it or none."""

    def have(capability, kernels=True):
        monkeypatch.setattr(flow.cuda, "is_available", lambda: True)
        monkeypatch.setattr(flow.cuda, "get_device_capability", lambda: capability)
        library = tmp_path / "kernels.so"
        if kernels:
            library.write_text("not a library")
        monkeypatch.setenv("MAE_CUDA_KERNELS", str(library))

    return have


@pytest.mark.parametrize(
    "capability, kernels", [((6, 0), False), ((8, 9), False), ((9, 0), True), ((12, 0), True)]
)
def test_usable(gpu, capability, kernels):
    gpu(capability, kernels)
    assert choose_device("auto") == choose_device("cuda") == "cuda"


@pytest.mark.parametrize(
    "capability, kernels, way_out",
    [((5, 2), True, "use another GPU"), ((9, 0), False, "run tools/setup.sh")],
)
def test_refused_by_name(gpu, capability, kernels, way_out):
    gpu(capability, kernels)
    with pytest.raises(UserError, match=f"capability {capability[0]}.{capability[1]}.*{way_out}"):
        choose_device("auto")


def test_kernels_that_are_left_out_or_broken(gpu, monkeypatch):
    gpu((9, 0))
    with pytest.raises(UserError, match="kernels.so can't be loaded"):
        cuda_kernels.load()
    monkeypatch.setenv("MAE_CUDA_KERNELS", "0")
    assert not cuda_kernels.can_run((9, 0)) and cuda_kernels.can_run((8, 0))


def test_several_ranks_are_refused_where_nccl_has_no_code(gpu, monkeypatch):
    gpu((9, 0))
    monkeypatch.setattr(flow.env, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="several ranks .* capability 9.0.*N=1"):
        cuda_kernels.load()


def shell(tmp_path, function, capabilities, **environment):
    """What a function of tools/common.sh prints, and its status, beside GPUs of these."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n" + "".join(f"echo {c}\n" for c in capabilities))
    tool.chmod(0o755)
    found = subprocess.run(
        ["bash", "-c", f"source {ROOT}/tools/common.sh; libraries={tmp_path}; {function}"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    return found.stdout.strip(), found.returncode


@pytest.mark.parametrize(
    "capabilities, without, beside_kernels",
    [([], "0", "0"), (["8.0"] * 8, "8", "8"), (["9.0"] * 8, "0", "1"), (["7.0", "12.0"], "1", "1")],
)
def test_default_number_of_ranks(tmp_path, monkeypatch, capabilities, without, beside_kernels):
    for name in ("CUDA_VISIBLE_DEVICES", "MAE_CUDA_KERNELS"):
        monkeypatch.delenv(name, raising=False)
    assert shell(tmp_path, "usable_gpus", capabilities)[0] == without
    (tmp_path / "libmae_cuda.so").touch()
    assert shell(tmp_path, "usable_gpus", capabilities)[0] == beside_kernels
    assert shell(tmp_path, "usable_gpus", capabilities, MAE_CUDA_KERNELS="0")[0] == without
    assert shell(tmp_path, "usable_gpus", capabilities, CUDA_VISIBLE_DEVICES="")[0] == "0"


def test_what_a_newer_gpu_needs_is_installed_for_it_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for capabilities, needs in ([], 1), (["8.0"], 1), (["8.0", "9.0"], 0), (["10.0"], 0):
        assert shell(tmp_path, "has_newer_gpu", capabilities) == ("", needs)
