"""Scan tables on disk: one file per task, its rows grouped by time, table and partition of the labels.

A group is a compressed block of columns; an index of fixed size says where each lies, so that a reader of one
partition touches nothing else. (Thousands of small row groups would cost Parquet more than the rows do.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.reduce import Columns, ScanTables, layer_columns
from overseg.kernels.tables import Int
from overseg.pipeline.sections import Sections, damaged, write_sections, write_whole

__all__ = ["TABLES", "ScanFile", "columns_of", "partition_of", "write_scan", "write_whole"]

TABLES = ("layers", "pairs", "stacked")
_OWNER = {"layers": "label", "pairs": "a", "stacked": "a"}
_NAMES = {"pairs": ("a", "b", "z", "gap", "overlap"), "stacked": ("a", "b", "n", "z_min", "z_max")}
_UNSIGNED = frozenset({"label", "a", "b"})


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
    index, at = np.zeros((len(tables), len(TABLES), partitions, 4), np.int64), 0
    for i, found in enumerate(tables.values()):
        for j, table in enumerate(TABLES):
            for partition, block in _groups(getattr(found, table), table, lags, partitions):
                data = _packed(block)
                index[i, j, partition] = at, at + len(data), block.shape[1], _mark(data)
                blocks.append(data)
                at += len(data)
    digests = b"".join((units or {}).values())
    arrays: dict[str, npt.NDArray[Any]] = {
        "times": np.fromiter(tables, np.int64),
        "index": index,
        "blocks": np.frombuffer(b"".join(blocks), np.uint8),
        "units": np.fromiter(units or (), np.int64),
        "digests": np.frombuffer(digests, np.uint8).reshape(-1, 16),
    }
    return write_sections(path, arrays)


def _groups(columns: Columns, table: str, lags: int, partitions: int) -> list[tuple[int, Int]]:
    """The rows of each partition that has any, as (columns, rows)."""
    stacked = np.stack([columns[name].astype(np.int64, copy=False) for name in columns_of(table, lags)])
    if partitions == 1:
        return [(0, stacked)] if stacked.shape[1] else []
    where = partition_of(columns[_OWNER[table]], partitions)
    stacked = stacked[:, np.argsort(where, kind="stable")]
    ends = np.cumsum(np.bincount(where, minlength=partitions))
    starts = np.append(0, ends[:-1])
    return [(int(p), stacked[:, starts[p] : ends[p]]) for p in np.flatnonzero(ends > starts)]


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
        self.path, self._lags = Path(path), lags
        self._file = Sections(path)
        self._times: list[int] = self._file.checked("times").tolist()
        self._index, self._blocks = self._file.checked("index"), self._file["blocks"]
        self.partitions = int(self._index.shape[2])

    def read(self, t: int, table: str, partitions: range | None = None) -> Columns:
        """Columns of one table: of some partitions of the labels, or of all, one after the other."""
        names = columns_of(table, self._lags)
        chosen = slice(None) if partitions is None else slice(partitions.start, partitions.stop)
        parts = [np.zeros((len(names), 0), np.int64)]
        if t in self._times:
            groups = self._index[self._times.index(t), TABLES.index(table), chosen]
            parts += [self._block(len(names), *group) for group in groups.tolist() if group[2]]
        whole = np.concatenate(parts, axis=1)
        return {
            name: row.view(np.uint64) if name in _UNSIGNED else row
            for name, row in zip(names, whole, strict=True)
        }

    def digests(self) -> tuple[Int, npt.NDArray[np.uint8]]:
        """Units that the task read, and their digests as (units, 16)."""
        return self._file.checked("units"), self._file.checked("digests")

    def _block(self, columns: int, start: int, stop: int, rows: int, mark: int) -> Int:
        data = self._blocks[start:stop].tobytes()
        if len(data) != stop - start or _mark(data) != mark:
            raise damaged(self.path, "its content is not what was written")
        return _unpacked(data).reshape(columns, rows)


def _codec() -> Any:
    from numcodecs import Blosc

    return Blosc("zstd", clevel=1, shuffle=Blosc.SHUFFLE)


def _packed(block: Int) -> bytes:
    return bytes(_codec().encode(np.ascontiguousarray(block)))


def _unpacked(data: bytes) -> Int:
    return np.frombuffer(_codec().decode(data), np.int64)


def _mark(data: bytes) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(data) >> 1
