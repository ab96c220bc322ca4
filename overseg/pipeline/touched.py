"""Which write units may change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from overseg.kernels.tables import Int, Layers
from overseg.pipeline.plandata import Fills, Merges
from overseg.volume import UnitGrid

_LABELS = 1 << 11  # looked up at a time
_RUNS = 1 << 16  # of fills looked at at a time


def touched_units(grid: UnitGrid, layers: Mapping[int, Layers], merges: Merges, fills: Fills) -> Int:
    """Write units of level 0 that may hold a voxel that changes: few more than do, and all that do.

    Parameters
    ----------
    grid : UnitGrid
        Of level 0.
    layers : mapping of int to Layers
        By time point.
    merges : Merges
        Labels that get another name.
    fills : Fills
        Runs that get a new label.

    Returns
    -------
    ndarray of int64
        Unit numbers, sorted.
    """
    touched = np.zeros(grid.n, bool)
    for start in range(0, len(fills.t), _RUNS):
        some = slice(start, start + _RUNS)
        t, z, y, x0, x1 = (column[some] for column in (fills.t, fills.z, fills.y, fills.x0, fills.x1))
        touched[_units_over(grid, t, z, y, y + 1, x0, x1)] = True
    for t in np.unique(merges.t).tolist():
        old = np.sort(merges.old[merges.t == t])
        for start in range(0, len(old), _LABELS):
            rows = layers[t].take(old[start : start + _LABELS])
            at = np.full(len(rows.z), t)
            touched[_units_over(grid, at, rows.z, rows.y0, rows.y1, rows.x0, rows.x1)] = True
    return np.flatnonzero(touched)


def _units_over(grid: UnitGrid, t: Int, z: Int, y0: Int, y1: Int, x0: Int, x1: Int) -> Int:
    """Units that meet boxes of one layer each."""
    size = dict(zip(grid.axes, grid.unit_shape, strict=True))
    first = {"t": t // size.get("t", 1), "c": t * 0, "z": z // size["z"], "y": y0 // size["y"]}
    first["x"] = x0 // size["x"]
    more_y = (y1 - 1) // size["y"] - first["y"]
    more_x = (x1 - 1) // size["x"] - first["x"]
    found = [np.zeros(0, np.int64)]
    for dy in range(int(more_y.max(initial=-1)) + 1):
        for dx in range(int(more_x.max(initial=-1)) + 1):
            mine = (dy <= more_y) & (dx <= more_x)
            unit = np.zeros(int(mine.sum()), np.int64)
            for axis, n in zip(grid.axes, grid.shape, strict=True):
                unit = unit * n + first[axis][mine] + {"y": dy, "x": dx}.get(axis, 0)
            found.append(np.unique(unit))
    return np.unique(np.concatenate(found))
