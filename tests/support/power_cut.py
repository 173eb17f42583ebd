"""What a power cut may leave of a folder, from the record of the calls that changed it.

The file system is POSIX's without any promise beyond it, stricter than ext4 in its ordered mode,
XFS or Btrfs:

- What was written to a file is certain up to its last fsync. Of each later write nothing, a part,
  zeros in its place or all may be there, and of several any of them.
- What happened to the names in a folder (create, mkdir, rename, link, symlink, unlink, rmdir) is
  certain up to the last fsync of that folder, not of the file. Of what happened later any part may
  be there, so that of two renames the second alone may be. One rename is atomic.
- What an fsync flushes is what was there when it was called, and certain when it has returned.

Of calls whose order is undone those are left out that can't be without others: a file moved by two
renames moves by the first, by both or not at all.
"""
import os
import subprocess
from collections import namedtuple
from pathlib import Path

from tests.support.needs import CC

Record = namedtuple("Record", "call thread path second number data")


def build_recorder(folder):
    """Compile record_calls.c; returns the library to preload."""
    library = folder / "record_calls.so"
    source = Path(__file__).with_name("record_calls.c")
    command = [CC, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run([str(part) for part in command], check=True)
    return library


def recording(library, below, log):
    """The environment variables that make a command and all that it starts record."""
    preload = os.environ.get("LD_PRELOAD")
    libraries = f"{library}:{preload}" if preload else str(library)
    return dict(LD_PRELOAD=libraries, RECORD_BELOW=os.path.realpath(below), RECORD_LOG=str(log))


def read_log(log):
    """The `Record`s of a log, in the order in which the calls returned."""
    content, place, records = log.read_bytes(), 0, []
    while place < len(content):
        fields = []
        for _ in range(6):
            end = content.index(b"\0", place)
            fields.append(content[place:end].decode())
            place = end + 1
        call, thread, path, second, number, count = fields
        data = content[place : place + int(count)]
        place += int(count)
        records.append(Record(call, int(thread), path, second, int(number), data))
    return records


class Node:
    """A file or a folder: what is certain of it, and the changes since, with the places in the log
    of their records."""

    def __init__(self, certain):
        self.certain, self.since = certain, []

    def flush(self, place):
        """Make certain what was there at a place in the log."""
        while self.since and self.since[0][0] < place:
            self.certain = self._with(self.certain, self.since.pop(0)[1])

    def now(self):
        """What a process sees."""
        state = self.certain
        for _, change in self.since:
            state = self._with(state, change)
        return state


class File(Node):
    """The state is bytes, a change (place, bytes), or (size, None) for cutting or extending."""

    def _with(self, state, change):
        begin, data = change
        if data is None:
            return state[:begin].ljust(begin, b"\0")
        return state[:begin].ljust(begin, b"\0") + data + state[begin + len(data) :]

    def left(self, rng, chances):
        """A state after a power cut; one of the chances is that of each uncertain change."""
        state = self.certain
        chance = rng.choice(chances)
        for _, (begin, data) in self.since:
            if rng.random() >= chance:
                how = rng.choice(("nothing", "zeros", "a part"))
                if data is None or how == "nothing":
                    continue
                data = bytes(len(data)) if how == "zeros" else data[: rng.randrange(len(data))]
            state = self._with(state, (begin, data))
        return state


class Folder(Node):
    """The state is {name: File, Folder or str, the target of a link}, a change (node, the name that
    it had or None, the name that it gets or None)."""

    def __init__(self, certain=()):
        super().__init__(dict(certain))
        self.names = dict(certain)  # `now`, for there are many changes
        self.settled = None  # what a power cut leaves, where nothing below is uncertain

    def change(self, place, *change):
        self.since.append((place, change))
        self.names = self._with(self.names, change)

    def _with(self, state, change):
        node, old, new = change
        if old is not None and state.get(old) is not node:
            return state  # it can't be without a change that is not there
        state = {name: other for name, other in state.items() if name != old}
        return state if new is None else {**state, new: node}

    def left(self, rng, chances):
        """A state after a power cut, as that of `File`."""
        state = self.certain
        chance = rng.choice(chances)
        for _, change in self.since:
            if rng.random() < chance:
                state = self._with(state, change)
        return state


class Disk:
    """A folder whose changes are read from a log; what is there at first is certain.

    Args:
        path: of the folder.
        tree: what `read_tree` gives.
    """

    def __init__(self, path, tree=None):
        self.path, self.place, self.fsyncs = os.path.realpath(path), 0, {}
        self.root = _nodes(tree or {})

    def at(self, path):
        """The node of a path, None where nothing is there."""
        node = self.root
        for name in filter(None, path[len(self.path) :].split("/")):
            if isinstance(node, Folder):
                node.settled = None  # for whoever looks there may change it
                node = node.names.get(name)
            else:
                node = None
        return node

    def apply(self, record):
        """Go on to after the next record of the log."""
        self.place += 1
        if record.path.endswith(" (deleted)"):
            return  # an open file that has no name any more
        folder, name = self.at(os.path.dirname(record.path)), os.path.basename(record.path)
        node = self.at(record.path)
        if record.call == "open":
            if node is None:
                folder.change(self.place, File(b""), None, name)
            elif record.number:
                node.since.append((self.place, (0, None)))
        elif record.call == "write":
            node.since.append((self.place, (record.number, record.data)))
        elif record.call == "truncate":
            node.since.append((self.place, (record.number, None)))
        elif record.call == "fsync":
            self.fsyncs[record.thread] = (node, self.place)
        elif record.call == "fsynced":
            flushed, place = self.fsyncs.pop(record.thread)
            flushed.flush(place)
        elif record.call == "mkdir":
            folder.change(self.place, Folder(), None, name)
        elif record.call == "symlink":
            folder.change(self.place, record.data.decode(), None, name)
        elif record.call == "unlink":
            folder.change(self.place, node, name, None)
        elif record.call == "link":
            new = self.at(os.path.dirname(record.second))
            new.change(self.place, node, None, os.path.basename(record.second))
        elif record.call == "rename":
            # A rename from one folder to another would have to be certain in both.
            assert os.path.dirname(record.second) == os.path.dirname(record.path), record
            folder.change(self.place, node, name, os.path.basename(record.second))
        else:
            raise ValueError(record.call)

    def tree(self, path=None):
        """What a process sees, as `read_tree`; None where nothing is there."""
        node = self.at(path or self.path)
        return None if node is None else _seen(node)

    def after_power_cut(self, rng):
        """A tree that a power cut may leave, as `read_tree`."""
        chances = (0, 0.2, 0.5, 0.8, 1)
        # The same for all folders, and for all files, or another for each.
        names, data = (rng.choice((chances, (rng.choice(chances),))) for _ in range(2))
        return _left(self.root, rng, names, data)


def _nodes(tree):
    if isinstance(tree, dict):
        return Folder({name: _nodes(part) for name, part in tree.items()})
    return File(tree) if isinstance(tree, bytes) else tree


def _seen(node):
    if isinstance(node, Folder):
        return {name: _seen(part) for name, part in node.names.items()}
    return node if isinstance(node, str) else node.now()


def _left(node, rng, names, data):
    if isinstance(node, str):
        return node
    if isinstance(node, File):
        return node.left(rng, data)
    if node.settled is not None:
        return node.settled
    tree = {n: _left(part, rng, names, data) for n, part in node.left(rng, names).items()}
    if not node.since and all(map(_is_settled, node.certain.values())):
        node.settled = tree
    return tree


def _is_settled(node):
    if isinstance(node, Folder):
        return node.settled is not None
    return isinstance(node, str) or not node.since


def read_tree(folder):
    """A folder as {name: bytes of a file, str of a link's target, dict of a folder}."""
    tree = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                tree[entry.name] = os.readlink(entry.path)
            elif entry.is_dir():
                tree[entry.name] = read_tree(entry.path)
            else:
                with open(entry.path, "rb") as file:
                    tree[entry.name] = file.read()
    return tree


def write_tree(tree, folder, pool=None):
    """Make a folder of a tree.

    Args:
        pool: a `Pool`, whose files get more names in checkpoints, where none is changed in place.
    """
    os.mkdir(folder)
    for name, part in tree.items():
        path = os.path.join(folder, name)
        if isinstance(part, dict):
            write_tree(part, path, pool)
        elif isinstance(part, str):
            os.symlink(part, path)
        elif pool and "/model_" in path.replace("/.model_", "/model_"):
            os.link(pool.file(part), path)
        else:
            Path(path).write_bytes(part)


class Pool:
    """Files by their content, so that a thousand trees cost little more than one."""

    def __init__(self, folder):
        self.folder, self.paths = folder, {}

    def file(self, content):
        """The path of a file of that content, for nobody to change."""
        if content not in self.paths:
            self.paths[content] = os.path.join(self.folder, str(len(self.paths)))
            with open(self.paths[content], "wb") as file:
                file.write(content)
        return self.paths[content]
