"""A pickle reader that knows plain data and numpy arrays, and nothing else.

A pickle is a program for a machine that may call whatever function it names. This machine calls none: of the few names
that arrays need it keeps the text, makes the array itself once its parts are there and fit together, and refuses every
other name. So no constructor of numpy's sees what the pickle says, of which some trust it with their memory.

Nothing is made that is larger than the pickle: not by claims of size, and not by the same list in many places.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.errors import DamagedFileError, UnsafeFileError
from emphasis.errors import EmphasisValueError

_ARRAY, _MAKE_ARRAY, _DTYPE, _ENCODE = "array", "make array", "dtype", "encode"
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _MAKE_ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _MAKE_ARRAY,
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("_codecs", "encode"): _ENCODE,  # which newer pickles of protocol 2 use to write bytes, always as latin1
}
"""Everything a pickle may name, and what it stands for."""

_DEEPEST = 64  # containers within each other
_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")
_VALUES = frozenset(
    [
        "INT",
        "LONG",
        "LONG1",
        "LONG4",
        "BININT",
        "BININT1",
        "BININT2",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    ]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """A name of `ALLOWED`."""

    meaning: str


class _Dtype:
    """Stands for a dtype: its code, such as "i8", and the order of its bytes."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="


class _Array:
    """Stands for an array; `values` are there once its content has been met."""

    values: NDArray[Any] | None = None


class _Item(NamedTuple):
    """An item of the stack: a value, the number and depth of all values in it, and whether it is plain data."""

    value: Any
    size: int = 1
    depth: int = 0
    plain: bool = True


def loads(content: bytes, source: str) -> Any:
    """Return the object that a pickle of plain data and numpy arrays holds; Python 2's strings become str.

    Arrays of truth values, whole numbers and floats are known, and are views of the pickle, which cannot be written to.

    Args:
        content: The pickle.
        source: Name of the source in errors.

    Raises:
        UnsafeFileError: It names anything but `ALLOWED`, or has an instruction to call something; nothing was run.
        DamagedFileError: It is cut off or no pickle, or holds more than plain data.
    """
    return load(BytesIO(content), len(content), source)


def load(file: IO[bytes], size: int, source: str) -> Any:
    """Return the object of the pickle at the position of `file`, which may be followed by others.

    Args:
        file: The file.
        size: Size of the file in bytes.
        source: Name of the source in errors.

    Raises:
        UnsafeFileError, DamagedFileError: See `loads`.
    """
    try:
        return _Machine(size).run(pickletools.genops(file))
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{source} is refused: {error}; get it from its official source") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise DamagedFileError(f"{source} is cut off or no pickle ({error}); get it again") from error


