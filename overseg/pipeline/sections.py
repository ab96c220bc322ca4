"""Named arrays in one file, each of which can be looked at without reading the others.

Made for what steps hand to each other: written whole or not at all, mapped into memory where it is read.
Layout: the arrays' bytes, each at a multiple of 64; a JSON index of their kinds, shapes, places and hashes;
the length of the index as 8 bytes; the mark.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from overseg.errors import PlanError, StorageError
from overseg.pipeline.planfile import write_atomically

_MARK = b"OVERSEG1"
_ALIGNED = 64


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
            remedy="free disk space or choose another folder with --out, then run the same command again",
        ) from error
    return sum(map(len, data))


class Sections:
    """The arrays of one file, mapped and not read.

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
        try:
            # There may be thousands of files, for each of which np.memmap would take longer than this does.
            with open(self.path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            end = len(data) - len(_MARK) - 8
            if end < 0 or data[end + 8 :] != _MARK:
                raise ValueError("its end is missing")
            size = int.from_bytes(data[end : end + 8], "little")
            self._index: dict[str, Any] = json.loads(data[end - size : end])
            self._data = np.frombuffer(data, np.uint8)
        except (OSError, ValueError, TypeError) as error:
            raise damaged(self.path, error) from None

    def checked(self, name: str) -> npt.NDArray[Any]:
        """An array that is read whole and compared with what was written."""
        found = self[name]
        if xxhash.xxh3_64_hexdigest(found.data) != self._index[name][3]:
            raise damaged(self.path, "its content is not what was written")
        return found

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        try:
            kind, shape, at, _ = self._index[name]
            size = math.prod(shape) * np.dtype(kind).itemsize
            found: npt.NDArray[Any] = self._data[at : at + size].view(kind).reshape(shape)
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(self.path, error) from None
        return found


def damaged(path: str | Path, error: Exception | str) -> PlanError:
    """The error for a file between two steps that cannot be used."""
    return PlanError(
        f"a table of the scan is missing or damaged: {error}",
        where=str(path),
        remedy="remove that file and its folder, then run the same command again: the scan is redone",
    )
