"""Add up what the scan tasks found. Sums, minima and maxima do not care how the volume was cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overseg.kernels.hashing import sum_of_hashes
from overseg.kernels.reduce import Columns, ScanTables, layers_of, matrix_of, views_of
from overseg.kernels.tables import Int, Labels, LayerTable
from overseg.pipeline.scantables import JUDGED, columns_of

Range = tuple[int, int]
Box = tuple[Range, Range, Range]

_LARGE = 5  # a label of more than a fifth of the volume looks like background


@dataclass(frozen=True)
class Summary:
    """Whole labels, in the order of `LayerTable.labels`.

    Attributes
    ----------
    voxels : ndarray of int64, shape (m,)
    z0, z1, y0, y1, x0, x1 : ndarray of int64, shape (m,)
        Half-open box, in absolute voxel coordinates.
    """

    voxels: Int
    z0: Int
    z1: Int
    y0: Int
    y1: Int
    x0: Int
    x1: Int


@dataclass(frozen=True)
class Reconciled:
    """Some labels of one time point of a volume, or all of them.

    Attributes
    ----------
    layers : LayerTable
        Every one of the labels in every layer.
    pairs, stacked : dict of ndarray
        Facing and touching labels; see docs/architecture.md, section 3.
    summary : Summary
        Whole labels.
    background_like : ndarray of uint64, sorted
        Labels over a fifth of the volume, or present on all its faces: never candidates.
    cut : ndarray of uint64, sorted
        Labels that meet a face of the region inside the volume: part of them may not have been seen.
    fingerprint : int
        128-bit sum of hashes of all rows; does not depend on layout, integer type or order.
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.
    """

    layers: LayerTable
    pairs: Columns
    stacked: Columns
    summary: Summary
    background_like: Labels
    cut: Labels
    fingerprint: int
    box: Box


def from_tables(tables: ScanTables, t: int, box: Box, shape: tuple[int, int, int]) -> Reconciled:
    """What is known of some labels of one time point, or of all.

    Parameters
    ----------
    tables : ScanTables
        All rows of those labels, merged; pairs and stacked rows are those of which a is one of them.
    t : int
        Time point.
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.
    shape : tuple of int
        Of the volume, (z, y, x).

    Returns
    -------
    Reconciled
    """
    return from_rows(_matrices(tables), t, box, shape)


def from_rows(tables: Sequence[Int], t: int, box: Box, shape: tuple[int, int, int]) -> Reconciled:
    """As `from_tables`, of the tables' matrices, which become the columns of the result.

    Parameters
    ----------
    tables : sequence of ndarray of int64, shape (n, columns)
        As `overseg.pipeline.scantables.added_rows` gives them, in the order of its `JUDGED`.
    t, box, shape
        As in `from_tables`.

    Returns
    -------
    Reconciled
    """
    rows, pairs, stacked = tables
    # Of the rows as they came: moments are about to be moved.
    mark = _hashes(tables, t)
    layers, boxes = layers_of(rows)
    summary = _summary(layers, boxes)
    return Reconciled(
        layers=layers,
        pairs=views_of(pairs, columns_of("pairs", layers.lags)),
        stacked=views_of(stacked, columns_of("stacked", layers.lags)),
        summary=summary,
        background_like=_background_like(layers, summary, box),
        cut=_cut(layers, summary, box, shape),
        fingerprint=mark,
        box=box,
    )


def fingerprint(tables: ScanTables, t: int = 0) -> int:
    """Sum modulo 2^128 of a hash of every row of merged tables.

    Parameters
    ----------
    tables : ScanTables
        Rows in any order, one per key.
    t : int
        Time point; enters every hash.

    Returns
    -------
    int
        0 .. 2^128 - 1; fingerprints of several time points add up modulo 2^128.
    """
    return _hashes(_matrices(tables), t)


def fingerprint_text(fingerprints: Iterable[int]) -> str:
    """The fingerprint of a volume: those of its time points added up, 32 hexadecimal digits."""
    return f"{sum(fingerprints) % 2**128:032x}"


def _matrices(tables: ScanTables) -> list[Int]:
    lags = sum(name.startswith("back_") for name in tables.layers)
    return [matrix_of(getattr(tables, table), columns_of(table, lags)) for table in JUDGED]


def _hashes(tables: Sequence[Int], t: int) -> int:
    return sum(sum_of_hashes(rows, t * len(JUDGED) + i) for i, rows in enumerate(tables)) % 2**128


def _summary(layers: LayerTable, boxes: Int) -> Summary:
    first, after = layers.start[:-1], layers.start[1:]
    voxels = np.add.reduceat(layers.area, first) if len(first) else np.zeros(0, np.int64)
    # Rows of a label are in order of z.
    return Summary(voxels, layers.z[first], layers.z[after - 1] + 1, *boxes)


def _faces(summary: Summary, box: Box) -> npt.NDArray[np.bool_]:
    """Whether each label meets each of the six faces of a box, as (labels, 6)."""
    (z0, z1), (y0, y1), (x0, x1) = box
    s = summary
    return np.stack([s.z0 <= z0, s.z1 >= z1, s.y0 <= y0, s.y1 >= y1, s.x0 <= x0, s.x1 >= x1], axis=1)


def _background_like(layers: LayerTable, summary: Summary, box: Box) -> Labels:
    volume = math.prod(hi - lo for lo, hi in box)
    large = _LARGE * summary.voxels > volume
    return layers.labels[large | _faces(summary, box).all(axis=1)]


def _cut(layers: LayerTable, summary: Summary, box: Box, shape: tuple[int, int, int]) -> Labels:
    inside = np.array([[lo > 0, hi < n] for (lo, hi), n in zip(box, shape, strict=True)]).reshape(6)
    cut: Labels = layers.labels[(_faces(summary, box) & inside).any(axis=1)]
    return cut
