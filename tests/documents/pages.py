"""Takes README.md and docs/*.md apart: commands, links, names of files, settings and messages."""
import collections
import re
import shlex

from tests.support.command import ROOT

Block = collections.namedtuple("Block", "line language text")
Command = collections.namedtuple("Command", "line text")
Command.__doc__ = """A command as the shell gets it, comments cut off, and the number of its line."""

# What a command of this project begins with, after variables of the environment.
OWN = re.compile(
    r"(?:[A-Z_]+=\S+ )*"
    r"(?:bash (?:tools|csrc)/|(?:\S*/)?python3? (?:-m |benchmarks/|tools/|-c )|\.venv/bin/)"
)
TOP_LEVEL = ("README.md", "CONTRIBUTING.md", "LICENSE", "setup.py", "constraints.txt")
FOLDERS = ("projects/", "tests/", "tools/", "benchmarks/", "csrc/", "docs/")


def pages():
    """{path from the repository's root: text}, README.md first."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def blocks(text):
    """The fenced blocks of a page."""
    found, inside = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("```"):
            if inside is not None:
                inside[2].append(line)
        elif inside is None:
            inside = (number + 1, line[3:].strip(), [])
        else:
            found.append(Block(inside[0], inside[1], "\n".join(inside[2])))
            inside = None
    assert inside is None, f"the block that begins in line {inside[0]} has no end"
    return found


def configurations(text):
    """{path: Python} of the configurations that a page has its reader write: the line before such a
    block ends with the name of the file."""
    lines, found = text.splitlines(), {}
    for block in blocks(text):
        above = " ".join(lines[: block.line - 2]).rstrip()
        name = re.search(r"`(projects/MAE/configs/\w+\.py)`:$", above)
        if name and block.language == "python":
            found[name.group(1)] = block.text + "\n"
    return found


def commands(text):
    """Every command of the bash blocks of a page, as a reader would paste it."""
    return [c for block in blocks(text) if block.language == "bash" for c in _commands_of(block)]


def _commands_of(block):
    """Of a whole script (#!) those of this project, else all."""
    is_script, start, parts = block.text.startswith("#!"), None, []
    for number, line in enumerate(block.text.splitlines(), block.line):
        start = number if not parts else start
        parts.append(line.rstrip("\\").strip())
        if line.endswith("\\"):
            continue
        text, parts = _without_comment(" ".join(parts)), []
        if text and (not is_script or OWN.match(text)):
            yield Command(start, text.rstrip("& ") if is_script else text)


def _without_comment(line):
    return re.sub(r"(^|\s)#.*$", "", line).strip()


def scripts(text):
    """The bash blocks that are whole scripts."""
    return [b for b in blocks(text) if b.language == "bash" and b.text.startswith("#!")]


def inline_commands(text):
    """Commands of this project in running text, between backticks."""
    return [span for span in inline_code(text) if OWN.match(span)]


def hidden_commands(text):
    """Lines that look like commands of this project where nobody would take them for ones to run."""
    others = [b for b in blocks(text) if b.language not in ("bash", "python")]
    lines = [line for block in others for line in block.text.splitlines()]
    lines += [line for line in prose(text).splitlines() if line.startswith("    ")]
    return [line for line in lines if OWN.match(line.strip())]


def prose(text):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def inline_code(text):
    """What stands between backticks in running text, line breaks as spaces."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def links(text):
    """Targets of the links and pictures of a page that lead to this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [t for t in targets if not re.match(r"[a-z]+:", t)]


def anchors(text):
    """The places of a page that a link can name, as GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]


def files_named(text):
    """Paths of this repository that running text and commands name."""
    words = [w for span in inline_code(text) for w in span.split()]
    words += [w for c in commands(text) for w in c.text.split()]
    named = [w.rstrip(",.:;") for w in words if w.startswith(FOLDERS) or w in TOP_LEVEL]
    return [w for w in named if not re.search(r"[{}<>*]|\.\.\.|NNN", w)]


def settings(text):
    """Keys of the configuration, and options, that running text names: `train.seed=0`, `--resume`."""
    key = r"(?<![\w./-])((?:train|model|dataloader|finetune|graph|optim|data|vit)\.[a-z_][\w.]*)"
    spans = [s for s in inline_code(text) if not OWN.match(s)]
    found = [k for span in spans for k in re.findall(key, span)]
    return [k for k in found if not re.search(r"\.(py|md|pth|json|html|safetensors|yaml)$", k)]


def quoted_messages(text):
    """What a page says that the program says: bold text in quotation marks, cut at the dots."""
    bold = re.findall(r"\*\*(.+?)\*\*", prose(text), re.S)
    quotes = [" ".join(q.split()) for b in bold for q in re.findall(r'"([^"]+)"', b)]
    pieces = [piece.strip() for q in quotes for piece in q.split("...")]
    return [piece for piece in pieces if piece]


def words(command):
    """(environment, words) of a command without pipes."""
    parts = shlex.split(command)
    names = [p for p in parts if re.fullmatch(r"[A-Z_]+=\S*", p)]
    names = names[: next((i for i, p in enumerate(parts) if p not in names), len(names))]
    return dict(n.split("=", 1) for n in names), parts[len(names) :]
