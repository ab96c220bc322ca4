"""Scan a volume: every chunk is decoded once, and what is known of it goes into tables of sums.

A task is a column of whole write units in y and x and a segment of them in z, streamed downward. The first
and last layers of a segment are kept, and a small seam step joins them to the next.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import PlanError
from overseg.kernels.reduce import ScanTables, merge_tables
from overseg.kernels.scan import scan_block, scan_seam
from overseg.pipeline.scantables import write_scan, write_whole
from overseg.pipeline.scantask import (
    ScanTask,
    SeamTask,
    all_units,
    plan_scan,
    plan_seams,
    predicted_peak,
)
from overseg.volume import Volume, check_block, unit_digest

__all__ = [
    "ScanTask",
    "SeamTask",
    "all_units",
    "plan_scan",
    "plan_seams",
    "predicted_peak",
    "receipt_fits",
    "scan_task",
    "seam_task",
    "unit_stamps",
]


def scan_task(vol: Volume, task: ScanTask, out_dir: str) -> dict[str, Any]:
    """Read the units of a task once, and write their tables and digests.

    Parameters
    ----------
    vol : Volume
        The volume.
    task : ScanTask
        Which units.
    out_dir : str
        Folder for the task's files.

    Returns
    -------
    dict
        The receipt: ``path, edges, voxels, units, rows, bytes, seconds, stamp``.

    Raises
    ------
    VolumeError
        If a unit cannot be decoded or holds labels that are none; the unit is named.
    StorageError
        If the volume cannot be read or the folder cannot be written.
    """
    begin = time.perf_counter()
    stamp = unit_stamps(vol, task)
    folder, lags = Path(out_dir), task.max_gap + 1
    found: dict[int, list[ScanTables]] = {t: [] for t in task.time_points}
    digests: dict[int, bytes] = {}
    edges: dict[str, npt.NDArray[Any]] = {}
    z, context = task.box[0][0], _layers(task, 0)
    for units in task.steps:
        above, depth = context.shape[1], _depth(task, units[0])
        window = _layers(task, above + depth)
        window[:, :above], fresh = context, window[:, above:]
        for unit in units:
            data = vol.read_unit(unit)
            check_block(data, where=vol.unit_name(unit))
            digests[unit] = unit_digest(data)
            _place(task, fresh, z, unit, data)
        origin = (z - above, task.box[1][0], task.box[2][0])
        for t, stack in zip(task.time_points, window, strict=True):
            found[t].append(scan_block(stack, above, origin, task.max_gap, task.background))
        if task.keep[0] and z - task.box[0][0] < lags:
            edges["first"] = np.concatenate([edges.get("first", fresh[:, :0]), fresh[:, :lags]], axis=1)[
                :, :lags
            ]
        context = window[:, max(above + depth - lags, 0) :].copy()
        del window, fresh
        z += depth
    if task.keep[1]:
        edges["last"] = context
    path = folder / f"{task.name}.parquet"
    tables = {t: merge_tables(parts) for t, parts in found.items()}
    size = write_scan(path, tables, lags, task.partitions, digests)
    for which, layers in edges.items():
        size += _write_edge(_edge(folder, task.name, which), layers)
    return {
        "path": path.name,
        "edges": sorted(edges),
        "voxels": len(task.time_points) * math.prod(hi - lo for lo, hi in task.box),
        "units": len(digests),
        "rows": sum(len(table.layers["label"]) for table in tables.values()),
        "bytes": size,
        "seconds": time.perf_counter() - begin,
        "stamp": stamp,
    }


def seam_task(task: SeamTask, out_dir: str) -> dict[str, Any]:
    """Join two segments along z, from the layers that both kept.

    Parameters
    ----------
    task : SeamTask
        Which two.
    out_dir : str
        Folder of the scan's files.

    Returns
    -------
    dict
        The receipt: ``path, bytes``.

    Raises
    ------
    PlanError
        If the layers that a segment kept are missing or damaged.
    """
    begin = time.perf_counter()
    folder, lags = Path(out_dir), task.max_gap + 1
    upper = _read_edge(_edge(folder, task.upper, "last"))
    lower = _read_edge(_edge(folder, task.lower, "first"))
    split = upper.shape[1]
    origin = (task.origin[0] - split, *task.origin[1:])
    both = np.concatenate([upper, lower], axis=1)
    tables = {
        t: scan_seam(stack, split, origin, task.max_gap, task.background)
        for t, stack in zip(task.time_points, both, strict=True)
    }
    path = folder / f"{task.name}.parquet"
    size = write_scan(path, tables, lags, task.partitions)
    return {"path": path.name, "bytes": size, "seconds": time.perf_counter() - begin}


def receipt_fits(vol: Volume, task: ScanTask, receipt: Mapping[str, Any], out_dir: str) -> bool:
    """Whether a task done before still stands: its files are there, no unit was rewritten since."""
    folder = Path(out_dir)
    needed = [folder / f"{task.name}.parquet"]
    needed += [_edge(folder, task.name, which) for which in receipt.get("edges", ())]
    stamp = receipt.get("stamp")
    return stamp is not None and all(path.exists() for path in needed) and unit_stamps(vol, task) == stamp


def unit_stamps(vol: Volume, task: ScanTask) -> str | None:
    """One mark of the stored bytes of all units of a task; None where the store cannot say."""
    hasher = hashlib.sha256()
    for units in task.steps:
        for unit in units:
            stamp = vol.unit_stamp(unit)
            if stamp is None:
                return None
            hasher.update(f"{unit}:{stamp}\n".encode())
    return hasher.hexdigest()


def _depth(task: ScanTask, unit: int) -> int:
    """Layers of a unit that lie in the task's box."""
    span, (lo, hi) = task.grid.box(unit)[0], task.box[0]
    return int(min(span.stop, hi) - max(span.start, lo))


