"""Pickles of arrays, numbers, strings and containers, read without running what stands in them.

A pickle is a program: Python's own reader imports and calls what the file names. Here its instructions are followed one
by one, and the few calls of which such data consist are ours. Arrays are not read but remembered by their place in the
file, so that a file of gigabytes costs the memory of its names.
"""

from __future__ import annotations

import ast
import math
import pickle
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .arrays import ReadableFile

__all__ = ["PickledArray", "load_pickle"]

_LONG = 4096  # strings of so many bytes stay in the file
_NUMBERS_AND_STRINGS = "biufcSU"  # kinds of NumPy's dtypes
_KEYS = (str, bytes, int, float, np.generic, type(None))


class PickledArray:
    """An array in a pickle; ``numpy.asarray`` reads it.

    Attributes:
        shape: of the array.
        dtype: of the array.
    """

    def __init__(self) -> None:
        self.fill((0,), np.dtype(float), (0,), b"")

    def fill(
        self, stored: tuple[int, ...], dtype: np.dtype[Any], axes: tuple[int, ...], content: bytes | _Span
    ) -> None:
        """Sets what the array is: its contents have a shape, and their axes are put in another order."""
        self.shape = tuple(stored[axis] for axis in axes)
        self.dtype, self._stored, self._axes, self._content = dtype, stored, axes, content

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        content = self._content.read() if isinstance(self._content, _Span) else self._content
        return np.asarray(np.frombuffer(content, self.dtype).reshape(self._stored).transpose(self._axes), dtype)


def load_pickle(path: Path) -> Any:
    """Reads a pickle of any protocol, written by Python 2 or 3.

    Args:
        path: the file. It is kept open as long as an array refers to it.

    Returns:
        What was pickled: numbers, strings, bytes, lists, tuples, dicts and sets; an ``OrderedDict`` is a dict, an array
        is a :class:`PickledArray`. Strings of Python 2 are taken for Latin-1.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a whole pickle, or it holds anything else, which is named.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "data.pkl"
        ...     _ = path.write_bytes(pickle.dumps({"names": ["a", "b"], "joints": np.ones((2, 3))}))
        ...     data = load_pickle(path)
        ...     data["names"], np.asarray(data["joints"]).sum().item()
        ...     _ = path.write_bytes(pickle.dumps(os.getcwd))
        ...     try:
        ...         load_pickle(path)
        ...     except ValueError as error:
        ...         print(str(error).removeprefix(f"{path}: "))
        (['a', 'b'], 6.0)
        holds posix.getcwd; only arrays, numbers, strings and containers are read from a pickle
    """
    try:
        return _Machine(path).run()
    except _RefusedError as error:
        raise ValueError(
            f"{path}: holds {error}; only arrays, numbers, strings and containers are read from a pickle"
        ) from None
    except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, SyntaxError, struct.error) as error:
        raise ValueError(f"{path}: not a whole pickle ({type(error).__name__}: {error})") from None


class _RefusedError(Exception):
    """Its text names what is refused."""


@dataclass(frozen=True)
class _Span:
    """A long string that was left in the file."""

    file: ReadableFile
    offset: int
    size: int
    encoded: bool = False
    """Whether it is UTF-8, and its characters stand for bytes."""

    def read(self) -> bytes | bytearray:
        content = self.file.read(self.offset, self.size)
        return content.decode("utf-8").encode("latin-1") if self.encoded else content


