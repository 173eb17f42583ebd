"""README and docs: every command runs, or stands below with the reason why not; names are right.

Training commands run with a tiny model on as few ranks as can be; as they stand, with their ranks
and sizes, their options, keys and layout are checked.
"""
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from projects.MAE import plan
from projects.MAE.monitor.writers import build_writers
from projects.MAE.settings.load import load_config
from tests.documents import pages as documents
from tests.support.command import ROOT
from tests.documents.workplace import CLASSES, TRAIN, Workplace, check_at_full_size

PAGES = documents.pages()
CONFIGS = sorted((ROOT / "projects/MAE/configs").glob("*.py"))
# Commands that are not run here: what they look like, and why.
NOT_RUN = {
    r"bash tools/setup\.sh( \w+)?": "installs gigabytes; CI begins with it, see tests/runs/test_setup.py",
    r"bash tools/test\.sh( .*)?": "these tests are what it runs",
    r"python3 benchmarks/train_step\.py.*": "half an hour, and downloads PyTorch",
    r"python3 benchmarks/gpu_kernels\.py": "needs a GPU and PyTorch",
    r"\.venv/bin/python tests/soak/kill_resume\.py": "hours; see tests/runs/test_kills.py",
    r"\.venv/bin/python benchmarks/loader\.py": "needs torchvision, and minutes",
    r"\.venv/bin/tensorboard --logdir output": "never ends, see tests/unit/monitor/test_tensorboard.py",
    r"NODE=2 .*": "needs two machines, see tests/runs/test_two_nodes.py",
    r"ss .*": "fails where no Python listens; tests/runs/test_ports.py looks at a run's own ports",
}
# Python that is not run: how it begins, and why.
PYTHON_NOT_RUN = {
    "timm.create_model(": "needs timm and weights of full size, see tests/peers/test_authors_and_transformers.py",
    "torch.save(": "needs a file of before PyTorch 1.6",
}
# Files that are there after a run only.
MADE = ("benchmarks/.peer", "benchmarks/results.json", "projects/MAE/configs/mine.py")
PEERS_FILES = ("tests/models/vit_mae",)  # of transformers


def reason_not_to_run(command):
    reasons = [reason for pattern, reason in NOT_RUN.items() if re.fullmatch(pattern, command)]
    return reasons[0] if reasons else None


def needs_pytorch(command):
    writes_pth = re.search(r"\S+\.pth --to mae$", command)
    return writes_pth and importlib.util.find_spec("torch") is None


def run_all(workplace, page, done=()):
    """Run the commands of a page, in order, but those that are done; returns what was run."""
    ran = []
    workplace.write_configurations(PAGES[page])
    for command in documents.commands(PAGES[page]):
        text = command.text
        if text in [*done, *ran] or reason_not_to_run(text) or needs_pytorch(text):
            continue
        status, output = workplace.run(text)
        assert status == 0, f"{page}, line {command.line}: {text}\n{output}"
        ran.append(text)
    return ran


@pytest.fixture(scope="module")
def readme(image_folder, tmp_path_factory):
    """A workplace in which the README's commands were run, and these."""
    assert len(list((image_folder / "train").iterdir())) == CLASSES
    workplace = Workplace(tmp_path_factory.mktemp("readme"), image_folder)
    ran = run_all(workplace, "README.md")
    workplace.write_authors_weights()
    return workplace, ran


def test_the_readmes_commands_make_what_it_says(readme):
    workplace, ran = readme
    assert len(ran) > 8
    for name in ("digits.png", "features.npz", "vit.safetensors", "output/quickstart/summary.json"):
        assert (workplace.folder / name).stat().st_size > 0
    assert (workplace.folder / "output/mae_finetune/evaluation.json").exists()


