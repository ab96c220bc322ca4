"""Contacts and whole labels by their definition: one voxel and one face at a time, exact Python integers."""

from __future__ import annotations

import numpy as np

_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def contacts_of(array: np.ndarray, background: tuple[int, ...] = (0,)) -> dict[tuple[int, int], list[int]]:
    """(a, b) -> for each axis: faces, signed faces, moments of their centres in doubled coordinates."""
    rows: dict[tuple[int, int], list[int]] = {}
    for axis, centre, before, after in _faces(array):
        if before in background or after in background:
            continue
        row = rows.setdefault((min(before, after), max(before, after)), [0] * 33)
        values = [1, 1 if before < after else -1, *moments(centre)]
        for i, value in enumerate(values):
            row[11 * axis + i] += value
    return rows


def surfaces_of(array: np.ndarray, background: tuple[int, ...] = (0,)) -> dict[int, list[int]]:
    """label -> faces normal to z, y, x towards anything else, and those towards background."""
    rows: dict[int, list[int]] = {}
    for axis, _, before, after in _faces(array):
        for own, other in ((before, after), (after, before)):
            if own not in background:
                row = rows.setdefault(own, [0] * 6)
                row[axis] += 1
                row[3 + axis] += other in background
    return rows


def solids_of(array: np.ndarray, background: tuple[int, ...] = (0,)) -> dict[int, list[int]]:
    """label -> voxels, half-open box, moments of the voxels, faces, bare faces."""
    places: dict[int, list[tuple[int, ...]]] = {}
    for place in np.ndindex(array.shape):
        if int(array[place]) not in background:
            places.setdefault(int(array[place]), []).append(place)
    surfaces, rows = surfaces_of(array, background), {}
    for label, own in places.items():
        spans = [side for axis in zip(*own, strict=True) for side in (min(axis), max(axis) + 1)]
        sums = [sum(column) for column in zip(*map(moments, own), strict=True)]
        rows[label] = [len(own), *spans, *sums, *surfaces.get(label, [0] * 6)]
    return rows


def moments(point: tuple[int, ...]) -> list[int]:
    """z, y, x, z², y², x², zy, zx, yx."""
    return [*point, *(point[i] * point[j] for i, j in _PAIRS)]


def _faces(array: np.ndarray):
    """Axis, centre in doubled coordinates, and the two labels of every face between voxels that differ."""
    for place in np.ndindex(array.shape):
        for axis in range(3):
            if place[axis]:
                other = tuple(at - (i == axis) for i, at in enumerate(place))
                before, after = int(array[other]), int(array[place])
                if before != after:
                    yield axis, tuple(2 * at - (i == axis) for i, at in enumerate(place)), before, after