class _Machine:
    """The stack and the memory of one pickle of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.stack: list[_Item] = []
        self.marks: list[int] = []
        self.memory: dict[int, _Item] = {}
        self.largest = size  # limit of the number of values
        self.made = 0  # number of copied bytes

    def run(self, operations: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
        """Run the program and return its result."""
        for operation, argument, _ in operations:
            name = operation.name
            if name in _VALUES:
                self.stack.append(_Item(argument))
            elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
                self.memory[len(self.memory) if name == "MEMOIZE" else argument] = self.stack[-1]
            elif name in _CONSTANTS:
                self.stack.append(_Item(_CONSTANTS[name]))
            elif name in _TUPLES:
                self.push_tuple(self.pop(_TUPLES[name]))
            elif name not in ("PROTO", "FRAME", "STOP"):
                self.step(name, argument)
        (last,) = self.stack
        return self.plain(last).value

    def step(self, name: str, argument: Any) -> None:
        """Run a less frequent instruction."""
        match name:
            case "MARK":
                self.marks.append(len(self.stack))
            case "GET" | "BINGET" | "LONG_BINGET":
                self.get(argument)
            case "EMPTY_LIST":
                self.stack.append(_Item([]))
            case "EMPTY_DICT":
                self.stack.append(_Item({}))
            case "TUPLE":
                self.push_tuple(self.pop_to_mark())
            case "LIST":
                items = self.pop_to_mark()
                self.stack.append(_Item([]))
                self.extend(items)
            case "APPEND" | "APPENDS":
                self.extend(self.pop(1) if name == "APPEND" else self.pop_to_mark())
            case "DICT":
                items = self.pop_to_mark()
                self.stack.append(_Item({}))
                self.update(items)
            case "SETITEM" | "SETITEMS":
                self.update(self.pop(2) if name == "SETITEM" else self.pop_to_mark())
            case "GLOBAL" | "STACK_GLOBAL":
                self.push_name(*(argument.split(" ", 1) if name == "GLOBAL" else [i.value for i in self.pop(2)]))
            case "REDUCE":
                self.reduce(*self.pop(2))
            case "BUILD":
                self.build(*self.pop(2))
            case _:
                instruction = f"the instruction {name} {argument or ''}".rstrip()
                raise UnsafeFileError(f"it has {instruction}, which plain data does not need")

    def pop(self, number: int) -> list[_Item]:
        """Return the last items, which must not include a mark."""
        if len(self.stack) - number < (self.marks[-1] if self.marks else 0):
            raise EmphasisValueError("it reads past the beginning of the stack")
        items = self.stack[-number:]
        del self.stack[-number:]
        return items

    def pop_to_mark(self) -> list[_Item]:
        """Return the items since the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def get(self, index: int) -> None:
        """Push an item of the memory, but no list or dictionary, as these could then contain themselves."""
        item = self.memory[index]
        if isinstance(item.value, (list, dict)):
            raise EmphasisValueError("a list or dictionary is in two places")
        if isinstance(item.value, _Array):
            item = _Item(item.value.values) if item.value.values is not None else item
        self.stack.append(item)

    def push_tuple(self, items: list[_Item]) -> None:
        size, depth = self.around(items)
        self.stack.append(_Item(tuple(i.value for i in items), size, depth, all(self.is_plain(i) for i in items)))

    def extend(self, items: list[_Item]) -> None:
        """Append to the list on top of the stack."""
        values = [self.plain(item).value for item in items]
        (below,) = self.pop(1)
        if not isinstance(below.value, list):
            raise EmphasisValueError("it appends to something that is not a list")
        below.value.extend(values)
        self.push_grown(below, items)

    def update(self, items: list[_Item]) -> None:
        """Set keys and values of the dictionary on top of the stack."""
        keys, values = items[::2], items[1::2]
        if any(not isinstance(key.value, (str, bytes)) for key in keys):  # tuples would be hashed, however deep
            raise EmphasisValueError("a key is not a text")
        (below,) = self.pop(1)
        if not isinstance(below.value, dict):
            raise EmphasisValueError("it sets keys of something that is not a dictionary")
        below.value.update(zip((key.value for key in keys), (self.plain(value).value for value in values), strict=True))
        self.push_grown(below, items)

    def push_grown(self, below: _Item, items: list[_Item]) -> None:
        size, depth = self.around(items, below.size - 1)
        self.stack.append(_Item(below.value, size, max(below.depth, depth)))

    def around(self, items: list[_Item], more: int = 0) -> tuple[int, int]:
        """Return size and depth of a container with these items in addition to `more` others."""
        size, depth = 1 + more + sum(i.size for i in items), 1 + max((i.depth for i in items), default=0)
        if size > self.largest or depth > _DEEPEST:
            raise EmphasisValueError("its lists and tuples are nested too deep, or are in too many places")
        return size, depth

    def push_name(self, module: Any, name: Any) -> None:
        if (module, name) not in ALLOWED:
            raise UnsafeFileError(f"it names {module}.{name}, which could run code")
        self.stack.append(_Item(_Name(ALLOWED[module, name]), plain=False))

    def reduce(self, function: _Item, arguments: _Item) -> None:
        """Push the result of calling a name with arguments."""
        meaning = function.value.meaning if isinstance(function.value, _Name) else ""
        match meaning, arguments.value:
            case _ if meaning == _MAKE_ARRAY and arguments.value[:2] == (_Name(_ARRAY), (0,)):
                self.stack.append(_Item(_Array(), plain=False))
            case _, (str() as code, *_) if meaning == _DTYPE:
                if not _PLAIN_DTYPE.fullmatch(code):
                    raise EmphasisValueError(f"an array has the type {code!r}; numbers and truth values are known")
                self.stack.append(_Item(_Dtype(code), plain=False))
            case _, (str() as text, "latin1" | "latin-1") if meaning == _ENCODE:
                self.stack.append(_Item(self.encoded(text)))
            case _, (_, encoding) if meaning == _ENCODE:
                raise EmphasisValueError(f"bytes are encoded as {encoding!r}, not latin1")
            case _:
                raise EmphasisValueError("it makes neither an array nor bytes")

    def build(self, made: _Item, state: _Item) -> None:
        """Set the byte order of a dtype, or the content of an array."""
        match made.value, state.value:
            case _Dtype() as dtype, (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                dtype.order = order
                self.stack.append(made)
            case _Array(values=None) as array, (int(), tuple() as shape, _Dtype() as dtype, fortran, content):
                array.values = self.array(shape, dtype, bool(fortran), content)
                self.stack.append(_Item(array.values))
            case _:
                raise EmphasisValueError("it gives something content that is neither an array nor a plain type")

    def array(self, shape: tuple[Any, ...], dtype: _Dtype, fortran: bool, content: Any) -> NDArray[Any]:
        plain = np.dtype(dtype.order + dtype.code)
        raw = self.encoded(content) if isinstance(content, str) else content
        whole = all(isinstance(length, int) and length >= 0 for length in shape)
        if not isinstance(raw, bytes) or not whole or len(raw) != math.prod(shape) * plain.itemsize:
            raise EmphasisValueError(f"an array of shape {shape!r} and type {dtype.code} has not as many bytes")
        values: NDArray[Any] = np.ndarray(shape, plain, raw, order="F" if fortran else "C")
        if not plain.isnative:
            self.count(len(raw))
            values = values.astype(plain.newbyteorder("="))
        return values

    def encoded(self, text: str) -> bytes:
        self.count(len(text))
        return text.encode("latin1")

    def count(self, copied: int) -> None:
        self.made += copied
        if self.made > 2 * self.largest:  # once as bytes and once in another order
            raise EmphasisValueError("it copies the same bytes again and again")

    def is_plain(self, item: _Item) -> bool:
        return item.plain and not isinstance(item.value, (_Name, _Dtype, _Array))

    def plain(self, item: _Item) -> _Item:
        """Return the item after checking that it is plain data or a complete array."""
        if not self.is_plain(item):
            raise EmphasisValueError("part of it is neither plain data nor a complete array")
        return item
