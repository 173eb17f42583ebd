"""Reads small files that a stranger may have made: JSON, YAML and text beside weights and runs.

Nothing is opened but regular files, nothing is believed about their size, and what is in them is
plain values: no object is made, no reference to another place or to the environment followed.
"""
import errno
import json
import os
import stat

import yaml

from projects.MAE.errors import UserError, is_in

LARGEST_JSON = 1 << 22  # bytes; a card with ImageNet-21k's names of classes has a sixth
LARGEST_YAML = 1 << 16  # bytes; a run's has 6,000, and PyYAML may read 30,000 in a second
DEEPEST_YAML = 40  # levels
LONGEST_YAML_NUMBER = 40  # characters
LONGEST_NUMBER = 400  # digits: more are above what a float can hold


def open_regular(path, folder=None):
    """Open a file to read its bytes.

    Args:
        folder: the file must lie in it, links followed.

    Raises:
        OSError: it is missing, or can't be read. Of the kind of a missing file where it is a folder,
            pipe, socket or device, which is not opened: opening alone may wait, or do something.
        UserError: it lies outside the folder.
    """
    if folder is not None and not is_in(os.path.realpath(path), os.path.realpath(folder)):
        raise UserError(f"refused: it leads out of {folder}", path=path)
    return open(path, "rb", opener=_open_regular)


def _open_regular(path, flags):
    _check_regular(os.stat(path), path)
    handle = os.open(path, flags | os.O_NONBLOCK)  # a pipe that was put there just now
    try:
        _check_regular(os.fstat(handle), path)
    except OSError:
        os.close(handle)
        raise
    return handle


def _check_regular(found, path):
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EISDIR, "not a regular file", os.fspath(path))


def read_text(path, most, folder=None):
    """A text file's content, bytes that are no UTF-8 replaced; errors as of `open_regular`, and a
    UserError where it has more than `most` bytes."""
    with open_regular(path, folder) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"refused: it has more than {most} bytes", path=path)
    return data.decode("utf-8-sig", "replace")  # some editors begin it with a mark


def parse_json(text):
    """The value of a JSON text; a ValueError where it is none. A whole number that no float holds is
    infinite: reading its digits would take the square of their count."""
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _whole_number(digits):
    return int(digits) if len(digits) <= LONGEST_NUMBER else float(digits)


def json_object(text):
    """The dict that a JSON text is, None for any other."""
    try:
        content = parse_json(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def yaml_mapping(text):
    """The dict that a YAML text is, of dicts with texts for keys, lists, texts, numbers, bools, None.

    Interpolations stay the texts that they are. None stands for Python's objects, and for what
    repeats another place: ten lines of such fill any memory.

    Raises:
        ValueError: no YAML, no mapping, or nested too deep.
    """
    try:
        content = yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise ValueError(f"no plain YAML ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ValueError("no YAML mapping")
    return content


class _PlainLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            self.get_event()
            return yaml.ScalarNode("tag:yaml.org,2002:null", "")
        self.depth += 1
        if self.depth > DEEPEST_YAML:
            raise yaml.YAMLError("nested too deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def mapping(self, node):
        """Keys are texts: numbers may be chosen so that a dict compares each with all others."""
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        return {
            str(key.value): self.construct_object(value, deep=True)
            for key, value in pairs
            if isinstance(key, yaml.ScalarNode)
        }

    def sequence(self, node):
        return self.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []

    def number(self, node):
        """A number; a text where it has more digits than one of a configuration, or is none."""
        text = self.text(node)
        if not text or len(text) > LONGEST_YAML_NUMBER or ":" in text:  # of base 60
            return text
        try:
            make = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
            return make(node)
        except (ValueError, IndexError):  # a sign alone
            return text

    def truth(self, node):
        text = self.text(node)
        return text and self.bool_values.get(text.lower(), text)

    def text(self, node):
        return node.value if isinstance(node, yaml.ScalarNode) else None


_PlainLoader.yaml_constructors = {}
_PlainLoader.yaml_multi_constructors = {}
for _kind, _make in {
    "map": _PlainLoader.mapping,
    "seq": _PlainLoader.sequence,
    "int": _PlainLoader.number,
    "float": _PlainLoader.number,
    "bool": _PlainLoader.truth,
    "null": lambda *unused: None,
    "str": _PlainLoader.text,
    "timestamp": _PlainLoader.text,
}.items():
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _make)
# LiBai writes classes and functions with tags of Python's.
_PlainLoader.add_constructor(None, lambda *unused: None)
