"""Scan a volume: every chunk is decoded once, and what is known of it goes into tables of sums.

A task is a column of whole write units in y and x and a segment of them in z, streamed downward. The first
and last layers of a segment are kept, and a small seam step joins them to the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import DamagedError, TaskError
from overseg.kernels.scan import Scanner
from overseg.kernels.scan_gpu import CardScanner, find_cupy
from overseg.pipeline.edges import Edges, Touching, edge_path
from overseg.pipeline.scantables import write_scan
from overseg.pipeline.scantask import (
    ScanTask,
    all_units,
    plan_scan,
    predicted_peak,
)
from overseg.pipeline.stamps import mark_of, stamps_of, write_stamps
from overseg.volume import Volume, check_block, unit_digest

Place = tuple[int, int, int]

__all__ = [
    "ScanTask",
    "all_units",
    "hole_of",
    "plan_scan",
    "predicted_peak",
    "receipt_fits",
    "scan_task",
    "unit_stamps",
]


def scan_task(vol: Volume, task: ScanTask, out_dir: str, device: str = "cpu") -> dict[str, Any]:
    """Read the units of a task once, and write their tables and digests.

    Parameters
    ----------
    vol : Volume
        The volume.
    task : ScanTask
        Which units.
    out_dir : str
        Folder for the task's files.
    device : str
        ``cuda`` counts on a graphics card, where CuPy finds one: the tables are the same.

    Returns
    -------
    dict
        The receipt: ``path, edges, voxels, units, unread, rows, bytes, seconds, stamp``; `unread` are units
        whose stored bytes cannot be decoded, each with the reason.

    Raises
    ------
    VolumeError
        If a unit holds labels that are none; the unit is named.
    StorageError
        If the volume cannot be read or the folder cannot be written.
    TaskError
        If a unit was stored anew meanwhile; nothing is written then.
    """
    begin = time.perf_counter()
    stamps = stamps_of(vol, _units(task))
    folder, lags = Path(out_dir), task.max_gap + 1
    scanners = [_scanner(task, device) for _ in task.time_points]
    above: dict[int, npt.NDArray[Any]] = {}
    digests: dict[int, bytes] = {}
    unread: list[list[Any]] = []
    edges, touching = Edges(task), Touching(task) if task.contacts else None
    for units in task.steps:
        for column, unit in enumerate(units):
            try:
                data = vol.read_unit(unit)
                digests[unit] = unit_digest(data)
            except DamagedError as error:  # counted as background; who lies near it is left alone
                data = np.full(task.grid.extent(unit), hole_of(task.background, vol), vol.dtype)
                unread.append([unit, error.what])
            part, place = _in_box(task, unit, data)
            old = above.get(column, part[:, :0])
            added = [_add(*both, place, lags) for both in zip(scanners, old, part, strict=True)]
            if part.size < data.size or not all(added):
                check_block(data, where=vol.unit_name(unit))
            edges.keep(place, part)
            if touching is not None:
                touching.add(old, part, place)
            above[column] = part[:, -lags:].copy() if part.shape[1] >= lags else _joined(old, part)[:, -lags:]
            # The next unit is decoded into the room of this one.
            del data, part
        for scanner in scanners:
            scanner.step()
    _refuse_changed(vol, stamps)
    path = folder / f"{task.name}.tables"
    tables = {t: scanner.tables() for t, scanner in zip(task.time_points, scanners, strict=True)}
    if touching is not None:
        found = zip(tables.items(), touching.tables(), strict=True)
        tables = {t: replace(table, **contacts) for (t, table), contacts in found}
    size = write_scan(path, tables, lags, task.partitions, digests)
    write_stamps(folder, task.name, stamps, digests)
    size += edges.write(folder, task.name)
    return {
        "path": path.name,
        "edges": edges.names,
        "voxels": len(task.time_points) * math.prod(hi - lo for lo, hi in task.box),
        "units": len(digests),
        "unread": unread,
        "rows": sum(len(table.layers["label"]) for table in tables.values()),
        "bytes": size,
        "seconds": time.perf_counter() - begin,
        # What was unread may be restored with its old size and time: nothing made of it is to be used again.
        "stamp": None if unread else mark_of(stamps),
    }


def hole_of(background: tuple[int, ...], vol: Volume) -> int:
    """The label that stands for voxels that cannot be decoded: 0 may be a cell."""
    return next((label for label in background if label <= np.iinfo(vol.dtype).max), 0)


def receipt_fits(vol: Volume, task: ScanTask, receipt: Mapping[str, Any], out_dir: str) -> bool:
    """Whether a task done before still stands: its files are there, no unit was rewritten since."""
    folder = Path(out_dir)
    needed = [folder / f"{task.name}.tables"]
    needed += [edge_path(folder, task.name, which) for which in receipt.get("edges", ())]
    stamp = receipt.get("stamp")
    return stamp is not None and all(path.exists() for path in needed) and unit_stamps(vol, task) == stamp


def unit_stamps(vol: Volume, task: ScanTask) -> str | None:
    """One mark of the stored bytes of all units of a task; None where the store cannot say."""
    return mark_of(stamps_of(vol, _units(task)))


def _refuse_changed(vol: Volume, stamps: Mapping[int, str] | None) -> None:
    """See that no unit was stored anew since its stamp was taken.

    A task that stood still would write what it read long ago over what others read since, whose receipts are
    valid. (An object store would be asked as often as it was read from.)
    """
    if stamps is None or not vol.place.local:
        return
    changed = next((unit for unit, stamp in stamps.items() if vol.unit_stamp(unit) != stamp), None)
    if changed is not None:
        raise TaskError(
            "voxels were stored anew while they were read",
            where=vol.unit_name(changed),
            remedy="plan when nobody writes to the volume: run the same command again, what is done is kept",
        )


def _units(task: ScanTask) -> list[int]:
    return [unit for units in task.steps for unit in units]


def _scanner(task: ScanTask, device: str) -> Scanner | CardScanner:
    if device == "cuda" and (cupy := find_cupy()) is not None:
        return CardScanner(cupy, task.max_gap, task.background)
    return Scanner(task.box[0][0], (task.box[1][0], task.box[2][0]), task.max_gap, task.background)


def _in_box(task: ScanTask, unit: int, data: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Place]:
    """The part of a unit that lies in the task's box, as (t, z, y, x), and the voxel where it begins."""
    spans = [
        (max(span.start, lo), min(span.stop, hi), span.start)
        for span, (lo, hi) in zip(task.grid.box(unit), task.box, strict=True)
    ]
    # Channels are singletons, so that whatever stands before z is time.
    stack = data.reshape(-1, *data.shape[-3:])
    part = stack[:, *(slice(first - start, last - start) for first, last, start in spans)]
    z, y, x = (first for first, _, _ in spans)
    return np.ascontiguousarray(part), (z, y, x)


def _add(
    scanner: Scanner | CardScanner, above: npt.NDArray[Any], layers: npt.NDArray[Any], place: Place, lags: int
) -> bool:
    """Count the layers of a unit below those above it, of which only a few are put beside each other."""
    z, y, x = place
    if not len(above):
        return scanner.add(layers, 0, place)
    head = np.concatenate([above, layers[:lags]])
    fine = scanner.add(head, len(above), (z - len(above), y, x))
    return fine and (len(layers) <= lags or scanner.add(layers, lags, place))


def _joined(above: npt.NDArray[Any], layers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([above, layers], axis=1)
