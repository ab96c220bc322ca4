"""The tables that walk through the house, as plain arrays. See docs/architecture.md, sections 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

from overseg.kernels.hashing import drawn

Int = npt.NDArray[np.int64]
Labels = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]

#: What is known of a label, as bits.
TOO_LARGE, BACKGROUND_LIKE, CUT = 1, 2, 4


@dataclass(frozen=True)
class LabelTable:
    """What is known of whole labels.

    Attributes
    ----------
    labels : ndarray of uint64, shape (m,)
        Sorted.
    voxels, largest : ndarray of int64, shape (m,)
        Voxels of the label, and of its largest layer.
    first, last : ndarray of int64, shape (m,)
        First and last layer.
    """

    labels: Labels
    voxels: Int
    largest: Int
    first: Int
    last: Int

    def index(self, labels: Labels) -> Int:
        """Positions of `labels` in ``self.labels`` (all must be there)."""
        return np.searchsorted(self.labels, labels)


class Layers(Protocol):
    """Every label in every layer, wherever it is kept: in memory (`LayerTable`) or on disk."""

    @property
    def lags(self) -> int:
        """Layers back that overlaps are known for: the widest gap and one."""
        ...

    def facts(self, labels: Labels) -> LabelTable:
        """What is known of these labels; each once, sorted. All must be there."""
        ...

    def take(self, labels: Labels) -> LayerTable:
        """The rows of these labels; each once, sorted. All must be there."""
        ...

    def sizes(self) -> Int:
        """Voxels of every label that may be a cell, in any order."""
        ...

    def some(self, wanted: int) -> Labels:
        """About so many labels that may be cells, sorted; see `drawn`."""
        ...


@dataclass(frozen=True)
class LayerTable:
    """What is known of every label in every layer, added up over all tasks.

    Rows are sorted by (label, z). Sums of coordinates are about the corner of the label's box,
    so that they are exact in int64; `too_large` names the labels for which they are not.

    Attributes
    ----------
    label : ndarray of uint64, shape (n,)
    z : ndarray of int64, shape (n,)
        Layer index in the volume.
    area : ndarray of int64, shape (n,)
        Voxels of the label in the layer.
    sy, sx, syy, sxx, syx : ndarray of int64, shape (n,)
        Sums of y, x, y², x², y·x over those voxels, about the label's corner, in voxels.
    y0, y1, x0, x1 : ndarray of int64, shape (n,)
        Half-open box in the layer, in absolute voxel coordinates.
    back : ndarray of int64, shape (n, max_gap + 1)
        Column d - 1: voxels where the same label is also in layer z - d.
    labels : ndarray of uint64, shape (m,)
        The labels, sorted.
    start : ndarray of int64, shape (m + 1,)
        Rows of label i are ``start[i]:start[i + 1]``.
    corner_y, corner_x : ndarray of int64, shape (m,)
        Corner of the label's box.
    too_large : ndarray of bool, shape (m,)
        Too large to be a cell: its moments do not fit.
    """

    label: Labels
    z: Int
    area: Int
    sy: Int
    sx: Int
    syy: Int
    sxx: Int
    syx: Int
    y0: Int
    y1: Int
    x0: Int
    x1: Int
    back: Int
    labels: Labels
    start: Int
    corner_y: Int
    corner_x: Int
    too_large: Bool

    def index(self, labels: Labels) -> Int:
        """Positions of `labels` in ``self.labels`` (all must be there)."""
        return np.searchsorted(self.labels, labels)

    def row(self, labels: Labels, z: Int) -> Int:
        """Rows of the pairs (label, z); -1 where the label is not in that layer."""
        if not len(self.z):
            return np.full(len(labels), -1, np.int64)
        at = self.index(labels)
        low, high = self.start[at], self.start[at + 1]
        last = high
        while (low < high).any():
            middle = (low + high) // 2
            below = (low < high) & (self.z[np.minimum(middle, len(self.z) - 1)] < z)
            low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
        found = (low < last) & (self.z[np.minimum(low, len(self.z) - 1)] == z)
        return np.where(found, low, -1)

    @property
    def lags(self) -> int:
        """See `Layers`."""
        return int(self.back.shape[1])

    def facts(self, labels: Labels) -> LabelTable:
        """See `Layers`."""
        at = self.index(np.unique(labels))
        first, last = self.start[at], self.start[at + 1] - 1
        voxels, largest = (self._over(how)[at] for how in (np.add, np.maximum))
        return LabelTable(self.labels[at], voxels, largest, self.z[first], self.z[last])

    def take(self, labels: Labels) -> LayerTable:
        """See `Layers`."""
        at = self.index(np.unique(labels))
        counts = np.diff(self.start)[at]
        start = np.append(0, np.cumsum(counts))
        rows = np.arange(start[-1]) + np.repeat(self.start[at] - start[:-1], counts)
        of_label = ("labels", "corner_y", "corner_x", "too_large")
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        chosen = {
            name: values[at if name in of_label else rows]
            for name, values in parts.items()
            if name != "start"
        }
        return LayerTable(**chosen, start=start)

    def sizes(self) -> Int:
        """See `Layers`."""
        return self._over(np.add)[~self.too_large]

    def some(self, wanted: int) -> Labels:
        """See `Layers`."""
        voxels, largest = self._over(np.add), self._over(np.maximum)
        rows = np.diff(self.start)
        total = int((~self.too_large).sum())
        return self.labels[~self.too_large & drawn(voxels, largest, rows, total, wanted)]

    def _over(self, how: np.ufunc) -> Int:
        """Areas of each label, reduced."""
        return how.reduceat(self.area, self.start[:-1]) if len(self.labels) else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Candidates:
    """Pairs of faces that may belong to one cell: a's end face in layer z, b's start face in z + gap + 1.

    Attributes
    ----------
    a, b : ndarray of uint64, shape (n,)
        Upper (smaller z) and lower label; equal for holes.
    z, gap, overlap, area_a, area_b : ndarray of int64, shape (n,)
        Layer of a's face, layers between the faces, facing columns, areas of the two faces, in voxels.
    hole : ndarray of bool, shape (n,)
        One label that misses layers: a fill without a merge.
    sliver : ndarray of bool, shape (n,)
        Layers below 25% of the one before were passed over to find a face.
    noise : tuple of tuple of int
        For each row the labels that lie wholly in its gap layers and are small enough to be absorbed.
    """

    a: Labels
    b: Labels
    z: Int
    gap: Int
    overlap: Int
    area_a: Int
    area_b: Int
    hole: Bool
    sliver: Bool
    noise: tuple[tuple[int, ...], ...]

    @classmethod
    def none(cls) -> Candidates:
        """No candidates."""
        labels, numbers, no = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, bool)
        return cls(labels, labels, numbers, numbers, numbers, numbers, numbers, no, no, ())

    def __len__(self) -> int:
        return len(self.a)

    def take(self, rows: Int | Bool) -> Candidates:
        """Some of the candidates."""
        numbers = np.arange(len(self))[rows]
        columns = {each.name: getattr(self, each.name)[rows] for each in fields(self) if each.name != "noise"}
        return Candidates(**columns, noise=tuple(self.noise[row] for row in numbers.tolist()))
