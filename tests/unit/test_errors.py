"""A mistake is one line that names the setting, whoever has found it."""
import pytest

from projects.MAE.errors import UserError, about


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