class _DType:
    """A dtype, whose byte order is told after its name."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"\w\d*|\?", name):
            raise _RefusedError(f"an array of {name}")
        self.dtype = np.dtype(name)
        if self.dtype.kind not in _NUMBERS_AND_STRINGS or not self.dtype.itemsize:
            raise _RefusedError(f"an array of {self.dtype}")

    def build(self, state: tuple[Any, ...]) -> None:
        _, order, *parts = state[:5]
        if any(part is not None for part in parts) or order not in ("<", ">", "=", "|"):
            raise _RefusedError("an array of records")
        self.dtype = self.dtype.newbyteorder(order)


@dataclass(frozen=True)
class _Global:
    """What the pickle may name; called with the arguments that stand in it."""

    name: str
    call: Callable[..., Any] | None


# ----------------------------------------------------------------------------------------------------------------------
# What may be called


def _empty_array(kind: Any, *_: Any) -> PickledArray:
    if not (isinstance(kind, _Global) and kind.name == "numpy.ndarray"):
        raise _RefusedError("an array of a class of its own")
    return PickledArray()


def _fill_array(array: PickledArray, shape: Any, dtype: _DType, fortran: bool, content: Any) -> PickledArray:
    axes = range(len(shape))
    return _fill(array, shape[::-1] if fortran else shape, dtype, axes[::-1] if fortran else axes, content)


def _array_of_buffer(content: Any, dtype: _DType, shape: Any, order: str, axes: Any = None) -> PickledArray:
    if order == "K":
        return _fill(PickledArray(), shape, dtype, axes, content)
    return _fill_array(PickledArray(), shape, dtype, order == "F", content)


def _fill(array: PickledArray, shape: Any, dtype: _DType, axes: Sequence[int], content: Any) -> PickledArray:
    if not all(isinstance(size, int) and size >= 0 for size in shape) or sorted(axes) != list(range(len(shape))):
        raise ValueError(f"an array of the shape {shape}, its axes in the order {tuple(axes)}")
    content = content if isinstance(content, _Span) else _as_bytes(content)
    size = content.size if isinstance(content, _Span) else len(content)
    needed = math.prod(shape) * dtype.dtype.itemsize
    # As text, a byte is one character or two.
    if not needed <= size <= (2 if isinstance(content, _Span) and content.encoded else 1) * needed:
        raise ValueError(f"an array of {needed} bytes in {size}")
    array.fill(tuple(shape), dtype.dtype, tuple(axes), content)
    return array


def _scalar(dtype: _DType, content: Any) -> Any:
    (value,) = np.frombuffer(_as_bytes(content), dtype.dtype)
    return value


def _as_bytes(content: Any) -> bytes:
    if not isinstance(content, str | bytes):
        raise ValueError(f"the contents of an array are of the type {type(content).__name__}")
    return content.encode("latin-1") if isinstance(content, str) else content


def _encode(text: Any, encoding: str) -> Any:
    """What bytes are written as in the protocols before 3."""
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"a string encoded as {encoding}")
    return replace(text, encoded=True) if isinstance(text, _Span) else _as_bytes(text)


def _set(items: Sequence[Any] = ()) -> set[Any]:
    return {_checked_key(item) for item in items}


def _dict(items: Sequence[Any] = ()) -> dict[Any, Any]:
    return {_checked_key(key): value for key, value in items}


def _checked_key(key: Any) -> Any:
    if not isinstance(key, _KEYS):
        raise _RefusedError(f"a key of the type {type(key).__name__}")
    return key


_GLOBALS = {
    item.name: item
    for item in (
        _Global("numpy.ndarray", None),
        _Global("numpy.dtype", lambda name, *_: _DType(name)),
        _Global("numpy.core.multiarray._reconstruct", _empty_array),
        _Global("numpy.core.multiarray.scalar", _scalar),
        _Global("numpy.core.numeric._frombuffer", _array_of_buffer),
        _Global("collections.OrderedDict", _dict),
        _Global("builtins.set", _set),
        _Global("builtins.frozenset", lambda items=(): frozenset(_set(items))),
        _Global("builtins.bytes", lambda: b""),
        _Global("_codecs.encode", _encode),
    )
}

# ----------------------------------------------------------------------------------------------------------------------
# The instructions


class _Machine:
    """Follows the instructions of a pickle.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.stream = path.open("rb")
        self.file = ReadableFile(self.stream, str(path))
        self.size = path.stat().st_size
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.loose: set[_Span] = set()  # long strings of which no array was made yet

    def run(self) -> Any:
        read = self.stream.read
        while (code := read(1)) != pickle.STOP:
            if value := _VALUES.get(code):
                self.stack.append(value(self))
            elif action := _ACTIONS.get(code):
                action(self)
            else:
                self.refuse(code)
        if self.loose:
            raise _RefusedError(f"a string of {max(span.size for span in self.loose)} bytes outside of an array")
        return self.stack.pop()

    def refuse(self, code: bytes) -> None:
        if not code:
            raise ValueError("it is cut off")
        if code == pickle.INST:
            raise _RefusedError(f"{self.line()}.{self.line()}")
        names = [name for name, value in vars(pickle).items() if value == code and name.isupper()]
        if not names:
            raise ValueError(f"there is no instruction {code!r}")
        raise _RefusedError(f"the instruction {names[0]}")

    def take(self, size: int) -> bytes:
        if not 0 <= size <= self.size:  # no memory is set aside for what cannot be there
            raise ValueError(f"a string of {size} bytes in a file of {self.size}")
        content = self.stream.read(size)
        if len(content) < size:
            raise ValueError("it is cut off")
        return content

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return value

    def line(self) -> str:
        content = self.stream.readline()
        if not content.endswith(b"\n"):
            raise ValueError("it is cut off")
        return content[:-1].decode("latin-1")

    def long(self, form: str) -> int:
        return int.from_bytes(self.take(self.number(form)), "little", signed=True)

    def integer(self) -> int | bool:
        line = self.line()
        return line == "01" if line in ("00", "01") else int(line)

    def quoted(self) -> str:
        line = self.line()
        if not re.fullmatch(r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\"""", line):
            raise ValueError("a string without quotes")
        return ast.literal_eval("b" + line).decode("latin-1")

    def string(self, form: str, encoding: str | None) -> Any:
        """A string after its length; a long one stays where it is."""
        size = self.number(form)
        if size < _LONG:
            content = self.take(size)
            return content if encoding is None else content.decode(encoding)
        span = _Span(self.file, self.stream.tell(), size)
        if span.offset + size > self.size:
            raise ValueError("it is cut off")
        self.stream.seek(size, 1)
        self.loose.add(span)
        return span

    def pop(self, kind: type = object) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"{type(self.stack[-1]).__name__} where {kind.__name__} belongs")
        return self.stack.pop()

    def items(self) -> list[Any]:
        """All that was pushed since the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def pairs(self) -> dict[Any, Any]:
        items = self.items()
        return _dict(list(zip(items[::2], items[1::2], strict=True)))

    def find(self, module: str, name: str) -> _Global:
        """What the pickle names, under the name that it has in Python 3 and had before NumPy 2."""
        module = "builtins" if module == "__builtin__" else module.replace("numpy._core.", "numpy.core.")
        found = _GLOBALS.get(f"{module}.{name}")
        if found is None:
            raise _RefusedError(f"{module}.{name}")
        return found

    def protocol(self) -> None:
        if (version := self.number("<B")) > pickle.HIGHEST_PROTOCOL:
            raise ValueError(f"protocol {version} is not known")

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        target = self.pop(list)
        target.extend(items)
        self.stack.append(target)

    def update(self, kind: type, items: Any) -> None:
        target = self.pop(kind)
        target.update(items)
        self.stack.append(target)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.update(dict, _dict([(key, value)]))

    def discard(self) -> None:
        (self.marks if self.marks[-1:] == [len(self.stack)] else self.stack).pop()

    def call(self) -> None:
        arguments, function = self.pop(tuple), self.pop(_Global)
        if function.call is None:
            raise _RefusedError(f"a call of {function.name}")
        self.use(arguments)
        result = function.call(*arguments)
        if isinstance(result, _Span):
            self.loose.add(result)
        self.stack.append(result)

    def build(self) -> None:
        state, target = self.pop(tuple), self.stack[-1]
        if isinstance(target, _DType):
            target.build(state)
        elif isinstance(target, PickledArray):
            self.use(state)
            _fill_array(target, *state[-4:])
        else:
            raise _RefusedError(f"a state for {type(target).__name__}")

    def use(self, arguments: Sequence[Any]) -> None:
        """Notes that an array or bytes are made of these."""
        self.loose.difference_update(item for item in arguments if isinstance(item, _Span))


# What each instruction pushes.
_VALUES: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.NONE: lambda machine: None,
    pickle.NEWTRUE: lambda machine: True,
    pickle.NEWFALSE: lambda machine: False,
    pickle.INT: lambda machine: machine.integer(),
    pickle.BININT: lambda machine: machine.number("<i"),
    pickle.BININT1: lambda machine: machine.number("<B"),
    pickle.BININT2: lambda machine: machine.number("<H"),
    pickle.LONG: lambda machine: int(machine.line().rstrip("L")),
    pickle.LONG1: lambda machine: machine.long("<B"),
    pickle.LONG4: lambda machine: machine.long("<i"),
    pickle.FLOAT: lambda machine: float(machine.line()),
    pickle.BINFLOAT: lambda machine: machine.number(">d"),
    pickle.UNICODE: lambda machine: machine.line().encode("latin-1").decode("raw-unicode-escape"),
    pickle.SHORT_BINUNICODE: lambda machine: machine.string("<B", "utf-8"),
    pickle.BINUNICODE: lambda machine: machine.string("<I", "utf-8"),
    pickle.BINUNICODE8: lambda machine: machine.string("<Q", "utf-8"),
    pickle.STRING: lambda machine: machine.quoted(),
    pickle.SHORT_BINSTRING: lambda machine: machine.string("<B", "latin-1"),
    pickle.BINSTRING: lambda machine: machine.string("<i", "latin-1"),
    pickle.SHORT_BINBYTES: lambda machine: machine.string("<B", None),
    pickle.BINBYTES: lambda machine: machine.string("<I", None),
    pickle.BINBYTES8: lambda machine: machine.string("<Q", None),
    pickle.BYTEARRAY8: lambda machine: machine.string("<Q", None),
    pickle.EMPTY_LIST: lambda machine: [],
    pickle.EMPTY_TUPLE: lambda machine: (),
    pickle.EMPTY_DICT: lambda machine: {},
    pickle.EMPTY_SET: lambda machine: set(),
    pickle.LIST: lambda machine: machine.items(),
    pickle.TUPLE: lambda machine: tuple(machine.items()),
    pickle.TUPLE1: lambda machine: (machine.pop(),),
    pickle.TUPLE2: lambda machine: (machine.pop(), machine.pop())[::-1],
    pickle.TUPLE3: lambda machine: (machine.pop(), machine.pop(), machine.pop())[::-1],
    pickle.DICT: lambda machine: machine.pairs(),
    pickle.FROZENSET: lambda machine: frozenset(_set(machine.items())),
    pickle.DUP: lambda machine: machine.stack[-1],
    pickle.GET: lambda machine: machine.memo[int(machine.line())],
    pickle.BINGET: lambda machine: machine.memo[machine.number("<B")],
    pickle.LONG_BINGET: lambda machine: machine.memo[machine.number("<I")],
    pickle.GLOBAL: lambda machine: machine.find(machine.line(), machine.line()),
    pickle.STACK_GLOBAL: lambda machine: machine.find(*(machine.pop(str), machine.pop(str))[::-1]),
}

# What the others do.
_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: _Machine.protocol,
    pickle.FRAME: lambda machine: machine.take(8),
    pickle.MARK: lambda machine: machine.marks.append(len(machine.stack)),
    pickle.POP: _Machine.discard,
    pickle.POP_MARK: _Machine.items,
    pickle.APPEND: lambda machine: machine.extend([machine.pop()]),
    pickle.APPENDS: lambda machine: machine.extend(machine.items()),
    pickle.SETITEM: _Machine.set_item,
    pickle.SETITEMS: lambda machine: machine.update(dict, machine.pairs()),
    pickle.ADDITEMS: lambda machine: machine.update(set, _set(machine.items())),
    pickle.PUT: lambda machine: machine.remember(int(machine.line())),
    pickle.BINPUT: lambda machine: machine.remember(machine.number("<B")),
    pickle.LONG_BINPUT: lambda machine: machine.remember(machine.number("<I")),
    pickle.MEMOIZE: lambda machine: machine.remember(len(machine.memo)),
    pickle.REDUCE: _Machine.call,
    pickle.BUILD: _Machine.build,
}
