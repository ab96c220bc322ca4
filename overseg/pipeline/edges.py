"""What lies along the borders of a scan task: kept beside its tables for the seams, and joined inside it.

Along z a task keeps the first and the last layers of its box. Where contacts are asked for it also keeps the
outermost planes in y and x, for its neighbours there; those between its own units it counts itself.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import PlanError
from overseg.kernels.reduce import Columns
from overseg.kernels.touch import TouchScanner
from overseg.pipeline.scantables import write_whole
from overseg.pipeline.scantask import Box, ScanTask

Place = tuple[int, int, int]
Voxels = npt.NDArray[Any]

#: What lies before a border and what lies behind it, for borders normal to each axis.
FACING = (("last", "first"), ("back", "front"), ("right", "left"))


class Edges:
    """Layers and planes of a task that its seams will need, filled unit by unit.

    Parameters
    ----------
    task : ScanTask
    """

    def __init__(self, task: ScanTask) -> None:
        self._boxes = edge_boxes(task)
        # Without signs, so that both sides of a seam are of one type.
        self._voxels = {
            which: np.zeros((len(task.time_points), *(hi - lo for lo, hi in box)), f"=u{task.itemsize}")
            for which, box in self._boxes.items()
        }

    @property
    def names(self) -> list[str]:
        """Which there are, sorted."""
        return sorted(self._boxes)

    def keep(self, place: Place, part: Voxels) -> None:
        """Copy what a unit has of them.

        Parameters
        ----------
        place : tuple of int
            Voxel (z, y, x) of the first voxel of `part`.
        part : ndarray of integers, shape (t, z, y, x)
        """
        for which, box in self._boxes.items():
            spans = [
                (max(at, lo), min(at + n, hi), at, lo)
                for at, n, (lo, hi) in zip(place, part.shape[1:], box, strict=True)
            ]
            if all(first < after for first, after, _, _ in spans):
                there = [slice(first - lo, after - lo) for first, after, _, lo in spans]
                here = [slice(first - at, after - at) for first, after, at, _ in spans]
                target = self._voxels[which]
                target[:, *there] = part[:, *here].view(target.dtype)

    def write(self, folder: Path, name: str) -> int:
        """Write them beside the task's tables; bytes written. Raises `StorageError`."""
        from numcodecs import Zstd

        size = 0
        for which, voxels in self._voxels.items():
            buffer = io.BytesIO()
            np.save(buffer, voxels, allow_pickle=False)
            size += write_whole(
                edge_path(folder, name, which), bytes(Zstd(level=1).encode(buffer.getvalue()))
            )
        return size


def edge_boxes(task: ScanTask) -> dict[str, Box]:
    """Half-open voxel ranges (z, y, x) of the layers and planes that a task keeps for its seams."""
    boxes, kept = {}, (*task.keep, *task.beside)
    for axis, (high, low) in enumerate(FACING):
        depth = 1 if axis else task.max_gap + 1
        lo, hi = task.box[axis]
        for end, (which, span) in enumerate(((low, (lo, lo + depth)), (high, (hi - depth, hi)))):
            if kept[2 * axis + end]:
                z, y, x = (span if i == axis else whole for i, whole in enumerate(task.box))
                boxes[which] = (z, y, x)
    return boxes


def edge_path(folder: Path, name: str, which: str) -> Path:
    """File of one of them."""
    return folder / f"{name}.{which}.npy.zst"


def read_edge(path: Path) -> Voxels:
    """Layers or planes as (t, z, y, x). Raises `PlanError` if the file is missing or damaged."""
    from numcodecs import Zstd

    try:
        layers: Voxels = np.load(io.BytesIO(Zstd().decode(path.read_bytes())), allow_pickle=False)
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise PlanError(
            f"the layers kept for a seam are missing or damaged: {error}",
            where=str(path),
            remedy="remove that file and its folder, then run the same command again: the scan is redone",
        ) from None
    return layers


class Touching:
    """Contacts inside a task whose units come row by row, layer of units by layer of units.

    Parameters
    ----------
    task : ScanTask
    """

    def __init__(self, task: ScanTask) -> None:
        self._scanners = [TouchScanner(task.background) for _ in task.time_points]
        _, (self._y0, _), (self._x0, _) = task.box
        # Planes of this layer of units that wait for their neighbours: in y by column, in x one.
        self._front: dict[int, Voxels] = {}
        self._left: Voxels | None = None

    def add(self, above: Voxels, part: Voxels, place: Place) -> None:
        """Count the faces inside a unit, and those towards the units above, before and left of it.

        Parameters
        ----------
        above : ndarray of integers, shape (t, any, y, x)
            Layers of the task above the unit, if there are any.
        part : ndarray of integers, shape (t, z, y, x)
        place : tuple of int
            Voxel (z, y, x) of the unit's first voxel.
        """
        _, y, x = place
        front = self._front.get(x) if y > self._y0 else None
        left = self._left if x > self._x0 else None
        for t, (scanner, voxels) in enumerate(zip(self._scanners, part, strict=True)):
            scanner.add(voxels, 0, place)
            if above.shape[1]:
                scanner.planes(above[t, -1], voxels[0], 0, place)
            if front is not None:
                scanner.planes(front[t], voxels[:, 0], 1, place)
            if left is not None:
                scanner.planes(left[t], voxels[:, :, 0], 2, place)
        self._front[x], self._left = part[:, :, -1].copy(), part[:, :, :, -1].copy()

    def tables(self) -> list[dict[str, Columns]]:
        """For each time point the tables ``contacts`` and ``surfaces``."""
        return [tables_of(scanner) for scanner in self._scanners]


def tables_of(scanner: TouchScanner) -> dict[str, Columns]:
    """What was counted, by the names of the tables in `ScanTables`."""
    return dict(zip(("contacts", "surfaces"), scanner.tables(), strict=True))
