"""The plan folder: written once, `plan.json` last, and read with suspicion. See docs/architecture.md."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overseg.cluster.limits import give_back
from overseg.errors import PlanError, StorageError
from overseg.kernels.tables import Int, Labels
from overseg.pipeline.durable import write_atomically
from overseg.pipeline.plandata import (
    KEYS,
    VERSION,
    Features,
    Fills,
    Merges,
    PlanData,
    Units,
    compute_plan_hash,
    sort_fills,
    sort_merges,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "TABLES",
    "VERSION",
    "Features",
    "Fills",
    "Merges",
    "PlanData",
    "Units",
    "compute_plan_hash",
    "damaged",
    "fills_of",
    "merges_of",
    "read_candidates",
    "read_header",
    "read_plan",
    "sort_fills",
    "sort_merges",
    "write_plan",
]

TABLES = ("candidates", "merges", "fills", "units")

#: Of the candidates' columns those that say what is planned, but for features; older ones lack `unusual`.
_OF_CANDIDATES = [*KEYS, "p", "stage", "unusual", "decision", "reason"]

_ROWS_PER_GROUP = 1 << 16  # small row groups, so that a worker finds its fills without reading all


def write_plan(folder: str | Path, plan: PlanData) -> None:
    """Write a plan into ``folder/plan``; `plan.json` comes last, so a plan that has one is whole.

    Merges and fills are brought into canonical order. A folder that already holds this plan is left as it is.

    Parameters
    ----------
    folder : str or Path
        The plan folder, ``NAME.overseg``; made if missing.
    plan : PlanData

    Raises
    ------
    PlanError
        If the folder holds another plan, or `plan.hash` is not the plan's hash.
    StorageError
        If the folder cannot be written.
    """
    home = Path(folder) / "plan"
    if plan.hash != _hash_of(plan):
        raise PlanError(
            "the plan's hash is not that of its content",
            where=str(folder),
            remedy="please report this: the plan was not put together as it should be",
        )
    if (home / "plan.json").exists():
        if read_header(folder)["plan_hash"] == plan.hash:
            return
        raise PlanError(
            "this folder holds another plan, and plans are never overwritten",
            where=str(folder),
            remedy="give another folder with --out, or remove this one if its plan is not applied",
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        tables = _tables(plan).items()
        digests = {name: _write_table(home / f"{name}.parquet", parts) for name, parts in tables}
        _write_csv(home / "relabel.csv", sort_merges(plan.merges))
        header = {
            "version": VERSION,
            "plan_hash": plan.hash,
            "partial": plan.partial,
            "unread": plan.unread,
            "settings": plan.settings,
            "model": plan.model,
            "measured": plan.measured,
            "volume": plan.volume,
            "counts": plan.counts,
            "seconds": plan.seconds,
            "warnings": list(plan.warnings),
            "tables": digests,
        }
        write_atomically(home / "plan.json", json.dumps(header, indent=2).encode())
        give_back()
    except OSError as error:
        raise StorageError(
            f"cannot write the plan: {error.strerror}",
            where=str(home),
            remedy="free disk space or choose a writable folder with --out, then run the same command again",
        ) from error


def read_header(folder: str | Path) -> dict[str, Any]:
    """`plan.json` alone: version and completeness are checked, the tables are not opened.

    Parameters
    ----------
    folder : str or Path
        The plan folder.

    Returns
    -------
    dict
        ``version, plan_hash, partial, settings, model, volume, counts, seconds, warnings, tables``.

    Raises
    ------
    PlanError
        If there is no finished plan, it cannot be understood, or it was made by a newer overseg.
    """
    path = Path(folder) / "plan" / "plan.json"
    try:
        header: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise _no_plan(Path(folder)) from None
    except OSError as error:
        raise PlanError(f"cannot read the plan: {error.strerror}", where=str(path)) from error
    except ValueError:
        raise damaged(path, "it is not JSON") from None
    version = header.get("version") if isinstance(header, dict) else None
    if not isinstance(version, int):
        raise damaged(path, "it carries no version")
    if version > VERSION:
        raise PlanError(
            f"the plan is of version {version}, this overseg reads up to version {VERSION}",
            where=str(folder),
            remedy="update overseg to the version that made the plan",
        )
    missing = [name for name in _FIELDS if name not in header]
    if missing:
        raise damaged(path, f"it lacks {', '.join(missing)}")
    return header


_FIELDS = ("plan_hash", "partial", "settings", "model", "volume", "counts", "seconds", "warnings", "tables")


def read_plan(folder: str | Path) -> PlanData:
    """Read a plan, all but the features, and check every table against its digest, and all against the hash.

    Parameters
    ----------
    folder : str or Path
        The plan folder.

    Returns
    -------
    PlanData

    Raises
    ------
    PlanError
        If the plan is missing, unfinished, damaged, changed since, or made by a newer overseg.
    """
    header = read_header(folder)
    home = Path(folder) / "plan"
    try:
        plan = PlanData(
            hash=header["plan_hash"],
            settings=header["settings"],
            model=header["model"],
            volume=header["volume"],
            counts=header["counts"],
            seconds=header["seconds"],
            warnings=header["warnings"],
            candidates=_read_table(home, "candidates", header, _OF_CANDIDATES),
            merges=merges_of(_read_table(home, "merges", header)),  # let go of before the next is read
            fills=fills_of(_read_table(home, "fills", header)),
            units=_units_of(_read_table(home, "units", header)),
            partial=header["partial"],
            unread=header.get("unread", []),
            measured=header.get("measured", {}),
        )
        found = _hash_of(plan)
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(home, f"a column or field is missing ({error})") from None
    if found != plan.hash:
        raise damaged(home, "its content does not have the hash written in plan.json")
    return plan


def read_candidates(folder: str | Path) -> pa.Table:
    """All candidates with their features.

    Parameters
    ----------
    folder : str or Path
        The plan folder.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    PlanError
        As for `read_plan`.
    """
    return _read_table(Path(folder) / "plan", "candidates", read_header(folder))


def merges_of(table: pa.Table) -> Merges:
    """The merges of an Arrow table."""
    return Merges(_ints(table, "t"), _labels(table, "old"), _labels(table, "new"))


def fills_of(table: pa.Table) -> Fills:
    """The fills of an Arrow table."""
    t, z, y, x0, x1 = (_ints(table, name) for name in ("t", "z", "y", "x0", "x1"))
    return Fills(t, z, y, x0, x1, _labels(table, "new"))


def _hash_of(plan: PlanData) -> str:
    volume = plan.volume
    return compute_plan_hash(
        plan.settings,
        plan.model,
        volume["shape"],
        volume["voxel_size"],
        volume["fingerprint"],
        plan.candidates,
        plan.merges,
        plan.fills,
        plan.unread,
    )


def _tables(plan: PlanData) -> dict[str, Iterable[pa.Table]]:
    """The parts of every table, one after the other."""
    import pyarrow as pa

    units = plan.units
    order = np.lexsort((units.unit, units.level))
    flat = np.ascontiguousarray(units.digest[order], np.uint8)
    digest = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(order), [None, pa.py_buffer(flat)])
    level, unit, touched = units.level[order].astype(np.int32), units.unit[order], units.touched[order]
    columns = {"level": level, "unit": unit, "digest": digest, "touched": touched}
    return {
        "candidates": [plan.candidates] if plan.features is None else _with(plan.features, plan.candidates),
        "merges": [pa.table(vars(sort_merges(plan.merges)))],
        "fills": [pa.table(vars(sort_fills(plan.fills)))],
        "units": [pa.table(columns)],
    }


def _with(features: Features, candidates: pa.Table) -> Iterator[pa.Table]:
    """Candidates with their features before the probability, block by block."""
    import pyarrow as pa

    first = candidates.column_names.index("p")
    start = 0
    # One more, empty, for a plan without candidates.
    for values in chain((block() for block in features.blocks), [np.empty((0, len(features.names)))]):
        part = candidates.slice(start, len(values))
        start += len(values)
        columns = {name: part[name] for name in part.column_names[:first]}
        columns |= dict(zip(features.names, np.ascontiguousarray(values.T), strict=True))
        yield pa.table(columns | {name: part[name] for name in part.column_names[first:]})


def _units_of(table: pa.Table) -> Units:
    found = [np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, 16) for chunk in table["digest"].chunks]
    digest = np.concatenate([np.zeros((0, 16), np.uint8), *found])[: table.num_rows]
    touched = np.asarray(table["touched"].to_numpy(), bool)
    return Units(_ints(table, "level"), _ints(table, "unit"), digest, touched)


def _ints(table: pa.Table, name: str) -> Int:
    return np.asarray(table[name].to_numpy(), np.int64)


def _labels(table: pa.Table, name: str) -> Labels:
    return np.asarray(table[name].to_numpy(), np.uint64)


def _write_table(path: Path, parts: Iterable[pa.Table]) -> str:
    """Write one table, durable, and give its digest."""
    import pyarrow.parquet as pq

    given = iter(parts)
    first = next(given)
    with open(path, "wb") as file:
        with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
            writer.write_table(first, row_group_size=_ROWS_PER_GROUP)
            for part in given:
                writer.write_table(part, row_group_size=_ROWS_PER_GROUP)
        file.flush()
        os.fsync(file.fileno())
    return _file_digest(path)


def _read_table(home: Path, name: str, header: dict[str, Any], columns: list[str] | None = None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = home / f"{name}.parquet"
    try:
        if _file_digest(path) != header["tables"].get(name):
            raise damaged(path, "it is not the file that was written")
        # Threads would hold more at a time; the columns come in one piece, of which arrays are views.
        with pq.ParquetFile(path) as file:
            table = file.read(columns, use_threads=False)
        give_back()
        return (
            table
            if columns is None
            else table.select([name for name in columns if name in table.column_names])
        )
    except FileNotFoundError:
        raise damaged(path, "it is missing") from None
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, str(error)) from error


def _file_digest(path: Path) -> str:
    import xxhash

    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return str(state.hexdigest())


def _write_csv(path: Path, merges: Merges) -> None:
    import pyarrow as pa
    from pyarrow import csv

    text = io.BytesIO()
    csv.write_csv(pa.table(vars(merges)), text, csv.WriteOptions(quoting_style="none"))
    write_atomically(path, text.getvalue().replace(b'"', b""))


def _no_plan(folder: Path) -> PlanError:
    if (folder / "run").exists() or (folder / "plan").exists():
        return PlanError(
            "the plan in this folder is not finished",
            where=str(folder),
            remedy="run the same `overseg plan` again: it goes on where it was stopped",
        )
    return PlanError(
        "there is no plan here",
        where=str(folder),
        remedy="give the folder that `overseg plan` wrote; its name ends in .overseg",
    )


def damaged(path: Path, why: str) -> PlanError:
    """The refusal of a plan with a file that is not as it was written."""
    return PlanError(
        f"the plan is damaged: {why}",
        where=str(path),
        remedy="restore the folder from a backup; if its plan is not applied, remove it and plan again",
    )
