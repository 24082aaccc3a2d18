"""Reading pickles that nobody vouches for: NumPy arrays, and the plain values that hold them.

A pickle is a program, and Python's reader calls whatever it names. This reader is another machine for the same
language, which can make nothing but dicts with text as keys, lists, tuples, text, numbers, bytes, and arrays of
numbers or booleans. It knows what those take of protocols 2 to 5, which everything has written since 2003 by default
or on request; whatever else a pickle asks for ends it with an error.

Arrays are views of the file, which is mapped and not read: memory goes to the values around them alone. There may be so
many of these that they take 40 times the size of the file and 6 MB, and no more than about 1.3 GB.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from worldline.episode import Array
from worldline.errors import FileError, shown
from worldline.files import regular_size

_FREE_VALUES = 1 << 16
_MOST_VALUES = 1 << 24
_MAX_DEPTH = 16  # of values within values, and of marks: a pickle of trajectories has 4
_MAX_NAME = 100
_MAX_AXES = 32
_REMEDY = (
    "Save NumPy arrays in dicts and lists, with pickle.dump(trajectories, file), or write an .npz file with np.savez."
)

# What a pickle of arrays may name -> what it stands for here.
_NAMES = {
    **{
        f"numpy.{core}.{module}": kind
        for core in ("core", "_core")
        for module, kind in (
            ("multiarray _reconstruct", "array"),
            ("multiarray scalar", "scalar"),
            ("numeric _frombuffer", "frombuffer"),
        )
    },
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",  # how protocol 2 writes bytes,
    "__builtin__ bytes": "bytes",  # and how it writes none
}


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Return what a pickle holds: dicts, lists, tuples, text, numbers, bytes and read-only arrays.

    Raises:
        FileError: It cannot be read, is damaged, or holds anything else.
    """
    file = Path(path)
    try:
        size = regular_size(file)
        if size == 0:
            raise FileError(f"{file} is empty. {_REMEDY}")
        with file.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return _Plain(len(content)).of(_Machine(memoryview(content)).run())
    except OSError as error:
        raise error if isinstance(error, FileError) else FileError(f"Cannot read {file}: {error}.") from error
    except (ValueError, LookupError, TypeError, struct.error, OverflowError) as error:
        raise FileError(f"{file} is not a pickle of NumPy arrays and plain values: {error}. {_REMEDY}") from error


class _Name:
    """Something of NumPy that the pickle names."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Dtype:
    """A dtype, whose byte order comes later than itself."""

    __slots__ = ("dtype",)

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
            what = "Python objects" if str(text).startswith("O") else f"values of type {shown(text)}"
            raise ValueError(f"an array holds {what}; expected numbers or booleans")
        self.dtype: np.dtype[Any] = np.dtype(text)


class _Array:
    """An array, whose numbers come later than itself."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Array | None = None

    def fill(self, shape: Any, dtype: Any, data: Any, *, is_fortran: bool) -> None:
        if isinstance(data, str):  # written by Python 2
            data = data.encode("latin1")
        is_shape = isinstance(shape, tuple) and len(shape) <= _MAX_AXES and all(type(axis) is int for axis in shape)
        if not is_shape or not isinstance(dtype, _Dtype) or not isinstance(data, memoryview | bytes):
            raise ValueError("an array has no shape, no dtype or no numbers")
        found = len(data)
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.dtype.itemsize != found:
            raise ValueError(f"an array of shape {shown(shape)} of {dtype.dtype} has {found:,} bytes")
        flat = np.frombuffer(data, dtype.dtype)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


