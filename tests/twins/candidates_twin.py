"""The candidate rule by its words: sets of pixels, one pair of faces at a time, links found by recursion."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Pixels = frozenset[tuple[int, int]]


class Row(NamedTuple):
    a: int
    b: int
    z: int
    gap: int


class Volume:
    """Masks of every label in every layer."""

    def __init__(self, array: np.ndarray) -> None:
        self.column = {
            (y, x): [int(v) for v in array[:, y, x]]
            for y in range(array.shape[1])
            for x in range(array.shape[2])
        }
        self.labels = sorted({int(v) for v in np.unique(array)} - {0})
        self.depth = array.shape[0]
        self._masks = {
            (label, z): frozenset(place for place, column in self.column.items() if column[z] == label)
            for label in self.labels
            for z in range(self.depth)
        }

    def mask(self, label: int, z: int) -> Pixels:
        return self._masks.get((label, z), frozenset())

    def layers(self, label: int) -> list[int]:
        return [z for z in range(self.depth) if self.mask(label, z)]

    def facing(self, row: Row) -> int:
        """Columns with a in its face, b in its face, and neither between; for holes, in both faces."""
        below = row.z + row.gap + 1
        both = self.mask(row.a, row.z) & self.mask(row.b, below)
        if row.a == row.b:
            return len(both)
        both = {
            place
            for place, column in self.column.items()
            if column[row.z] == row.a
            and column[below] == row.b
            and not {row.a, row.b} & set(column[row.z + 1 : below])
        }
        return len(both)

    def ends(self, label: int, z: int, step: int, lags: int) -> tuple[bool, bool]:
        """Whether a label ends at layer z, and whether slivers were passed over."""
        face = self.mask(label, z)
        slivers = 0
        for lag in range(1, lags + 1):
            later = self.mask(label, z + step * lag)
            if 4 * len(later) >= len(face):
                return False, False
            if 20 * len(later & face) >= len(face):
                slivers = lag
        return bool(face) and slivers < lags, slivers > 0


def candidates_of(
    array: np.ndarray, max_gap: int
) -> dict[tuple[int, int, int, int], tuple[bool, tuple[int, ...], int]]:
    """(a, b, z, gap) -> whether slivers were passed over, labels that are noise, facing columns."""
    volume = Volume(array)
    rows: dict[Row, bool] = {}
    for a in volume.labels:
        for b in volume.labels:
            for gap in range(1, max_gap + 1):
                for z in range(volume.depth - gap - 1):
                    row = Row(a, b, z, gap)
                    lags = gap if a == b else gap + 1
                    end, end_sliver = volume.ends(a, z, +1, lags)
                    start, start_sliver = volume.ends(b, z + gap + 1, -1, lags)
                    if end and start and volume.facing(row):
                        rows[row] = end_sliver or start_sliver
    noise = {x for row in rows for x in _inside(volume, row) if _small(volume, row, x)}
    rows = {row: sliver for row, sliver in rows.items() if not {row.a, row.b} & noise}
    kept = {link for row in rows for link in _resolved(volume, row, noise)}
    return {
        tuple(row): (
            rows.get(row, False),
            tuple(x for x in _inside(volume, row) if x in noise and _small(volume, row, x)),
            volume.facing(row),
        )
        for row in kept
    }


def _links(volume: Volume, row: Row, x: int) -> tuple[Row, Row]:
    layers = volume.layers(x)
    above = Row(row.a, x, row.z, layers[0] - row.z - 1)
    return above, Row(x, row.b, layers[-1], row.z + row.gap - layers[-1])


def _inside(volume: Volume, row: Row) -> list[int]:
    """Labels wholly inside the gap whose first layer faces a's face and whose last layer faces b's."""
    found = []
    for x in volume.labels:
        layers = volume.layers(x)
        if row.z < layers[0] and layers[-1] < row.z + row.gap + 1:
            above, below = _links(volume, row, x)
            if volume.facing(above) and volume.facing(below):
                found.append(x)
    return found


def _small(volume: Volume, row: Row, x: int) -> bool:
    face = min(len(volume.mask(row.a, row.z)), len(volume.mask(row.b, row.z + row.gap + 1)))
    return 4 * max(len(volume.mask(x, z)) for z in volume.layers(x)) < face


def _resolved(volume: Volume, row: Row, noise: set[int]) -> set[Row]:
    chain = [x for x in _inside(volume, row) if x not in noise]
    if not chain:
        return {row}
    return {link for x in chain for half in _links(volume, row, x) for link in _resolved(volume, half, noise)}
