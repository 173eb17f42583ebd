"""What all commands have in common: --help, real examples, one line and status 1 for a mistake."""
import importlib
import importlib.util
import os
import re
import shlex
import subprocess

import pytest

from projects.MAE.command_line import SHARED
from tests.support.command import ROOT, environment
from tests.commands import process
from tests.commands.process import refused
from tests.commands.workplace import commands_of, make_workplace

MAE = ROOT / "projects" / "MAE"
# {what stands behind `python -m projects.MAE.`: the file}
COMMANDS = {
    ".".join(p for p in file.relative_to(MAE).with_suffix("").parts if p != "__main__"): file
    for file in sorted(MAE.rglob("*.py"))
    if file.stem != "command_line" and "CommandParser(" in file.read_text()
}


def module(name):
    parts = COMMANDS[name].relative_to(ROOT).with_suffix("").parts
    return importlib.import_module(".".join(parts))


def help_of(name, capsys):
    with pytest.raises(SystemExit) as ended:
        module(name).main(["--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_commands_are_found():
    found = {"convert_weights", "extract_features", "plan", "predict", "report", "digits"}
    assert found <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, capsys):
    text = help_of(name, capsys)
    assert text.startswith(f"usage: python -m projects.MAE.{name} ")
    assert max(map(len, text.splitlines())) <= 100
    examples = commands_of(text[text.index("examples:") :])
    mine = [line for line in examples if line.startswith(f"python -m projects.MAE.{name} ")]
    assert mine, "no example of the command"
    for line in mine:
        # Wildcards are the shell's; here they are a file name like any other.
        module(name).parse_arguments(shlex.split(line)[3:])


@pytest.mark.parametrize("name", COMMANDS)
def test_shared_options_have_one_name(name):
    """An option that several commands have is taken from `SHARED`, not defined anew."""
    source = COMMANDS[name].read_text()
    own = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source)
    assert not set(own) & set(SHARED)


@pytest.mark.parametrize("name", COMMANDS)
def test_mistakes_are_one_line(name, capsys):
    for arguments in ([], ["--no-such-option"]):
        assert module(name).main(arguments) == 1
        out, error = capsys.readouterr()
        assert out == "" and error.startswith("error: ") and error.count("\n") == 1
        assert "see --help" in error


@pytest.mark.parametrize(
    "name, option, least",
    [
        ("extract_features", "--num-workers", 0),
        ("extract_features", "--batch-size", 1),
        ("extract_features", "--block", 1),
        ("extract_features", "--num-heads", 1),
        ("predict", "--num-workers", 0),
        ("predict", "-k", 1),
        ("visualize", "--num-images", 1),
        ("visualize", "--decoder-num-heads", 1),
        ("visualize", "--seed", 0),
    ],
)
def test_whole_numbers(name, option, least, capsys):
    others = dict(extract_features=["--images", "a", "--out", "b"], predict=["a"], visualize=[])
    arguments = ["--weights", "w", *others[name], option]
    parsed = module(name).parse_arguments([*arguments, str(least)])
    assert vars(parsed)[option.lstrip("-").replace("-", "_")] == least
    for wrong in (str(least - 1), "-1", "1.5", "many", ""):
        error = refused(capsys, module(name).main, *arguments, wrong)
        assert option in error and f"{wrong!r}" in error and "whole number" in error


@pytest.mark.parametrize("name", COMMANDS)
def test_help_as_a_process_is_quick_and_quiet(name):
    """Without OneFlow, that is: a module that fails to import stands in its place."""
    broken = ROOT / "tests" / "commands" / "without_oneflow"
    env = dict(environment(), PYTHONPATH=f"{broken}:{ROOT}")
    status, out, error = process.run(name, "--help", env=env)
    assert (status, error) == (0, "") and "examples:" in out


@pytest.mark.parametrize("script", ["quickstart", "setup", "train"])
def test_help_of_the_scripts(script):
    command = ["bash", ROOT / "tools" / f"{script}.sh", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: bash tools/{script}.sh ")
    examples = result.stdout[result.stdout.index("example") :]
    assert f"  bash tools/{script}.sh" in examples


@pytest.fixture(scope="module")
def workplace(golden, tmp_path_factory):
    return make_workplace(golden, tmp_path_factory.mktemp("workplace"))


def needs_pytorch(line):
    writes_pth = re.search(r"\S+\.pth --to mae", line)
    return writes_pth and importlib.util.find_spec("torch") is None


def run_there(workplace, *command):
    """Run a command in the workplace; it must succeed without a word on stderr. Returns stdout."""
    path = f"{workplace / 'bin'}:{os.environ['PATH']}"
    result = subprocess.run(
        command,
        cwd=workplace,
        env=dict(environment(), PATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stderr) == (0, ""), command
    return result.stdout


@pytest.mark.parametrize(
    "name", ["convert_weights", "digits", "extract_features", "plan", "predict"]
)
def test_examples_run(name, workplace):
    for line in commands_of(module(name).EXAMPLES):
        assert needs_pytorch(line) or run_there(workplace, "bash", "-c", line)


def test_what_the_docs_show_runs(workplace):
    blocks = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "docs/features.md").read_text(), re.S)
    assert [language for language, _ in blocks] == ["bash", "python", "bash"]
    for language, text in blocks:
        if language == "bash":
            for line in commands_of(text):
                (workplace / "features.npz").unlink(missing_ok=True)  # of an example of --help
                assert run_there(workplace, "bash", "-c", line)
        else:
            shape = run_there(workplace, "python", "-c", text + "\nprint(features.shape)")
            assert shape == "(1, 32)\n"  # of the tiny weights