class _Plain:
    """Puts arrays in the places of what stands for them. What is in two places of a pickle counts twice."""

    def __init__(self, num_bytes: int) -> None:
        self._left = _FREE_VALUES + num_bytes  # a value takes a byte of the file at least

    def of(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, _Array):
            if value.array is None:
                raise ValueError("an array has no numbers")
            return value.array
        if isinstance(value, memoryview):
            return bytes(value)
        if isinstance(value, _Name | _Dtype):
            raise ValueError("it holds a type instead of a value")
        if not isinstance(value, dict | list | tuple):
            return value
        self._left -= len(value)
        if self._left < 0:
            raise ValueError("the same values are in it again and again")
        if depth == _MAX_DEPTH:
            raise ValueError(f"its values are nested deeper than {_MAX_DEPTH}")
        if isinstance(value, dict):
            return {key: self.of(item, depth + 1) for key, item in value.items()}
        items = [self.of(item, depth + 1) for item in value]
        return tuple(items) if isinstance(value, tuple) else items


class _Machine:
    """Runs a pickle as far as it makes plain values."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._at = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}
        self._left = min(_FREE_VALUES + len(content) // 2, _MOST_VALUES)

    def run(self) -> Any:
        """Return what the pickle leaves on the stack.

        Raises:
            ValueError, LookupError, TypeError, struct.error: It is damaged, or asks for something else.
        """
        content, operations = self._content, self._OPERATIONS
        if content[0] != 0x80 or not 2 <= content[1] <= 5:
            raise ValueError("it is of no protocol from 2 to 5")
        while (code := content[self._at]) != ord("."):
            operation = operations.get(code)
            if operation is None:
                raise ValueError(f"byte {self._at:,} asks for something that plain values do not need ({code:#04x})")
            self._at += 1
            operation(self)
        if len(self._stack) != 1 or self._below:
            raise ValueError("it ends in the middle of a value")
        return self._stack[0]

    def _count(self, number: int = 1) -> None:
        self._left -= number
        if self._left < 0:
            raise ValueError("it holds far more values than arrays have around them")

    def _push(self, value: Any) -> None:
        self._count()
        self._stack.append(value)

    def _take(self, count: int) -> memoryview:
        """Return the next `count` bytes."""
        taken = self._content[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("it was cut off")
        self._at += count
        return taken

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _marked(self) -> list[Any]:
        """Return what lies above the last mark, and go back below it."""
        above, self._stack = self._stack, self._below.pop()
        return above

    def _mark(self) -> None:
        if len(self._below) == _MAX_DEPTH:
            raise ValueError(f"its values are nested deeper than {_MAX_DEPTH}")
        self._below.append(self._stack)
        self._stack = []

    def _text(self, layout: str, encoding: str = "utf-8") -> None:
        self._push(
            str(self._take(self._number(layout)), encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        )

    def _long(self) -> None:
        data = self._take(self._number("<B"))
        if len(data) > 8:
            raise ValueError("it holds a number of more than 64 bits")
        self._push(int.from_bytes(data, "little", signed=True))

    def _tuple(self, items: list[Any]) -> None:
        self._push(tuple(items))

    def _short_tuple(self, count: int) -> None:
        items = self._stack[-count:]
        if len(items) < count:
            raise ValueError("a tuple lacks items")
        del self._stack[-count:]
        self._tuple(items)

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("it appends to something that is no list")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2 or not all(type(key) is str for key in items[::2]):
            raise ValueError("it has a dict whose keys are not text")
        self._count(len(items) // 2)
        target.update(zip(items[::2], items[1::2], strict=True))

    def _new_dict(self) -> None:
        items = self._marked()
        self._push({})
        self._set_items(items)

    def _put(self, index: int) -> None:
        self._count(2)
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _global(self) -> None:
        names = []
        for _ in range(2):
            line = bytes(self._content[self._at : self._at + _MAX_NAME])
            name, newline, _ = line.partition(b"\n")
            if not newline:
                raise ValueError("it names something at length")
            names.append(name.decode())
            self._at += len(name) + 1
        self._name(*names)

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _name(self, module: Any, name: Any) -> None:
        kind = _NAMES.get(f"{module} {name}")
        if kind is None:
            raise ValueError(f"it names {shown(f'{module}.{name}')}, which is neither a plain value nor an array")
        self._push(_Name(kind))

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Name) or type(arguments) is not tuple:
            raise ValueError("it calls something that is no part of an array")
        self._push(self._made(function.kind, arguments))

    def _made(self, kind: str, arguments: tuple[Any, ...]) -> Any:
        if kind == "array":
            return _Array()
        if kind == "dtype":
            return _Dtype(arguments[0])
        if kind == "bytes" and not arguments:
            return b""
        if kind == "encode":
            text, encoding = arguments
            if type(text) is not str or encoding not in ("latin1", "latin-1"):
                raise ValueError("it holds bytes in an unknown form")
            return text.encode("latin1")
        array = _Array()
        if kind == "scalar":
            dtype, data = arguments
            array.fill((), dtype, data, is_fortran=False)
            assert array.array is not None
            return array.array.item()
        if kind == "frombuffer":
            data, dtype, shape, order = arguments
            array.fill(shape, dtype, data, is_fortran=order == "F")
            return array
        raise ValueError(f"it calls a {kind}")

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, _Array):
            _, shape, dtype, is_fortran, data = state
            target.fill(shape, dtype, data, is_fortran=bool(is_fortran))
        elif isinstance(target, _Dtype) and state[1] in ("<", ">", "|", "=") and not any(state[2:5]):
            target.dtype = target.dtype.newbyteorder(state[1])
        else:
            raise ValueError("it gives a state to something that is no array")

    _OPERATIONS: ClassVar[dict[int, Callable[[_Machine], object]]] = {
        0x80: lambda self: self._take(1),  # PROTO
        0x95: lambda self: self._take(8),  # FRAME, a hint for buffering
        ord("("): _mark,
        ord("N"): lambda self: self._stack.append(None),
        0x88: lambda self: self._stack.append(True),
        0x89: lambda self: self._stack.append(False),
        ord("K"): lambda self: self._stack.append(self._number("<B")),
        ord("M"): lambda self: self._push(self._number("<H")),
        ord("J"): lambda self: self._push(self._number("<i")),
        0x8A: _long,
        ord("G"): lambda self: self._push(self._number(">d")),
        0x8C: lambda self: self._text("<B"),
        ord("X"): lambda self: self._text("<I"),
        0x8D: lambda self: self._text("<Q"),
        ord("U"): lambda self: self._text("<B", "latin1"),  # text and bytes of Python 2
        ord("T"): lambda self: self._text("<I", "latin1"),
        ord("C"): lambda self: self._push(self._take(self._number("<B"))),
        ord("B"): lambda self: self._push(self._take(self._number("<I"))),
        0x8E: lambda self: self._push(self._take(self._number("<Q"))),
        0x96: lambda self: self._push(self._take(self._number("<Q"))),  # a bytearray
        ord("]"): lambda self: self._push([]),
        ord("l"): lambda self: self._push(self._marked()),
        ord("a"): lambda self: self._extend([self._stack.pop()]),
        ord("e"): lambda self: self._extend(self._marked()),
        ord(")"): lambda self: self._push(()),
        ord("t"): lambda self: self._tuple(self._marked()),
        0x85: lambda self: self._short_tuple(1),
        0x86: lambda self: self._short_tuple(2),
        0x87: lambda self: self._short_tuple(3),
        ord("}"): lambda self: self._push({}),
        ord("d"): _new_dict,
        ord("s"): lambda self: self._set_items([self._stack.pop(-2), self._stack.pop()]),
        ord("u"): lambda self: self._set_items(self._marked()),
        ord("q"): lambda self: self._put(self._number("<B")),
        ord("r"): lambda self: self._put(self._number("<I")),
        0x94: lambda self: self._put(len(self._memo)),
        ord("h"): lambda self: self._get(self._number("<B")),
        ord("j"): lambda self: self._get(self._number("<I")),
        ord("c"): _global,
        0x93: _stack_global,
        ord("R"): _reduce,
        ord("b"): _build,
    }
