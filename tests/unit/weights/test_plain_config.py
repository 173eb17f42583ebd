"""References in the config.yaml beside weights: those of recipes followed, nothing else, never far."""
import os
import time

import pytest
from omegaconf import OmegaConf

from projects.MAE.settings.load import load_config, save_config
from projects.MAE.utils.untrusted_file import yaml_mapping
from projects.MAE.weights.plain_config import without_references
from projects.MAE.weights.source import run_config, run_facts
from tests.support.command import ROOT

RECIPES = sorted((ROOT / "projects/MAE/configs").glob("*.py"))


@pytest.mark.parametrize("recipe", [path.name for path in RECIPES])
def test_what_recipes_write_is_what_omegaconf_reads(tmp_path, recipe):
    cfg = load_config(str(ROOT / "projects/MAE/configs" / recipe))
    save_config(cfg, str(tmp_path / "config.yaml"))
    content = yaml_mapping((tmp_path / "config.yaml").read_text())
    read, wanted = without_references(content), OmegaConf.create(content)
    followed = 0

    def compare(ours, theirs, node):
        nonlocal followed
        for key in ours if isinstance(ours, dict) else range(len(ours)):
            if isinstance(ours[key], (dict, list)) and not isinstance(theirs[key], str):
                compare(ours[key], theirs[key], node[key])
            elif isinstance(theirs[key], str) and "${" in theirs[key]:
                followed += 1
                assert ours[key] == node[key], (key, theirs[key])

    compare(read, content, wanted)
    assert followed > 5
    facts = run_facts(str(tmp_path / "model_0000001"), read["model"]["embed_dim"])
    assert facts["num_heads"] == cfg.model.num_heads
    assert facts["preprocessing"]["crop"] == cfg.model.img_size


BOMBS = {
    "the environment": ("x: ${oc.env:SECRET_TOKEN}", None),
    "the environment, in a name": ("x: ${a.${oc.env:SECRET_TOKEN}}\na: {hunter2: 1}", None),
    "the environment, as a default": ("x: '${oc.select:y,${oc.env:SECRET_TOKEN}}'", None),
    "itself": ("x: ${x}", None),
    "one another": ("x: ${y}\ny: ${x}", None),
    "what is around it": ("x: ${model}\nmodel: {x: '${model}'}", None),
    "nothing": ("x: ${", None),
    "what doubles": ("x: ${b20}\nb0: xxxxxxxxxxxx\n%s" % "\n".join(
        f"b{i}: '${{b{i - 1}}}${{b{i - 1}}}'" for i in range(1, 21)), None),
    "many of many": ("x: ${b8}\nb0: 1\n%s" % "\n".join(
        f"b{i}: '{f'${{b{i - 1}}}' * 20}'" for i in range(1, 9)), None),
    "a default": ("x: '${oc.select:y,[1,2.5]}'", [1, 2.5]),
    "a name made of another": ("x: ${a.${b}.1}\nb: c\na: {c: [1, 2]}", 2),
    "a chain": ("x: ${y}\ny: ${z}\nz: 3", 3),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_references(monkeypatch, kind):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    text, value = BOMBS[kind]
    start = time.process_time()
    read = without_references(yaml_mapping(text))
    assert read["x"] == value and "hunter2" not in str(read["x"])
    assert time.process_time() - start < 1


def test_thousands_of_references(tmp_path):
    text = "model: {embed_dim: 8, num_heads: 2}\n"
    text += "".join(f"b{i}: '${{b{max(i - 1, 0)}}}${{b{max(i - 1, 0)}}}'\n" for i in range(2000))
    (tmp_path / "config.yaml").write_text(text)
    start = time.process_time()
    assert run_facts(str(tmp_path / "model"), 8) == {"num_heads": 2}
    assert time.process_time() - start < 5


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large"])
def test_no_configuration(tmp_path, kind):
    path = tmp_path / "config.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("model: {embed_dim: 8}\n#" + "x" * 2**20)
    assert run_config(str(tmp_path / "model"), 8) is None