WITH_COMMANDS = [page for page in PAGES if page != "README.md" and documents.commands(PAGES[page])]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_run(readme, page, tmp_path):
    run_all(Workplace(tmp_path, model=readme[0]), page, done=readme[1])


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in PAGES[page]])
def test_python_runs(readme, page):
    workplace = readme[0]
    for block in documents.blocks(PAGES[page]):
        if block.language != "python" or block.text.startswith(tuple(PYTHON_NOT_RUN)):
            continue
        if block.text.startswith("from ."):  # a configuration, to be put beside the others
            path = workplace.folder / "projects/MAE/configs/of_a_document.py"
            path.write_text(block.text)
            assert load_config(str(path), ["train.seed=1"]).train.seed == 1
        elif block.text.startswith("for writer in self.trainer.writers"):
            run_in_a_hook(block.text, workplace.folder / "output" / "of_a_hook")
        else:
            status, output = workplace.run_python(block.text)
            assert status == 0, f"{page}, line {block.line}\n{output}"


def run_in_a_hook(text, folder):
    """Run a part of a hook with the writers of a run whose output folder this is."""
    folder.mkdir()
    output = f"train.output_dir={folder}"
    trainer = SimpleNamespace(writers=build_writers(load_config(str(CONFIGS[0]), [output]).train))
    hook = SimpleNamespace(trainer=trainer)
    exec(text, dict(self=hook, iteration=7, pixels=np.zeros((8, 8, 3), np.uint8)))
    for writer in trainer.writers:
        writer.close()
    assert json.loads((folder / "metrics.json").read_text())["iteration"] == 7


def test_configurations_that_are_written_are_used():
    for page, text in PAGES.items():
        for name in documents.configurations(text):
            assert sum(name in command.text for command in documents.commands(text)) > 1, page


def test_nothing_is_excused_in_vain():
    commands = [c.text for text in PAGES.values() for c in documents.commands(text)]
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, command) for command in commands), pattern
    python = [b.text for t in PAGES.values() for b in documents.blocks(t) if b.language == "python"]
    for start in PYTHON_NOT_RUN:
        assert any(text.startswith(start) for text in python), start


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_in_a_block_that_says_so(page):
    assert not documents.hidden_commands(PAGES[page])


