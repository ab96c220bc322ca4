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
    layer_table,
    moved,
)
from overseg.kernels.rows import SUMS, empty_rows
from overseg.kernels.runs import tally
from overseg.kernels.tables import LayerTable

Block = npt.NDArray[Any]
_LIMITS = np.iinfo(np.int64)
MAX_LABEL = 2**63


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
    return _scan(block, first, None, origin, max_gap, background)


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


class Scanner:
    """Tables of a stack that comes piece by piece: in any order within a step, step by step along z.

    Parameters
    ----------
    top : int
        First layer of the stack: nothing lies above it.
    corner : tuple of int
        (y, x) of the stack's first column.
    max_gap : int
        Layers that may be missing between two faces.
    background : tuple of int
        Labels that are no cells.
    """

    def __init__(
        self, top: int, corner: tuple[int, int], max_gap: int, background: tuple[int, ...] = (0,)
    ) -> None:
        self._top, self._corner, self._lags = top, corner, max_gap + 1
        self._background = np.array(background, np.uint64)
        self._layers, self._facing, self._touching = empty_rows(self._lags)
        self._ends = np.zeros((3, 2), np.int64)

    def step(self) -> None:
        """Layers that were added are complete: no more of them will come."""
        self._ends[:, 0] = self._ends[:, 1]

    def add(self, block: Block, first: int, place: tuple[int, int, int], split: int | None = None) -> bool:
        """Count the layers from `first` on.

        Parameters
        ----------
        block : ndarray of integers, shape (n, y, x)
            Its first layers are what lies above the others: as many as `max_gap` + 1, if the stack has them.
        first : int
            Layers before it were counted already.
        place : tuple of int
            Voxel (z, y, x) of ``block[0, 0, 0]``.
        split : int, optional
            What lies above a layer counts only if it is in a layer of the block before this one.

        Returns
        -------
        bool
            Whether all voxels were labels, from 0 to 2^63; if not, the tables are worth nothing.
        """
        if block.size == 0:
            return True
        y, x = place[1] - self._corner[0], place[2] - self._corner[1]
        highest = np.uint64(min(np.iinfo(block.dtype).max, MAX_LABEL))
        self._layers, self._facing, self._touching, fine = tally(
            unsigned(block),
            first,
            len(block) if split is None else split,
            (place[0], y, x),
            tuple(range(self._lags + 1)),
            self._background,
            highest,
            self._layers,
            self._facing,
            self._touching,
            self._ends,
        )
        return bool(fine)

    def tables(self, split: int | None = None) -> ScanTables:
        """What was counted.

        Parameters
        ----------
        split : int, optional
            The layer at which all that was added was split.

        Returns
        -------
        ScanTables
            Sorted by key.
        """
        n = self._ends[0, 1]
        sums, z = np.ascontiguousarray(self._layers.sums[:n].T), self._layers.z[:n]
        layers = {"label": self._layers.label[:n], "z": z} | dict(zip(SUMS, sums, strict=False))
        for lag, differing in enumerate(sums[len(SUMS) :], 1):
            seen = (z - lag >= self._top) & (True if split is None else z - lag < split)
            # What differs was counted, being less; the rest of the layer's voxels go on.
            layers[f"back_{lag}"] = np.where(seen, sums[0] - differing, 0)
        return ScanTables(group(moved(layers, *self._corner), LAYER_KEY), *self._faces())

    def _faces(self) -> tuple[Columns, Columns]:
        """Labels that face each other with layers between them, and those that touch."""
        facing, touching = (
            {name: rows.labels[:n, i] for i, name in enumerate(("a", "b"))}
            | {name: rows.counts[:n, i] for name, i in columns}
            for rows, n, columns in (
                (self._facing, self._ends[1, 1], (("z", 0), ("gap", 1), ("overlap", 2))),
                (self._touching, self._ends[2, 1], (("n", 2), ("z_min", 3), ("z_max", 4))),
            )
        )
        return group(facing, PAIR_KEY), group(touching, STACKED_KEY)


def unsigned(block: Block) -> Block:
    """The same bits in one of the four unsigned types of this machine, in C order, writable.

    Whether an array can be written is part of its type for the compiler.
    """
    native = np.require(block, block.dtype.newbyteorder("="), ["C", "W"])
    return native.view(f"u{native.dtype.itemsize}")


def _scan(
    block: Block,
    first: int,
    split: int | None,
    origin: tuple[int, int, int],
    max_gap: int,
    background: tuple[int, ...],
) -> ScanTables:
    """Tables of the layers from `first` on; with a split, only overlaps with layers before it."""
    top, y, x = origin
    scanner = Scanner(top, (y, x), max_gap, background)
    scanner.add(block, first, origin, split)
    return scanner.tables(None if split is None else top + split)
