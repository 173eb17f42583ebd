"""A package imports only what stands below it, so that nobody has to read upwards."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "projects" / "MAE"
COMMANDS = {"convert_weights", "digits", "extract_features", "plan", "predict", "train_net", "visualize"}
# From the top down; those of one line know nothing of each other.
ORDER = [
    COMMANDS | {"configs"},
    {"__init__"},
    {"models"},
    {"engine"},
    {"report"},
    {"command_line"},
    {"evaluation"},
    {"settings"},
    {"weights"},
    {"checkpoint"},
    {"parallel"},
    {"monitor"},
    {"modeling"},
    {"optim"},
    {"data"},
    {"runtime"},
    {"utils"},
    {"errors"},
]
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}


def package_of(path):
    return Path(path.relative_to(PROJECT).parts[0]).stem


def imported(path):
    """(line, module) of every import in a file, in functions too, relative ones written out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            # A name may be a module: `from projects.MAE import errors`.
            base = package_path(path, node.level) + (node.module.split(".") if node.module else [])
            yield from ((node.lineno, [*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")) for alias in node.names)


def package_path(path, level):
    return list(path.relative_to(ROOT).parts[:-level]) if level else []


def climbs(path):
    """The imports of a file that lead up, or across."""
    own = package_of(path)
    for line, module in imported(path):
        if module[:2] != ["projects", "MAE"]:
            continue
        other = module[2] if len(module) > 2 and module[2] in LEVEL else "__init__"
        above = LEVEL[other] <= LEVEL[own] and other != own
        if above and not (other == "__init__" and len(module) < 4):  # only the project's own folder
            yield f"{path.relative_to(ROOT)}:{line} imports {'.'.join(module)}"


@pytest.mark.parametrize("package", sorted(LEVEL))
def test_a_package_imports_only_what_stands_below_it(package):
    files = [path for path in PROJECT.rglob("*.py") if package_of(path) == package]
    assert files, f"there is no projects/MAE/{package}"
    assert [climb for path in files for climb in climbs(path)] == []


def test_every_package_has_a_place_in_the_order():
    assert {package_of(path) for path in PROJECT.rglob("*.py")} == set(LEVEL)


def test_what_is_left_in_utils_knows_nothing_of_models():
    words = ("oneflow", "libai", "mae", "vit")
    for path in (PROJECT / "utils").glob("*.py"):
        modules = {module[0] for _, module in imported(path)}
        assert not modules & set(words), path


@pytest.mark.parametrize("folder", ["benchmarks", "tools", "projects"])
def test_nothing_but_tests_imports_tests(folder):
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in (ROOT / folder).rglob("*.py")
        for line, module in imported(path)
        if module[0] == "tests"
    ]
    assert found == []