def _layers(task: ScanTask, depth: int) -> npt.NDArray[Any]:
    """Room for some layers of the task, as (t, z, y, x) without signs."""
    (_, _), (y0, y1), (x0, x1) = task.box
    return np.zeros((len(task.time_points), depth, y1 - y0, x1 - x0), f"=u{task.itemsize}")


def _place(task: ScanTask, fresh: npt.NDArray[Any], z: int, unit: int, data: npt.NDArray[Any]) -> None:
    """Put the part of a unit that lies in the task's box into the window."""
    here, there = [], []
    for span, (lo, hi), start in zip(
        task.grid.box(unit), task.box, (z, task.box[1][0], task.box[2][0]), strict=True
    ):
        first, last = max(span.start, lo), min(span.stop, hi)
        here.append(slice(first - start, last - start))
        there.append(slice(first - span.start, last - span.start))
    # Channels are singletons, so that whatever stands before z is time.
    stack = data.reshape(-1, *data.shape[-3:])
    fresh[:, *here] = stack[:, *there].view(fresh.dtype)


def _edge(folder: Path, name: str, which: str) -> Path:
    return folder / f"{name}.{which}.npy.zst"


def _write_edge(path: Path, layers: npt.NDArray[Any]) -> int:
    from numcodecs import Zstd

    buffer = io.BytesIO()
    np.save(buffer, layers, allow_pickle=False)
    return write_whole(path, bytes(Zstd(level=1).encode(buffer.getvalue())))


def _read_edge(path: Path) -> npt.NDArray[Any]:
    from numcodecs import Zstd

    try:
        layers: npt.NDArray[Any] = np.load(io.BytesIO(Zstd().decode(path.read_bytes())), allow_pickle=False)
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise PlanError(
            f"the layers kept for a seam are missing or damaged: {error}",
            where=str(path),
            remedy="remove that file and its folder, then run the same command again: the scan is redone",
        ) from None
    return layers
