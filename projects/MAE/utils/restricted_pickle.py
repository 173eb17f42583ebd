"""Reads the pickles inside weight files without running anything they name.

A pickle is a program whose instructions may call any function. This interpreter knows the
instructions that build plain data, and calls nothing but the few functions its caller lists:
everything else a pickle names is refused before it could matter.
"""
import argparse
import collections
import pickletools
from itertools import chain

from projects.MAE.errors import UserError

# Instructions that carry their value, and those that push an empty container or a constant.
VALUES = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "STRING",
}  # fmt: skip
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()
DEEPEST = 100  # levels of containers
# A container may stand in several places. This many values a byte of the pickle are believed; more
# are an attack on whoever walks through them: 60 pairs, each of the one before, are 2**60 values.
SHARED = 10


class Name:
    """A module's attribute that a pickle names; never imported."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __repr__(self):
        return f"{self.module}.{self.name}"


class Built:
    """An object, in the result `value`, that takes its state after it was made, as `take(state)`."""

    def __init__(self, value, take):
        self.value, self.take = value, take


def read_pickle(data, source, known, persistent=None):
    """The object that a pickle describes.

    Args:
        data: bytes of the pickle.
        source: names the file in errors.
        known: {"module.name": function, or None for a name that is only mentioned}. A function
            stands for the class or function of that name; it is called with the pickled arguments.
            Where it returns a `Built`, the object's state goes to its `take`; other states (the
            attributes of a dict, say) are dropped.
        persistent: called with the identifiers of objects stored outside the pickle.

    Raises:
        UserError: the pickle names anything else, or is damaged.
    """
    try:
        value = _Machine(source, known, persistent).run(data)
        check_extent(value, SHARED * len(data))
        return value
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"its list of contents is damaged ({error})", path=source) from None


def check_extent(value, most):
    """Raise a ValueError where dicts, lists, tuples and namespaces are nested too deep, as in
    themselves, or where walking through them finds more than `most` values.
    """
    done = {}  # id of a container: (values in it, levels)

    def extent(part, depth):
        if depth > DEEPEST:
            raise ValueError("nested too deep")
        if isinstance(part, argparse.Namespace):
            part = vars(part)
        if not isinstance(part, (dict, list, tuple)):
            return 1, 0
        if id(part) not in done:
            items = part.values() if isinstance(part, dict) else part
            below = [extent(item, depth + 1) for item in items]
            done[id(part)] = 1 + sum(n for n, _ in below), 1 + max((n for _, n in below), default=0)
        count, levels = done[id(part)]
        if depth + levels > DEEPEST or count > most:
            raise ValueError("nested too deep" if count <= most else "it repeats itself too often")
        return count, levels

    extent(value, 0)


def plain_key(key):
    """A dictionary's key; a ValueError for others than text, numbers and None: hashing a tuple of
    tuples of ... can take for ever."""
    if key is not None and not isinstance(key, (str, bytes, int, float)):
        raise ValueError(f"a dictionary has a {type(key).__name__} for a key")
    return key


def ordered_dict(*pairs):
    """collections.OrderedDict of no argument, or of a list of pairs."""
    return collections.OrderedDict((plain_key(key), value) for key, value in chain(*pairs))


class _Machine:
    """The stack machine of the pickle protocols 0 to 4, as far as plain data needs it."""

    def __init__(self, source, known, persistent):
        self.source, self.known, self.persistent = source, known, persistent
        self.stack, self.memo, self.states = [], {}, {}

    def run(self, data):
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("no end")

    def step(self, code, argument):
        stack = self.stack
        if code in VALUES:
            stack.append(argument)
        elif code in EMPTY:
            stack.append(EMPTY[code]())
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code == "MARK":
            stack.append(MARK)
        elif code in TUPLES:
            stack.append(tuple(self.pop(TUPLES[code])))
        elif code == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif code in ("LIST", "DICT"):
            items = self.pop_to_mark()
            stack.append(items if code == "LIST" else _pairs(items))
        elif code in ("APPEND", "APPENDS"):
            items = self.pop(1) if code == "APPEND" else self.pop_to_mark()
            self.container(list).extend(items)
        elif code in ("SETITEM", "SETITEMS"):
            items = self.pop(2) if code == "SETITEM" else self.pop_to_mark()
            self.container(dict).update(_pairs(items))
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif code == "GLOBAL":
            stack.append(self.named(*argument.split(" ", 1)))
        elif code == "STACK_GLOBAL":
            stack.append(self.named(*self.pop(2)))
        elif code in ("REDUCE", "NEWOBJ"):
            self.call(*self.pop(2))
        elif code == "BUILD":
            (state,) = self.pop(1)
            built = self.states.get(id(stack[-1]))
            if built:
                built.take(state)
        elif code == "BINPERSID" and self.persistent:
            stack.append(self.persistent(*self.pop(1)))
        elif code not in ("PROTO", "FRAME"):
            raise UserError(f"refused: it uses the pickle instruction {code}", path=self.source)

    def pop(self, count):
        if len(self.stack) < count:
            raise ValueError("values are missing")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_to_mark(self):
        items = []
        while self.stack[-1] is not MARK:
            items.append(self.stack.pop())
        self.stack.pop()
        return items[::-1]

    def container(self, kind):
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"no {kind.__name__} to fill")
        return self.stack[-1]

    def named(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        found = Name(module, name)
        if str(found) not in self.known:
            raise UserError(
                f"refused: it holds {found}, which reading would run; only files of "
                "tensors and plain values are read",
                path=self.source,
            )
        return found

    def call(self, name, arguments):
        function = self.known[str(name)] if isinstance(name, Name) else None
        if function is None or not isinstance(arguments, tuple):
            what = name if isinstance(name, Name) else f"a {type(name).__name__}"
            raise UserError(f"refused: it calls {what}", path=self.source)
        made = function(*arguments)
        if isinstance(made, Built):
            self.states[id(made.value)] = made  # keeps the value, so that its id stays its own
            made = made.value
        self.stack.append(made)


def _pairs(items):
    return {plain_key(key): value for key, value in zip(items[::2], items[1::2])}
