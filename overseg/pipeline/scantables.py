"""Scan tables on disk: one file per task, its rows grouped by time, table and partition of the labels.

A group is a compressed block of rows; an index of fixed size says where each lies, so that a reader of one
partition touches nothing else. (Thousands of small row groups would cost Parquet more than the rows do.) Rows
of several blocks are unpacked behind each other, into one matrix that nobody has to put together again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.reduce import (
    CONTACT_COLUMNS,
    KEYS,
    SURFACE_COLUMNS,
    Columns,
    ScanTables,
    layer_columns,
    matrix_of,
    views_of,
    ways_of,
)
from overseg.kernels.sums import add_up
from overseg.kernels.tables import Int
from overseg.pipeline.sections import Sections, damaged, write_sections, write_whole

__all__ = [
    "JUDGED",
    "TABLES",
    "ScanFile",
    "added_rows",
    "columns_of",
    "partition_of",
    "write_scan",
    "write_whole",
]

TABLES = tuple(KEYS)

#: Tables that every scan has. The others are there where contacts were asked for.
JUDGED = TABLES[:3]

_NAMES = {
    "pairs": ("a", "b", "z", "gap", "overlap"),
    "stacked": ("a", "b", "n", "z_min", "z_max"),
    "contacts": CONTACT_COLUMNS,
    "surfaces": SURFACE_COLUMNS,
}
_LABELS = {"layers": 1, "pairs": 2, "stacked": 2, "contacts": 2, "surfaces": 1}


def columns_of(table: str, lags: int) -> tuple[str, ...]:
    """Names of a table's columns."""
    return layer_columns(lags) if table == "layers" else _NAMES[table]


def partition_of(labels: npt.NDArray[np.uint64], partitions: int) -> npt.NDArray[np.int64]:
    """Partition of each label, by a hash of it, so that ids of any pattern spread evenly."""
    mixed = labels * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return (mixed % np.uint64(partitions)).astype(np.int64)


