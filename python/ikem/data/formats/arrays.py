"""Arrays that stay in their file: of 30 GB, only the rows that are asked for come into memory."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["ArrayHeader", "FileArray", "NpzFile", "ReadableFile", "open_npy"]

_LOCAL_HEADER = 30  # bytes of a zip member's own header before its name
_ENCRYPTED = 1


class ArrayHeader(NamedTuple):
    """What an ``.npy`` file says of its array before it begins."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    """Whether the first index changes fastest."""
    offset: int
    """Where the array begins, in bytes."""


class ReadableFile:
    """A file that several threads read at any place; it is closed when nobody refers to it any more.

    Args:
        file: opened for reading; a temporary file may have no name any more.
        name: for messages.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name
        weakref.finalize(self, file.close)

    def read(self, offset: int, size: int) -> bytearray:
        """Reads ``size`` bytes from ``offset`` on.

        Raises:
            ValueError: the file ends before.
        """
        content = bytearray(size)
        rest = memoryview(content)
        while rest:
            count = os.preadv(self.file.fileno(), [rest], offset)
            if count == 0:
                raise ValueError(f"{self.name}: the file ends {len(rest)} bytes before an array in it")
            offset, rest = offset + count, rest[count:]
        return content


class FileArray:
    """An array in a file, of which shape and dtype are known, and which is read row by row.

    Unlike an array mapped into memory, it leaves nothing of what was read in the memory of the process, and a file
    that is cut off is an error and no crash. ``numpy.asarray`` reads all of it.

    Args:
        file: holds it.
        header: says what it is.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ramp.npy"
        ...     np.save(path, np.arange(12).reshape(4, 3))
        ...     ramp = open_npy(path)
        ...     ramp.shape, ramp[1].tolist(), ramp[2:].tolist()
        ((4, 3), [3, 4, 5], [[6, 7, 8], [9, 10, 11]])
    """

    def __init__(self, file: ReadableFile, header: ArrayHeader) -> None:
        self.shape, self.dtype, self._fortran, self._offset = header
        self._file = file

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice) -> NDArray[Any]:
        """Reads a row, or rows that follow one another."""
        chosen = range(len(self))[rows]
        first, count = (chosen, 1) if isinstance(chosen, int) else (chosen.start, len(chosen))
        if not isinstance(chosen, int) and chosen.step != 1:
            raise ValueError(f"rows: expected a slice of step 1, got {rows}")
        if self._fortran:
            mapped = np.memmap(self._file.file, self.dtype, "r", self._offset, self.shape, "F")
            return np.array(mapped[rows])
        row = math.prod(self.shape[1:])
        content = self._file.read(self._offset + first * row * self.dtype.itemsize, count * row * self.dtype.itemsize)
        array = np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])
        return array[0] if isinstance(chosen, int) else array

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def open_npy(path: Path) -> FileArray:
    """Opens an ``.npy`` file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not hold a whole array of numbers or strings.
    """
    file = ReadableFile(path.open("rb"), str(path))
    header = _read_header(file.file, str(path))
    _check_size(header, path.stat().st_size, str(path))
    return FileArray(file, header)


class NpzFile:
    """An ``.npz`` file, whose arrays are loaded, or read row by row.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no archive of whole arrays of numbers or strings.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "arrays.npz"
        ...     np.savez_compressed(path, x=np.ones((1000, 3)), y=np.arange(1000))
        ...     arrays = NpzFile(path)
        ...     sorted(arrays), arrays.header("x").shape, arrays.rows("y", Path(folder))[500:502].tolist()
        (['x', 'y'], (1000, 3), [500, 501])
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._headers: dict[str, ArrayHeader] = {}
        self._file = ReadableFile(path.open("rb"), str(path))
        try:
            self._archive = zipfile.ZipFile(self._file.file)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: not an .npz file ({error})") from None
        for member in self._archive.infolist():
            if member.filename.endswith(".npy"):
                self._headers[member.filename.removesuffix(".npy")] = self._header(member)

    def __contains__(self, key: object) -> bool:
        return key in self._headers

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def header(self, key: str) -> ArrayHeader:
        """What array there is under a key."""
        return self._headers[key]

    def load(self, key: str) -> NDArray[Any]:
        """All of an array that is small."""
        try:
            with self._archive.open(f"{key}.npy") as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise ValueError(f"{self.path}: {key} is damaged ({error})") from None

    def rows(self, key: str, scratch: Path | None = None) -> FileArray:
        """An array that is read row by row, in the archive itself where it lies there as it is.

        What is compressed is inflated, piece by piece, to a temporary file, which has no name: it is gone with the
        process, however that ends.

        Args:
            key: the array's.
            scratch: the folder of that file, whose disk must have room for it; default: the system's.
        """
        header, member = self._headers[key], self._archive.getinfo(f"{key}.npy")
        if member.compress_type == zipfile.ZIP_STORED:
            start = member.header_offset + _LOCAL_HEADER
            lengths = self._file.read(member.header_offset, _LOCAL_HEADER)[-4:]
            start += int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            return FileArray(self._file, header._replace(offset=start + header.offset))
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        inflated = ReadableFile(tempfile.TemporaryFile(dir=scratch), f"{self.path}, {key}")  # noqa: SIM115
        try:
            with self._archive.open(member) as stream:
                shutil.copyfileobj(stream, inflated.file, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self.path}: {key} is damaged ({error})") from None
        inflated.file.flush()
        return FileArray(inflated, header)

    def _header(self, member: zipfile.ZipInfo) -> ArrayHeader:
        name = f"{self.path}, {member.filename}"
        if member.flag_bits & _ENCRYPTED:
            raise ValueError(f"{name}: the array is encrypted")
        with self._archive.open(member) as stream:
            header = _read_header(stream, name)
        _check_size(header, member.file_size, name)
        return header


def _read_header(stream: Any, name: str) -> ArrayHeader:
    try:
        version = np.lib.format.read_magic(stream)
        if version > (2, 0):
            raise ValueError(f"version {version} of the format is for records, not for numbers")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{name}: not an array in NumPy's format ({error})") from None
    if dtype.hasobject or dtype.names:
        raise ValueError(f"{name}: expected an array of numbers or strings, got one of {dtype}")
    return ArrayHeader(shape, dtype, fortran, stream.tell())


def _check_size(header: ArrayHeader, size: int, name: str) -> None:
    needed = header.offset + math.prod(header.shape) * header.dtype.itemsize
    if size < needed:
        raise ValueError(f"{name}: the array is cut off, {size} bytes of {needed} are there")