@pytest.mark.parametrize("page", PAGES)
def test_training_commands_fit_together_as_they_stand(page, tmp_path):
    configs = tmp_path / "projects/MAE/configs"
    shutil.copytree(ROOT / "projects/MAE/configs", configs)
    for name, text in documents.configurations(PAGES[page]).items():
        (tmp_path / name).write_text(text)
    for command in documents.commands(PAGES[page]):
        parts = documents.words(command.text)[1] if "|" not in command.text else []
        if parts[:3] == TRAIN:
            check_at_full_size(command.text, tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_python_and_scripts_are_well_formed(page):
    for block in documents.blocks(PAGES[page]):
        if block.language == "python":
            compile(block.text, page, "exec")
    for script in documents.scripts(PAGES[page]):
        result = subprocess.run(["bash", "-n"], input=script.text, capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")


def help_of(parts):
    """What the program of a command prints for --help; None where that can't be asked for."""
    if parts[:2] == ["bash", "tools/setup.sh"]:
        extras = re.findall(r'"(\w+)": \[', (ROOT / "setup.py").read_text())
        return " ".join(extras)
    if parts[0] == "bash":
        program = parts[:2]
    elif parts[1:2] == ["-m"] and parts[2].startswith("projects."):
        program = [sys.executable, *parts[1:3]]
    elif parts[1].startswith("benchmarks/"):
        program = [sys.executable, parts[1]]
    else:
        return None
    result = subprocess.run(
        [*program, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def not_run_and_inline():
    for page, text in PAGES.items():
        commands = [c.text for c in documents.commands(text) if reason_not_to_run(c.text)]
        for command in [*commands, *documents.inline_commands(text)]:
            if "|" not in command and documents.OWN.match(command):
                yield command


@pytest.mark.parametrize("command", sorted(set(not_run_and_inline())))
def test_programs_know_the_options_of_what_is_not_run(command):
    parts = documents.words(command)[1]
    if parts[:2] == ["bash", "tools/test.sh"] or parts[:3] == TRAIN or "tensorboard" in parts[0]:
        return  # pytest's own options; checked as it stands; somebody else's
    told = help_of(parts)
    if told is not None:
        options = parts[2:] if "setup" in parts[1] else [p for p in parts if re.match("--?[a-z]", p)]
        for option in options:
            assert option in ("-m", "--help") or option in told


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page):
    configs = [load_config(str(path)) for path in CONFIGS]
    for key in sorted(set(documents.settings(PAGES[page]))):
        for cfg in configs:
            parent, _, name = key.rpartition(".")
            node = OmegaConf.select(cfg, parent)
            if node is not None and (OmegaConf.is_list(node) or name in node):
                break
        else:
            pytest.fail(f"{page}: no configuration has {key}")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    for link in documents.links(PAGES[page]):
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in documents.anchors(target.read_text()), link


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page):
    for name in documents.files_named(PAGES[page]):
        assert name in (*MADE, *PEERS_FILES) or (ROOT / name).exists(), name


def test_quoted_messages_are_what_the_program_says():
    sources = [*ROOT.glob("projects/**/*.py"), *ROOT.glob("tools/*.sh")]
    text = "\n".join(path.read_text() for path in sources)
    text = re.sub(r'"\s*\n\s*f?"', "", text)  # strings that go on in the next line
    quotes = documents.quoted_messages(PAGES["docs/troubleshooting.md"])
    assert len(quotes) > 10
    for quote in quotes:
        assert quote in text, quote


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_that_layouts_take_is_what_plan_says(checkpointing, capsys):
    rows = re.findall(r"^\| (\dx\dx\d)( with ZeRO.*?)? \| (.*) \|$", PAGES["docs/layouts.md"], re.M)
    rows = [(layout, zero, cells.split(" | ")) for layout, zero, cells in rows if " (" in cells]
    assert len(rows) == 8
    planned = {}
    for zero in ("", "train.zero_optimization.enabled=True"):
        arguments = ["projects/MAE/configs/mae_pretraining.py", "8", "train.device=cuda", "--json"]
        arguments += [f"train.activation_checkpoint.enabled={checkpointing}"]
        arguments += [zero, "train.zero_optimization.stage=2"] if zero else []
        assert plan.main(arguments) == 0
        for size, model in enumerate(json.loads(capsys.readouterr().out)["models"]):
            for line in model["layouts"]:
                layout = f"{line['data']}x{line['tensor']}x{line['pipeline']}"
                planned[layout, bool(zero), size] = line["total"] / 2**30
    for layout, zero, cells in rows:
        for size, cell in enumerate(cells):
            figures = re.findall(r"\d+\.\d", cell)
            assert figures or (layout, bool(zero), size) not in planned
            if figures:
                stated = float(figures[checkpointing])
                assert abs(planned[layout, bool(zero), size] - stated) < 0.051, (layout, cell)


def test_the_index_names_every_page():
    linked = documents.links(PAGES["docs/README.md"])
    for page in PAGES:
        name = page[len("docs/") :] if page.startswith("docs/") else f"../{page}"
        assert page == "docs/README.md" or name in linked


def test_the_readme_is_short_enough_to_read():
    assert len(PAGES["README.md"].splitlines()) <= 150


PAGE = """Text with `bash tools/train.sh FILE` and `train.seed=0`, [a link](data.md#workers).

    bash tools/test.sh

```bash
# a comment
NODE=2 python -m projects.MAE.plan CONFIG \\
    --memory 24  # another
ls | wc -l
```

```bash
#!/bin/bash
bash tools/train.sh FILE &
wait $!
```
"""


def test_a_page_is_taken_apart():
    found = [(c.line, c.text) for c in documents.commands(PAGE)]
    assert found == [
        (7, "NODE=2 python -m projects.MAE.plan CONFIG --memory 24"),
        (9, "ls | wc -l"),
        (14, "bash tools/train.sh FILE"),
    ]
    assert documents.inline_commands(PAGE) == ["bash tools/train.sh FILE"]
    assert documents.hidden_commands(PAGE) == ["    bash tools/test.sh"]
    assert documents.settings(PAGE) == ["train.seed"]
    assert documents.links(PAGE) == ["data.md#workers"]
    assert documents.words("A=1 B=2 echo C=3") == ({"A": "1", "B": "2"}, ["echo", "C=3"])
    assert not any(reason_not_to_run(text) for _, text in found[1:])
