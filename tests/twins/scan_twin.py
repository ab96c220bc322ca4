"""The scan tables by their definition: one voxel and one column at a time, exact Python integers."""

from __future__ import annotations

import numpy as np

Key = tuple[int, ...]


def layers_of(array: np.ndarray, lags: int, background: tuple[int, ...] = (0,)) -> dict[Key, dict[str, int]]:
    """(label, z) -> area, moments about the volume's origin, box, overlaps with earlier layers."""
    rows: dict[Key, dict[str, int]] = {}
    for z in range(array.shape[0]):
        for label in (int(v) for v in np.unique(array[z])):
            if label in background:
                continue
            ys, xs = (index.tolist() for index in np.nonzero(array[z] == array.dtype.type(label)))
            rows[label, z] = {
                "area": len(ys),
                "sy": sum(ys),
                "sx": sum(xs),
                "syy": sum(y * y for y in ys),
                "sxx": sum(x * x for x in xs),
                "syx": sum(y * x for y, x in zip(ys, xs, strict=True)),
                "y0": min(ys),
                "y1": max(ys) + 1,
                "x0": min(xs),
                "x1": max(xs) + 1,
            } | {
                f"back_{d}": sum(int(array[z - d, y, x]) == label for y, x in zip(ys, xs, strict=True))
                if z >= d
                else 0
                for d in range(1, lags + 1)
            }
    return rows


def pairs_of(array: np.ndarray, max_gap: int, background: tuple[int, ...] = (0,)) -> dict[Key, int]:
    """(a, b, z, gap) -> facing columns."""
    rows: dict[Key, int] = {}
    nz, ny, nx = array.shape
    for y in range(ny):
        for x in range(nx):
            column = [int(v) for v in array[:, y, x]]
            for z, a in enumerate(column):
                for gap in range(1, max_gap + 1):
                    if z + gap + 1 >= nz:
                        break
                    b = column[z + gap + 1]
                    between = column[z + 1 : z + gap + 1]
                    if a != b and not {a, b} & set(background) and not {a, b} & set(between):
                        rows[a, b, z, gap] = rows.get((a, b, z, gap), 0) + 1
    return rows


def stacked_of(array: np.ndarray, background: tuple[int, ...] = (0,)) -> dict[Key, tuple[int, int, int]]:
    """(a, b) -> columns with a directly above b, first and last layer of a in them."""
    rows: dict[Key, tuple[int, int, int]] = {}
    for z, y, x in np.ndindex(max(array.shape[0] - 1, 0), *array.shape[1:]):
        a, b = int(array[z, y, x]), int(array[z + 1, y, x])
        if a != b and a not in background and b not in background:
            n, z_min, z_max = rows.get((a, b), (0, z, z))
            rows[a, b] = (n + 1, min(z_min, z), max(z_max, z))
    return rows
