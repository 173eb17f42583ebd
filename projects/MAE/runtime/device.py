"""The kind of device that a process computes on."""
import oneflow as flow

from projects.MAE.errors import UserError
from projects.MAE.runtime import cuda_kernels


def choose_device(name, key="train.device"):
    """"auto", "cuda" or "cpu" -> "cuda" or "cpu"; a UserError for CUDA that can't be used."""
    if name == "cpu" or (name == "auto" and not flow.cuda.is_available()):
        return "cpu"
    if not flow.cuda.is_available():
        raise UserError("there is no usable GPU", key, name, "use {key}cpu")
    capability = tuple(flow.cuda.get_device_capability())
    if not cuda_kernels.can_run(capability):
        number = ".".join(map(str, capability))
        lacks = f"this OneFlow has no code for a GPU of compute capability {number}"
        way_out = "use another GPU, or {key}cpu"
        if capability >= cuda_kernels.NEWEST:
            way_out = "run tools/setup.sh, which builds kernels where there is g++, or {key}cpu"
        raise UserError(f"{lacks} (it has 6.0 to 8.x)", key, name, way_out)
    return "cuda"
