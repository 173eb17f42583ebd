"""The kind of device that a process computes on."""
import oneflow as flow

from projects.MAE.errors import UserError


def choose_device(name, key="train.device"):
    """"auto", "cuda" or "cpu" -> "cuda" or "cpu"; a UserError for CUDA that can't be used."""
    if name == "cpu" or (name == "auto" and not flow.cuda.is_available()):
        return "cpu"
    if not flow.cuda.is_available():
        raise UserError("there is no usable GPU", key, name, "use {key}cpu")
    major, minor = flow.cuda.get_device_capability()
    if not (6, 0) <= (major, minor) < (9, 0):
        lacks = f"this OneFlow has no code for a GPU of compute capability {major}.{minor}"
        raise UserError(f"{lacks} (it has 6.0 to 8.x)", key, name, "use another GPU or {key}cpu")
    return "cuda"
