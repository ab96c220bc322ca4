"""One pass over a stack of layers: areas, moments, overlaps along z, facing and touching labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import VolumeError
from overseg.kernels.reduce import (
    LAYER_KEY,
    PAIR_KEY,
    STACKED_KEY,
    Columns,
    ScanTables,
    group,
    layer_columns,
    layer_table,
    moved,
)
from overseg.kernels.runs import SUMS, compare, encode
from overseg.kernels.tables import LayerTable

Block = npt.NDArray[Any]
_LIMITS = np.iinfo(np.int64)


def scan_block(
    block: Block, first: int, origin: tuple[int, int, int], max_gap: int, background: tuple[int, ...] = (0,)
) -> ScanTables:
    """Tables of the layers `first` and later of a block; earlier layers are context that was counted before.

    Parameters
    ----------
    block : ndarray of integers, shape (n, y, x)
        Labels, none of them negative (see `find_negative`).
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
    return _scan(block, first, 0, origin, max_gap, background)


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
    tables = _scan(block, split, split, origin, max_gap, background)
    layers = tables.layers
    joined = np.logical_or.reduce([layers[name] > 0 for name in layers if name.startswith("back_")])
    layers = {name: values[joined] for name, values in layers.items()}
    blank = np.zeros(int(joined.sum()), np.int64)
    layers |= dict.fromkeys(("area", "sy", "sx", "syy", "sxx", "syx"), blank)
    layers |= dict.fromkeys(("y0", "x0"), blank + _LIMITS.max) | dict.fromkeys(
        ("y1", "x1"), blank + _LIMITS.min
    )
    return ScanTables(layers, tables.pairs, tables.stacked)


def scan_array(
    array: Block, max_gap: int, background: tuple[int, ...] = (0,)
) -> tuple[LayerTable, Columns, Columns]:
    """Tables of a whole array in memory.

    Parameters
    ----------
    array : ndarray of integers, shape (z, y, x)
        Labels.
    max_gap : int
        Layers that may be missing between two faces.
    background : tuple of int
        Labels that are no cells.

    Returns
    -------
    tuple of LayerTable, dict of ndarray, dict of ndarray
        Layers, pairs and stacked contacts.

    Raises
    ------
    VolumeError
        If the values are no integers, or one is negative.
    """
    if array.dtype.kind not in "ui" or array.ndim != 3:
        raise VolumeError(
            f"an array of {array.ndim} axes and type {array.dtype} holds no labels",
            remedy="pass integers with the axes (z, y, x)",
        )
    place = find_negative(array)
    if place is not None:
        raise VolumeError(
            "the array holds a negative label",
            where=f"voxel (z, y, x) = {place}",
            remedy="labels are 0 or above: change the array, or say which label is background",
        )
    tables = scan_block(array, 0, (0, 0, 0), max_gap, background)
    return layer_table(tables.layers), tables.pairs, tables.stacked


def find_negative(block: Block) -> tuple[int, int, int] | None:
    """The first voxel (z, y, x) with a negative label, or None.

    Parameters
    ----------
    block : ndarray of integers, shape (n, y, x)
    """
    if block.dtype.kind != "i" or block.size == 0 or block.min() >= 0:
        return None
    z, y, x = (int(i) for i in np.unravel_index(np.argmax(block < 0), block.shape))
    return z, y, x


def _unsigned(block: Block) -> Block:
    """The same bits in one of the four unsigned types of this machine."""
    native = block.astype(block.dtype.newbyteorder("="), copy=False)
    return native.view(f"u{native.dtype.itemsize}")


def _scan(
    block: Block,
    first: int,
    split: int,
    origin: tuple[int, int, int],
    max_gap: int,
    background: tuple[int, ...],
) -> ScanTables:
    """Tables of the layers from `first` on; with a split, only overlaps with layers before it."""
    nz, ny, nx = block.shape
    block = _unsigned(block)
    nothing = np.array(background, np.uint64)
    lags = max_gap + 1
    window = lags + 1
    labels = np.empty((window, ny * nx), np.uint64)
    ends = np.empty((window, ny * nx), np.int32)
    rows = np.empty((window, ny + 1), np.int64)
    layers = [_layer_rows(np.zeros(0, np.uint64), np.zeros((0, len(SUMS)), np.int64), 0, lags)]
    facing = [_facing_rows(np.zeros((0, 2), np.uint64), np.zeros((0, 2), np.int64), 0)]
    for z in range(nz):
        slot = z % window
        encode(block[z], nothing, labels[slot], ends[slot], rows[slot])
        if z >= first:
            lanes = np.arange(z, max(z - window, -1), -1) % window
            from_lag = z - split + 1 if split else 1
            names, sums, faces, counts = compare(labels, ends, rows, lanes, from_lag, nothing)
            layers.append(_layer_rows(names, sums, origin[0] + z, lags))
            facing.append(_facing_rows(faces, counts, origin[0] + z))
    return ScanTables(
        group(moved(_joined(layers), origin[1], origin[2]), LAYER_KEY), *_apart_and_touching(_joined(facing))
    )


def _apart_and_touching(facing: Columns) -> tuple[Columns, Columns]:
    """Facing labels with layers between them, and those in contact with the contacts' range in z."""
    apart = {name: values[facing["gap"] > 0] for name, values in facing.items()}
    a, b, z, n = (facing[name][facing["gap"] == 0] for name in ("a", "b", "z", "overlap"))
    touching = {"a": a, "b": b, "n": n, "z_min": z, "z_max": z}
    return group(apart, PAIR_KEY), group(touching, STACKED_KEY)


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _layer_rows(names: Block, sums: Block, z: int, lags: int) -> Columns:
    """Rows of one layer; near the volume's top there are fewer layers above it than lags."""
    given = sums.shape[1] - len(SUMS)
    back = np.zeros((len(names), lags), np.int64)
    back[:, :given] = sums[:, len(SUMS) :]
    values = [names, np.full(len(names), z, np.int64), *sums[:, : len(SUMS)].T, *back.T]
    return dict(zip(layer_columns(lags), values, strict=True))


def _facing_rows(faces: Block, counts: Block, z: int) -> Columns:
    gap = counts[:, 0]
    return {"a": faces[:, 0], "b": faces[:, 1], "z": z - gap - 1, "gap": gap, "overlap": counts[:, 1]}
