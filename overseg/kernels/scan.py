"""One pass over a stack of layers: areas, moments, overlaps along z, facing and touching labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from overseg.kernels.reduce import (
    LAYER_KEY,
    PAIR_KEY,
    STACKED_KEY,
    Columns,
    ScanTables,
    group,
    layer_columns,
    layer_table,
)
from overseg.kernels.tables import LayerTable

Block = npt.NDArray[np.integer]


def scan_block(
    block: Block, first: int, origin: tuple[int, int, int], max_gap: int, background: tuple[int, ...] = (0,)
) -> ScanTables:
    """Tables of the layers `first` and later of a block; earlier layers are context that was counted before.

    Parameters
    ----------
    block : ndarray of integers, shape (n, y, x)
        Labels, none of them negative.
    first : int
        Layers ``0 .. first - 1`` give no rows of their own; overlaps belong to their later layer.
    origin : tuple of int
        Voxel (z, y, x) of ``block[0, 0, 0]`` in the volume.
    max_gap : int
        Layers that may be missing between two faces.
    background : tuple of int
        Labels that are no cells.

    Returns
    -------
    ScanTables
        Sorted by key.
    """
    labels = block.astype(np.uint64)
    return ScanTables(
        group(_layers(labels, first, origin, max_gap + 1, background), LAYER_KEY),
        group(_pairs(labels, first, len(labels), origin[0], max_gap, background), PAIR_KEY),
        group(_stacked(labels, first, len(labels), origin[0], background), STACKED_KEY),
    )


def scan_seam(
    block: Block, split: int, origin: tuple[int, int, int], max_gap: int, background: tuple[int, ...] = (0,)
) -> ScanTables:
    """What joins the layers before `split` to those from `split` on, and nothing else.

    Parameters
    ----------
    block : ndarray of integers, shape (n, y, x)
        The last `max_gap` + 1 layers of one segment and as many first layers of the next.
    split : int
        First layer of the lower segment in `block`.
    origin, max_gap, background
        As for `scan_block`.

    Returns
    -------
    ScanTables
        Its layer rows have area 0 and a box that is neutral in minima and maxima: they only add to
        ``back_*``.
    """
    labels = block.astype(np.uint64)
    z0, lags = origin[0], max_gap + 1
    return ScanTables(
        group(_backs(labels, split, split, z0, lags, background), LAYER_KEY),
        group(_pairs(labels, split, split, z0, max_gap, background), PAIR_KEY),
        group(_stacked(labels, split, split, z0, background), STACKED_KEY),
    )


def _cells(labels: Block, background: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    return ~np.isin(labels, np.array(background, np.uint64))


def _rows(columns: tuple[str, ...], rows: list[Columns]) -> Columns:
    """Rows of several layers in one table; also right when there are none."""
    kinds = {name: np.uint64 if name in ("label", "a", "b") else np.int64 for name in columns}
    return {
        name: np.concatenate([np.zeros(0, kind), *(np.asarray(row[name]).astype(kind) for row in rows)])
        for name, kind in kinds.items()
    }


def _blank(lags: int, n: int) -> Columns:
    """Layer rows that change nothing when they are merged."""
    zero = np.zeros(n, np.int64)
    limits = np.iinfo(np.int64)
    low, high = np.full(n, limits.min), np.full(n, limits.max)
    row: Columns = dict.fromkeys(layer_columns(lags), zero)
    return row | {"y0": high, "x0": high, "y1": low, "x1": low}


def _layers(
    labels: Block, first: int, origin: tuple[int, int, int], lags: int, background: tuple[int, ...]
) -> Columns:
    rows = [_backs(labels, first, len(labels), origin[0], lags, background)]
    for z in range(first, len(labels)):
        y, x = np.nonzero(_cells(labels[z], background))
        label, y, x = labels[z, y, x], y + origin[1], x + origin[2]
        one = np.ones(len(label), np.int64)
        row = _blank(lags, len(label)) | {"label": label, "z": one * (z + origin[0]), "area": one}
        row |= {"sy": y, "sx": x, "syy": y * y, "sxx": x * x, "syx": y * x}
        rows.append(group(row | {"y0": y, "y1": y + 1, "x0": x, "x1": x + 1}, LAYER_KEY))
    return _rows(layer_columns(lags), rows)


def _backs(
    labels: Block, first: int, before: int, z0: int, lags: int, background: tuple[int, ...]
) -> Columns:
    """Overlap of each label with itself in earlier layers that lie before layer `before`."""
    rows = []
    for z in range(first, len(labels)):
        for lag in range(1, lags + 1):
            if 0 <= z - lag < before:
                same = labels[z][(labels[z - lag] == labels[z]) & _cells(labels[z], background)]
                one = np.ones(len(same), np.int64)
                row = _blank(lags, len(same)) | {"label": same, "z": one * (z + z0), f"back_{lag}": one}
                rows.append(group(row, LAYER_KEY))
    return _rows(layer_columns(lags), rows)


def _pairs(
    labels: Block, first: int, before: int, z0: int, max_gap: int, background: tuple[int, ...]
) -> Columns:
    rows = []
    for z in range(first, len(labels)):
        for gap in range(1, max_gap + 1):
            top = z - gap - 1
            if 0 <= top < before:
                a, b = labels[top], labels[z]
                facing = (a != b) & _cells(a, background) & _cells(b, background)
                for between in labels[top + 1 : z]:
                    facing &= (between != a) & (between != b)
                one = np.ones(int(facing.sum()), np.int64)
                row = {
                    "a": a[facing],
                    "b": b[facing],
                    "z": one * (top + z0),
                    "gap": one * gap,
                    "overlap": one,
                }
                rows.append(group(row, PAIR_KEY))
    return _rows(("a", "b", "z", "gap", "overlap"), rows)


def _stacked(labels: Block, first: int, before: int, z0: int, background: tuple[int, ...]) -> Columns:
    rows = []
    for z in range(max(first, 1), len(labels)):
        if z - 1 < before:
            a, b = labels[z - 1], labels[z]
            touching = (a != b) & _cells(a, background) & _cells(b, background)
            one = np.ones(int(touching.sum()), np.int64)
            at = one * (z - 1 + z0)
            row = {"a": a[touching], "b": b[touching], "n": one, "z_min": at, "z_max": at}
            rows.append(group(row, STACKED_KEY))
    return _rows(("a", "b", "n", "z_min", "z_max"), rows)


def scan_array(
    array: Block, max_gap: int, background: tuple[int, ...] = (0,)
) -> tuple[LayerTable, Columns, Columns]:
    """Tables of a whole array in memory.

    Parameters
    ----------
    array : ndarray of integers, shape (z, y, x)
        Labels, none of them negative.
    max_gap : int
        Layers that may be missing between two faces.
    background : tuple of int
        Labels that are no cells.

    Returns
    -------
    tuple of LayerTable, dict of ndarray, dict of ndarray
        Layers, pairs and stacked contacts.
    """
    tables = scan_block(array, 0, (0, 0, 0), max_gap, background)
    return layer_table(tables.layers), tables.pairs, tables.stacked
