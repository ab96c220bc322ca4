"""Whole labels as solid bodies, and the surfaces where two of them touch: integers that any cut adds up to.

Moments are about the volume's origin, modulo 2^64: they can be added, subtracted and moved exactly, and are
read off about an origin that is near enough for the true values to fit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from overseg.kernels.reduce import CONTACT_COLUMNS, OF_FACES, SURFACE_COLUMNS, Columns, matrix_of
from overseg.kernels.scan import scan_array
from overseg.kernels.tables import TOO_LARGE, Bool, Int, Labels, LayerTable
from overseg.kernels.touch import TouchScanner

#: Voxels times the squared length of the box: below it sums about the corner fit, doubled coordinates too.
_LARGEST = 2.0**59


@dataclass(frozen=True)
class Solids:
    """Whole labels, sorted.

    Attributes
    ----------
    label : ndarray of uint64, shape (m,)
    n : ndarray of int64, shape (m,)
        Voxels.
    box : ndarray of int64, shape (m, 6)
        Half-open box z0, z1, y0, y1, x0, x1, in absolute voxel coordinates.
    sums : ndarray of int64, shape (m, 9)
        Sums over the voxels of z, y, x, z², y², x², zy, zx, yx, in voxels about the volume's origin, modulo
        2^64. About the corner of the box they fit, but for labels that are `TOO_LARGE`.
    faces, bare : ndarray of int64, shape (m, 3)
        Voxel faces normal to z, y, x: towards anything else inside the volume, and towards background.
    flags : ndarray of int64, shape (m,)
        Bits `TOO_LARGE`, `BACKGROUND_LIKE` and `CUT` of `overseg.kernels.tables`.
    """

    COLUMNS: ClassVar[int] = 24

    label: Labels
    n: Int
    box: Int
    sums: Int
    faces: Int
    bare: Int
    flags: Int

    def __len__(self) -> int:
        return len(self.label)

    def index(self, labels: Labels) -> Int:
        """Positions of `labels` in ``self.label`` (all must be there)."""
        return np.searchsorted(self.label, labels)

    def take(self, rows: Int | Bool) -> Solids:
        """Some of the labels."""
        return Solids(**_taken(self, rows))

    @property
    def matrix(self) -> Int:
        """All columns side by side, int64, shape (m, COLUMNS); labels above 2^63 keep their bits."""
        alone = (self.label.view(np.int64)[:, None], self.n[:, None])
        return np.concatenate(
            [*alone, self.box, self.sums, self.faces, self.bare, self.flags[:, None]], axis=1
        )

    @classmethod
    def of(cls, matrix: Int) -> Solids:
        """Of such a matrix; views of it where they can be."""
        label = np.ascontiguousarray(matrix[:, 0]).view(np.uint64)
        box, sums, faces, bare = np.split(matrix[:, 2:-1], (6, 15, 18), axis=1)
        return cls(label, matrix[:, 1], box, sums, faces, bare, matrix[:, -1])


@dataclass(frozen=True)
class Touches:
    """Pairs of labels that share voxel faces, sorted by (a, b); background is no partner.

    Attributes
    ----------
    a, b : ndarray of uint64, shape (n,)
        Labels, a < b.
    faces : ndarray of int64, shape (n, 3)
        Shared voxel faces normal to z, y, x.
    signed : ndarray of int64, shape (n, 3)
        Of these those where a lies before b along the axis, less those where b lies before a: the contact's
        exact area vector from a to b, in voxel faces.
    sums : ndarray of int64, shape (n, 3, 9)
        For the faces normal to each axis: sums over their centres of z, y, x, z², y², x², zy, zx, yx, in
        *doubled* voxel coordinates (voxel v at 2v, the face between v and v + 1 at 2v + 1) about the volume's
        origin, modulo 2^64.
    """

    a: Labels
    b: Labels
    faces: Int
    signed: Int
    sums: Int

    def __len__(self) -> int:
        return len(self.a)

    def take(self, rows: Int | Bool) -> Touches:
        """Some of the pairs."""
        return Touches(**_taken(self, rows))

    @property
    def matrix(self) -> Int:
        """All columns side by side, int64, shape (n, 35): `overseg.kernels.reduce.CONTACT_COLUMNS`."""
        labels = np.stack([self.a, self.b], axis=1).view(np.int64)
        each = np.concatenate([self.faces[:, :, None], self.signed[:, :, None], self.sums], axis=2)
        return np.concatenate([labels, each.reshape(len(labels), 3 * len(OF_FACES))], axis=1)

    @classmethod
    def of(cls, matrix: Int) -> Touches:
        """Of such a matrix; views of it where they can be."""
        a, b = np.ascontiguousarray(matrix[:, :2].T).view(np.uint64)
        each = matrix[:, 2:].reshape(len(matrix), 3, len(OF_FACES))
        return cls(a, b, each[:, :, 0], each[:, :, 1], each[:, :, 2:])


def solids_of(layers: LayerTable, surfaces: Columns, flags: Int | None = None) -> Solids:
    """Whole labels from their layers, and from their surfaces.

    Parameters
    ----------
    layers : LayerTable
        Every layer of the labels.
    surfaces : dict of ndarray, shape (s,)
        The columns `overseg.kernels.reduce.SURFACE_COLUMNS`, sorted by label. A label without a row has no
        face towards anything else.
    flags : ndarray of int64, shape (m,), optional
        What is known of each label; `TOO_LARGE` is added here.

    Returns
    -------
    Solids
    """
    first = layers.start[:-1]
    if not len(first):
        return Solids.of(np.zeros((0, Solids.COLUMNS), np.int64))
    n = np.add.reduceat(layers.area, first)
    low, high = np.minimum.reduceat, np.maximum.reduceat
    last = layers.start[1:] - 1
    spans = (layers.z[first], layers.z[last] + 1, low(layers.y0, first), high(layers.y1, first))
    box = np.stack([*spans, low(layers.x0, first), high(layers.x1, first)], axis=1)
    longest = (box[:, 1::2] - box[:, ::2]).max(axis=1).astype(np.float64)
    large = layers.too_large | (n * longest * longest >= _LARGEST)
    known = np.zeros((len(first), len(SURFACE_COLUMNS) - 1), np.int64)
    known[np.searchsorted(layers.labels, surfaces["label"])] = matrix_of(surfaces, SURFACE_COLUMNS[1:])
    faces, bare = np.split(known, 2, axis=1)
    marks = np.zeros(len(first), np.int64) if flags is None else flags
    return Solids(layers.labels, n, box, _moments(layers), faces, bare, marks | TOO_LARGE * large)


def touch_array(array: npt.NDArray[Any], background: tuple[int, ...] = (0,)) -> tuple[Solids, Touches]:
    """Whole labels and contacts of an array in memory.

    Parameters
    ----------
    array : ndarray of integers, shape (z, y, x)
        Labels.
    background : tuple of int
        Labels that are no cells.

    Returns
    -------
    Solids
        Of its flags only `TOO_LARGE` is set: what is like background, and what a region cuts, is known to a
        scan of a volume.
    Touches

    Raises
    ------
    VolumeError
        If the values are no integers, or one is negative.
    """
    layers, _, _ = scan_array(array, 1, background)
    scanner = TouchScanner(background)
    scanner.add(array, 0, (0, 0, 0))
    contacts, surfaces = scanner.tables()
    return solids_of(layers, surfaces), Touches.of(matrix_of(contacts, CONTACT_COLUMNS))


def _moments(layers: LayerTable) -> Int:
    """Sums of coordinates over whole labels, about the volume's origin, modulo 2^64."""
    labels = np.diff(layers.start)
    y0, x0 = np.repeat(layers.corner_y, labels), np.repeat(layers.corner_x, labels)
    z, n = layers.z, layers.area
    sy, sx = layers.sy + y0 * n, layers.sx + x0 * n
    syy = layers.syy + 2 * y0 * layers.sy + y0 * y0 * n
    sxx = layers.sxx + 2 * x0 * layers.sx + x0 * x0 * n
    syx = layers.syx + y0 * layers.sx + x0 * layers.sy + y0 * x0 * n
    sums = (z * n, sy, sx, z * z * n, syy, sxx, z * sy, z * sx, syx)
    return np.stack([np.add.reduceat(each, layers.start[:-1]) for each in sums], axis=1)


def _taken(table: Solids | Touches, rows: Int | Bool) -> dict[str, Any]:
    return {each.name: getattr(table, each.name)[rows] for each in fields(table)}
