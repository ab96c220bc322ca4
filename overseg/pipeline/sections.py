"""Named arrays in one file, each of which can be looked at without reading the others.

Made for what steps hand to each other: written whole or not at all; large arrays are mapped, not read.
Layout: the arrays' bytes, each at a multiple of 64; a JSON index of their kinds, shapes, places and hashes;
the length of the index as 8 bytes; the mark.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from overseg.errors import PlanError, StorageError
from overseg.pipeline.durable import write_atomically

_MARK = b"OVERSEG1"
_ALIGNED = 64
_TAIL = 4096  # bytes that hold the index of most files


def write_sections(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Write arrays to a file, whole or not at all.

    Parameters
    ----------
    path : Path
        The file; its folder is made if missing.
    arrays : mapping of str to ndarray
        Of numbers.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    pieces: list[Any] = []
    index, at = {}, 0
    for name, given in arrays.items():
        array = np.ascontiguousarray(given)
        data = array.reshape(-1).view(np.uint8).data
        index[name] = [array.dtype.str, list(array.shape), at, xxhash.xxh3_64_hexdigest(data)]
        filler = -array.nbytes % _ALIGNED
        pieces += [data, bytes(filler)]
        at += array.nbytes + filler
    tail = json.dumps(index, separators=(",", ":")).encode()
    pieces += [tail, len(tail).to_bytes(8, "little"), _MARK]
    return write_whole(path, *pieces)


def write_whole(path: Path, *data: bytes | memoryview) -> int:
    """Write a file between two steps, whole or not at all; its size. Raises `StorageError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, *data)
    except OSError as error:
        raise StorageError(
            f"cannot write scan tables: {error.strerror}",
            where=str(path),
            remedy="free disk space or permit writing there, or give another --out; then run it again",
        ) from error
    return sum(map(len, data))


class Sections:
    """The arrays of one file: small ones are read, large ones mapped.

    Parameters
    ----------
    path : str or Path
        Written by `write_sections`.

    Raises
    ------
    PlanError
        If the file is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._mapped: npt.NDArray[np.uint8] | None = None
        try:
            with open(path, "rb", buffering=0) as file:
                whole = os.fstat(file.fileno()).st_size
                tail = os.pread(file.fileno(), _TAIL, max(0, whole - _TAIL))
                end = len(tail) - len(_MARK) - 8
                if end < 0 or tail[end + 8 :] != _MARK:
                    raise ValueError("its end is missing")
                size = int.from_bytes(tail[end : end + 8], "little")
                if size > end:
                    tail = os.pread(file.fileno(), size, max(0, whole - len(_MARK) - 8 - size))
                    end = size
            self._index: dict[str, Any] = json.loads(tail[end - size : end])
        except (OSError, ValueError, TypeError) as error:
            raise damaged(path, error) from None

    def checked(self, name: str) -> npt.NDArray[Any]:
        """An array that is read whole, compared with what was written, and not kept mapped."""
        kind, shape, at, mark = self._facts(name)
        data = self._read(at, math.prod(shape) * np.dtype(kind).itemsize)
        if xxhash.xxh3_64_hexdigest(data) != mark:
            raise damaged(self.path, "its content is not what was written")
        found: npt.NDArray[Any] = np.frombuffer(data, kind).reshape(shape)
        return found

    def piece(self, name: str, start: int, stop: int) -> bytes:
        """Some bytes of an array, read and not mapped: a page that is looked at brings 15 others along."""
        return self._read(self._facts(name)[2] + start, stop - start)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """An array as it lies in the file: what is not looked at is not read."""
        kind, shape, at, _ = self._facts(name)
        try:
            if self._mapped is None:
                with open(self.path, "rb") as file:
                    self._mapped = np.frombuffer(
                        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8
                    )
            size = math.prod(shape) * np.dtype(kind).itemsize
            found: npt.NDArray[Any] = self._mapped[at : at + size].view(kind).reshape(shape)
        except (OSError, ValueError, TypeError) as error:
            raise damaged(self.path, error) from None
        return found

    def _facts(self, name: str) -> tuple[str, list[int], int, str]:
        try:
            kind, shape, at, mark = self._index[name]
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(self.path, error) from None
        return kind, shape, at, mark

    def _read(self, at: int, size: int) -> bytes:
        try:
            with open(self.path, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, at)
        except (OSError, ValueError, TypeError) as error:
            raise damaged(self.path, error) from None
        if len(data) != size:
            raise damaged(self.path, "its end is missing")
        return data


def damaged(path: str | Path, error: Exception | str) -> PlanError:
    """The error for a file between two steps that cannot be used."""
    return PlanError(
        f"a table of the scan is missing or damaged: {error}",
        where=str(path),
        remedy="remove that file and its folder, then run the same command again: the scan is redone",
    )
