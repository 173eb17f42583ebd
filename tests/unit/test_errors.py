"""A mistake is one line that names the setting, whoever has found it."""
import errno

import pytest

from projects.MAE.errors import UserError, about, raised_by, shortage


@pytest.mark.parametrize("path, names_it", [("/run", False), ("/run/model/x", True), ("/other", True)])
def test_a_path_that_a_setting_names_is_said_once(path, names_it):
    with pytest.raises(UserError) as caught, about("finetune.path", "/run"):
        raise UserError("damaged", path=path, way_out="copy it again")
    setting = "" if path == "/other" else "finetune.path=/run: "
    assert str(caught.value) == f"{setting}{f'{path}: ' if names_it else ''}damaged: copy it again"


def test_the_way_out_is_said_as_the_user_types_it():
    error = UserError("there is no usable GPU", "train.device", "cuda", "use {key}cpu")
    assert str(error) == "train.device=cuda: there is no usable GPU: use train.device=cpu"
    text = error.text({"train.device": "--device"})
    assert text == "--device cuda: there is no usable GPU: use --device cpu"


@pytest.mark.parametrize(
    "error, said",
    [
        (MemoryError(), "no memory is left (MemoryError)"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "no memory is left ([Errno 12]"),
        (RuntimeError("can't start new thread"), "no memory is left (can't start new thread)"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files: raise the limit"),
    ],
)
def test_what_the_machine_lacks_is_no_mistake_of_the_data_set(error, said):
    assert str(raised_by("the data set", error)).startswith(said)


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOSPC, "x"), FileNotFoundError()])
def test_other_errors_are_no_shortage(error):
    assert shortage(error) is None