def write_scan(
    path: Path,
    tables: Mapping[int, ScanTables],
    lags: int,
    partitions: int,
    units: Mapping[int, bytes] | None = None,
) -> int:
    """Write what one task found; the file is there whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    tables : mapping of int to ScanTables
        By time point.
    lags : int
        Back columns of the layer table.
    partitions : int
        Groups per table: each label belongs to one.
    units : mapping of int to bytes, optional
        Digest of each write unit that was read.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    blocks: list[bytes] = []
    # Where each group starts and ends, its rows, and the hash of its block.
    some = any(len(found.surfaces["label"]) for found in tables.values())
    kinds = TABLES if some else JUDGED
    index, at = np.zeros((len(tables), len(kinds), partitions, 4), np.int64), 0
    for i, found in enumerate(tables.values()):
        for j, table in enumerate(kinds):
            for partition, block in _groups(getattr(found, table), table, lags, partitions):
                data = _packed(block)
                index[i, j, partition] = at, at + len(data), len(block), _mark(data)
                blocks.append(data)
                at += len(data)
    digests = b"".join((units or {}).values())
    arrays: dict[str, npt.NDArray[Any]] = {
        "times": np.fromiter(tables, np.int64),
        "index": index,
        "rows": np.frombuffer(b"".join(blocks), np.uint8),
        "units": np.fromiter(units or (), np.int64),
        "digests": np.frombuffer(digests, np.uint8).reshape(-1, 16),
    }
    return write_sections(path, arrays)


def _groups(columns: Columns, table: str, lags: int, partitions: int) -> list[tuple[int, Int]]:
    """The rows of each partition that has any."""
    rows = matrix_of(columns, columns_of(table, lags))
    if partitions == 1:
        return [(0, rows)] if len(rows) else []
    where = partition_of(columns[KEYS[table][0]], partitions)
    rows = rows[np.argsort(where, kind="stable")]
    ends = np.cumsum(np.bincount(where, minlength=partitions))
    starts = np.append(0, ends[:-1])
    return [(int(p), rows[starts[p] : ends[p]]) for p in np.flatnonzero(ends > starts)]


class ScanFile:
    """Tables of one task, read group by group.

    Parameters
    ----------
    path : str or Path
        The file.
    lags : int
        Back columns of the layer table.

    Raises
    ------
    PlanError
        If the file is missing or damaged.
    """

    def __init__(self, path: str | Path, lags: int) -> None:
        self.path, self._lags = path, lags
        self._file = Sections(path)
        self._times: list[int] = self._file.checked("times").tolist()
        self._index = self._file.checked("index")
        self.partitions = int(self._index.shape[2])

    def groups(self, t: int, table: str, partitions: range | None = None) -> list[list[int]]:
        """Where the groups of some partitions that have any rows are, and how many rows each has."""
        if t not in self._times or TABLES.index(table) >= self._index.shape[1]:
            return []
        chosen = slice(None) if partitions is None else slice(partitions.start, partitions.stop)
        found = self._index[self._times.index(t), TABLES.index(table), chosen].tolist()
        return [group for group in found if group[2]]

    def unpack(self, groups: Sequence[Sequence[int]], out: Int) -> None:
        """The rows of some groups, one after the other, into a matrix that has room for just them."""
        if not groups:
            return
        # The groups of neighbouring partitions lie side by side.
        first, at = groups[0][0], 0
        together = memoryview(self._file.piece("rows", first, groups[-1][1]))
        for start, stop, rows, mark in groups:
            data = together[start - first : stop - first]
            if len(data) != stop - start or _mark(data) != mark:
                raise damaged(self.path, "its content is not what was written")
            _unpack(data, out[at : at + rows])
            at += rows

    def read(self, t: int, table: str, partitions: range | None = None) -> Columns:
        """Columns of one table: of some partitions of the labels, or of all, one after the other."""
        names = columns_of(table, self._lags)
        return views_of(_rows_of([self], t, table, len(names), partitions), names)

    def digests(self) -> tuple[Int, npt.NDArray[np.uint8]]:
        """Units that the task read, and their digests as (units, 16)."""
        return self._file.checked("units"), self._file.checked("digests")


def added_rows(files: Sequence[ScanFile], t: int, table: str, lags: int, partitions: range) -> Int:
    """What several files say of some partitions of the labels, added up.

    Parameters
    ----------
    files : sequence of ScanFile
    t : int
        Time point.
    table : str
        One of `TABLES`.
    lags : int
        Back columns of the layer table.
    partitions : range

    Returns
    -------
    ndarray of int64, shape (n, columns)
        One row per key, sorted by key; columns as in `columns_of`.

    Raises
    ------
    PlanError
        If a file is damaged.
    """
    names = columns_of(table, lags)
    rows = _rows_of(files, t, table, len(names), partitions)
    return add_up(rows, _LABELS[table], ways_of(names, KEYS[table]))


def _rows_of(files: Sequence[ScanFile], t: int, table: str, columns: int, partitions: range | None) -> Int:
    """Rows of some groups of several files, one after the other."""
    found = [(file, file.groups(t, table, partitions)) for file in files]
    sizes = [sum(group[2] for group in groups) for _, groups in found]
    rows, at = np.empty((sum(sizes), columns), np.int64), 0
    for (file, groups), size in zip(found, sizes, strict=True):
        file.unpack(groups, rows[at : at + size])
        at += size
    return rows


@cache
def _codec() -> Any:
    from numcodecs import Blosc

    # A tenth larger than what zstd makes of them at its lowest level, and back in a quarter of the time.
    return Blosc("lz4", clevel=5, shuffle=Blosc.SHUFFLE)


def _packed(rows: Int) -> bytes:
    # One item per row: the bytes of a column, of which most are alike, come to lie together.
    items = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))
    return bytes(_codec().encode(items))


def _unpack(data: memoryview, out: Int) -> None:
    from numcodecs import blosc

    blosc.decompress(data, out)


def _mark(data: bytes | memoryview) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(data) >> 1
