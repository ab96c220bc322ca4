"""Scan tables on disk: one Parquet file per task, a row group per time, table and partition of labels."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.errors import PlanError, StorageError
from overseg.kernels.reduce import Columns, ScanTables, layer_columns
from overseg.pipeline.planfile import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

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
        Row groups per table: each label belongs to one.
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
    import pyarrow.parquet as pq

    groups: list[tuple[str, pa.Table]] = []
    schema = _schema(lags)
    for t, found in tables.items():
        for table in TABLES:
            columns: Columns = getattr(found, table)
            where = partition_of(columns[_OWNER[table]], partitions)
            for partition in range(partitions):
                part = {name: values[where == partition] for name, values in columns.items()}
                if len(part[_OWNER[table]]):
                    groups.append((f"{t}/{table}/{partition}", _filled(part, schema)))
    if units:
        numbers = {"unit": np.fromiter(units, np.int64), "digest": list(units.values())}
        groups.append(("units", _filled(numbers, schema)))
    index = {name: i for i, (name, _) in enumerate(groups)}
    schema = schema.with_metadata({"index": json.dumps({"groups": index, "partitions": partitions})})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", compression_level=1) as writer:
        for _, group in groups:
            writer.write_table(group.cast(schema), row_group_size=max(len(group), 1))
    return write_whole(path, buffer.getvalue())


def write_whole(path: Path, data: bytes) -> int:
    """Write a file of the scan, whole or not at all; its size. Raises `StorageError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise StorageError(
            f"cannot write scan tables: {error.strerror}",
            where=str(path),
            remedy="free disk space or choose another folder with --out, then run the same command again",
        ) from error
    return len(data)


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
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self._lags = Path(path), lags
        try:
            index = json.loads(pq.read_schema(self.path).metadata[b"index"])
            self._groups: dict[str, int] = index["groups"]
            self.partitions = int(index["partitions"])
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            raise self._damaged(error) from None

    def read(
        self, t: int, table: str, partition: int | None = None, names: Sequence[str] | None = None
    ) -> Columns:
        """Columns of one table: of one partition of the labels, or of all of them one after the other."""
        wanted = tuple(names or columns_of(table, self._lags))
        parts = range(self.partitions) if partition is None else (partition,)
        groups = [self._groups[key] for p in parts if (key := f"{t}/{table}/{p}") in self._groups]
        return self._columns(groups, wanted)

    def digests(self) -> dict[int, bytes]:
        """Digest of each unit that the task read."""
        groups = [self._groups[key] for key in ("units",) if key in self._groups]
        columns = self._columns(groups, ("unit", "digest"))
        return dict(zip(columns["unit"].tolist(), columns["digest"].tolist(), strict=True))

    def _columns(self, groups: list[int], names: tuple[str, ...]) -> Columns:
        import pyarrow as pa
        import pyarrow.parquet as pq

        empty = {name: np.zeros(0, np.uint64 if name in _UNSIGNED else np.int64) for name in names}
        if not groups:
            return empty
        try:
            # Opened anew each time: there may be more tasks than files a process may hold open.
            with pq.ParquetFile(self.path) as file:
                found = file.read_row_groups(groups, columns=list(names), use_threads=False)
            return {name: found[name].to_numpy() for name in names}
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> PlanError:
        return PlanError(
            f"a table of the scan is missing or damaged: {error}",
            where=str(self.path),
            remedy="remove that file and its folder, then run the same command again: the scan is redone",
        )


def _schema(lags: int) -> pa.Schema:
    """All columns of all tables: where a table has no such column, it is null and takes no room."""
    import pyarrow as pa

    names: Iterable[str] = dict.fromkeys(name for table in TABLES for name in columns_of(table, lags))
    kinds = [(name, pa.uint64() if name in _UNSIGNED else pa.int64()) for name in names]
    return pa.schema([*kinds, ("unit", pa.int64()), ("digest", pa.binary(16))])


def _filled(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    n = len(next(iter(columns.values())))
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(n, field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)
