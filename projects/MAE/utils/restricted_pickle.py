"""Reads the pickles inside weight files without running anything they name.

A pickle is a program whose instructions may call any function. This interpreter knows the
instructions that build plain data, and calls nothing but the few functions its caller lists:
everything else a pickle names is refused before it could matter.
"""
import argparse
import collections
import io
import pickletools
import sys

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
# Those that carry a number in decimal digits, which Python takes the square of their count to read.
DIGITS = {"INT", "LONG", "FLOAT", "PUT", "GET"}
# {its byte: (name, what reads its value, None for an instruction without one)}
OPCODES = {
    code.code.encode("latin1"): (code.name, code.arg and code.arg.reader)
    for code in pickletools.opcodes
}
MARK, UNSET = object(), object()
DEEPEST = 100  # levels of containers
# What a pickle may cost. One of ViT-Huge's weights with an optimizer's state, some thousand tensors,
# has half a megabyte, which makes some twelve.
LONGEST = 1 << 23  # bytes of a pickle; the numbers of tensors lie outside it
MOST_BYTES = 48 << 20  # made of it, by a cautious estimate
INSTRUCTION, OBJECT, PAIR = 128, 512, 128  # bytes that one makes at most, besides its text
LONGEST_NUMBER = 256  # bits of a whole number, and characters of one in digits
# Keys that are numbers may be chosen so that a dictionary compares each with all others; texts not,
# as Python hashes them with a secret. In units of a step to the next place in a dictionary.
MOST_STEPS = 100_000_000
COMPARISON = 32  # of two numbers of one hash
PLAIN_HASH = 1 << 60  # whole numbers below are their own hash
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
            stands for the class or function of that name; it is called with the pickled arguments,
            and makes no more than some times what these are. OrderedDict is always known.
            Where it returns a `Built`, the object's state goes to its `take`; other states (the
            attributes of a dict, say) are dropped.
        persistent: called with the identifiers of objects stored outside the pickle.

    Raises:
        UserError: the pickle names anything else, costs more than a file of weights does, or is
            damaged.
    """
    try:
        check_length(len(data), source)
        value = _Machine(source, known, persistent).run(data)
        check_extent(value, SHARED * len(data))
        return value
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"its list of contents is damaged ({error})", path=source) from None


def check_length(count, source):
    """Raise a UserError where a pickle of so many bytes is too long to be read."""
    if count > LONGEST:
        what = f"refused: its list of contents has {count} bytes, more than {LONGEST}"
        way_out = "are NumPy arrays in it? save them as tensors, which lie outside it"
        raise UserError(what, path=source, way_out=way_out)


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
        if not isinstance(part, (dict, list, tuple)) or not part:
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


class _Machine:
    """The stack machine of the pickle protocols 0 to 4, as far as plain data needs it."""

    def __init__(self, source, known, persistent):
        self.source, self.persistent = source, persistent
        self.known = {"collections.OrderedDict": self.ordered_dict, **known}
        self.stack, self.memo, self.states = [], [], {}
        self.bytes = self.steps = self.done = 0

    def run(self, data):
        file = io.BytesIO(data)
        while True:
            name, reader = OPCODES.get(file.read(1), (None, None))
            if name is None:
                raise ValueError("no end, or an unknown instruction")
            if name == "STOP":
                return self.stack.pop()
            if name in DIGITS and data.find(b"\n", file.tell(), file.tell() + LONGEST_NUMBER) < 0:
                raise ValueError("a number without an end")
            self.done += 1
            self.spend(INSTRUCTION)
            self.step(name, reader(file) if reader else None)

    def spend(self, count):
        """Note bytes that are made."""
        self.bytes += count
        if self.bytes > MOST_BYTES:
            raise UserError("refused: it makes far more than a list of tensors", path=self.source)

    def step(self, code, argument):
        stack = self.stack
        if code in VALUES:
            self.spend(sys.getsizeof(argument))
            if isinstance(argument, int) and argument.bit_length() > LONGEST_NUMBER:
                raise ValueError(f"a number of {argument.bit_length()} bits")
            stack.append(argument)
        elif code in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memorize(len(self.memo) if code == "MEMOIZE" else argument, stack[-1])
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            if argument < 0 or self.memo[argument] is UNSET:
                raise ValueError("it repeats what is not there")
            stack.append(self.memo[argument])
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
            stack.append(items if code == "LIST" else self.fill({}, items))
        elif code in ("APPEND", "APPENDS"):
            items = self.pop(1) if code == "APPEND" else self.pop_to_mark()
            self.container(list).extend(items)
        elif code in ("SETITEM", "SETITEMS"):
            items = self.pop(2) if code == "SETITEM" else self.pop_to_mark()
            self.fill(self.container(dict), items)
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
                self.spend(_size(state))
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

    def memorize(self, place, value):
        """In a list, as places are numbers that a dictionary might have to compare. Python counts
        them up from 0 or 1."""
        if not 0 <= place <= self.done:
            raise ValueError("it keeps a value at no place of its list")
        self.memo.extend([UNSET] * (place + 1 - len(self.memo)))
        self.memo[place] = value

    def fill(self, target, items):
        """A dict with keys and values in turn put into it."""
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2]):
            if isinstance(plain_key(key), (int, float)):
                is_plain = isinstance(key, int) and abs(key) < PLAIN_HASH
                self.steps += len(target) * (1 if is_plain else COMPARISON)
                if self.steps > MOST_STEPS:
                    raise UserError("refused: too many numbers are keys in it", path=self.source)
            target[key] = value
        return target

    def ordered_dict(self, pairs=()):
        """collections.OrderedDict of no argument, or of a list of pairs."""
        self.spend(len(pairs) * PAIR)
        items = [part for key, value in pairs for part in (key, value)]
        return self.fill(collections.OrderedDict(), items)

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
        self.spend(OBJECT)
        made = function(*arguments)
        if isinstance(made, Built):
            self.states[id(made.value)] = made  # keeps the value, so that its id stays its own
            made = made.value
        self.spend(_size(made))
        self.stack.append(made)


def _size(value):
    """About the bytes of a value, without what is in it."""
    if isinstance(value, dict):
        return PAIR * len(value)
    return sys.getsizeof(value) if isinstance(value, (str, bytes, list, tuple)) else OBJECT
