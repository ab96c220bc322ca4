"""Where labels touch: how many voxel faces two labels share, which way these look and where they lie.

A face between two voxels is a contact where their labels differ. As in the scan, a word holds where 64
voxels differ from their neighbours, so that the inside of a cell is passed over 64 voxels at a time.
Stretches of faces between the same two labels along x are added at once, by closed formulas.

Where a face lies is said in doubled voxel coordinates: voxel v has its centre at 2v, the face between v and
v + 1 at 2v + 1. All background is one partner, `NO_LABEL`: such rows give a label's bare surface.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from overseg.kernels.reduce import (
    CONTACT_COLUMNS,
    CONTACT_KEY,
    OF_FACES,
    SURFACE_COLUMNS,
    SURFACE_KEY,
    Columns,
    group,
    views_of,
)
from overseg.kernels.rows import among, empty_touches, more_touches, touch_of
from overseg.kernels.scan import unsigned
from overseg.kernels.words import differing, edges_of, listed, lowest

Block = npt.NDArray[Any]
Place = tuple[int, int, int]

#: Columns of rows that were counted with y and x exchanged, in their usual order.
_TURNED = [len(OF_FACES) * axis + i for axis in (0, 2, 1) for i in (0, 1, 2, 4, 3, 5, 7, 6, 9, 8, 10)]

#: Stands for any background as a partner; above every label.
NO_LABEL = 2**64 - 1

_NO_LABEL = np.uint64(NO_LABEL)
_ONE = np.uint64(1)
_Z, _Y, _X = (len(OF_FACES) * axis for axis in range(3))  # columns of the faces normal to each axis


class TouchScanner:
    """Contacts of a stack that comes piece by piece, in any order; each face is to be given once.

    Parameters
    ----------
    background : tuple of int
        Labels that are no cells.
    """

    def __init__(self, background: tuple[int, ...] = (0,)) -> None:
        self._background = np.array(background, np.uint64)
        # Of what was counted as it lies, and with y and x exchanged.
        self._rows = [empty_touches(3 * len(OF_FACES)) for _ in range(2)]
        self._ends = np.zeros((2, 1), np.int64)

    def add(self, block: Block, first: int, place: Place) -> None:
        """Count all faces inside the layers from `first` on, and those between them and the layer above.

        Parameters
        ----------
        block : ndarray of integers, shape (n, y, x)
            Labels from 0 to 2^63 (`overseg.kernels.scan.Scanner.add` tells whether they are).
        first : int
            Layers before it were counted already.
        place : tuple of int
            Voxel (z, y, x) of ``block[0, 0, 0]`` in the volume.
        """
        self._add(block, first, place, (True, True, True))

    def planes(self, one: Block, two: Block, axis: int, place: Place) -> None:
        """Count the faces between two planes of voxels that lie side by side, and none inside them.

        Parameters
        ----------
        one, two : ndarray of integers, shape (n, m)
            Labels before and behind the border, in the order of the other two axes.
        axis : {0, 1, 2}
            Which of (z, y, x) the border is normal to.
        place : tuple of int
            Voxel (z, y, x) of ``two[0, 0]`` in the volume.
        """
        z, y, x = (at - (i == axis) for i, at in enumerate(place))
        if axis == 2:
            # Rows along y: with the border across them each would be two voxels long.
            self._add(np.stack([one, two], 1), 0, (z, x, y), (False, True, False), turned=True)
        else:
            self._add(np.stack([one, two], axis), 0, (z, y, x), (axis == 0, axis == 1, False))

    def tables(self) -> tuple[Columns, Columns]:
        """What was counted.

        Returns
        -------
        contacts : dict of ndarray, shape (n,)
            The columns `CONTACT_COLUMNS`, sorted by (a, b): labels a < b (uint64), none of them background.
            For the faces normal to each axis, as int64 modulo 2^64: ``n`` faces; ``signed``, those where a
            lies before b along the axis less those where b lies before a (together the exact area vector);
            ``sz .. syx``, sums over their centres of z, y, x, z², y², x², zy, zx, yx, in doubled voxel
            coordinates about the volume's origin.
        surfaces : dict of ndarray, shape (m,)
            The columns `SURFACE_COLUMNS`, sorted by label: faces normal to each axis towards anything else
            (``all_*``), and those towards background (``bare_*``).
        """
        both = list(zip(self._rows, self._ends[:, 0], strict=True))
        labels = np.concatenate([rows.labels[:end] for rows, end in both])
        straight, turned = (rows.sums[:end] for rows, end in both)
        sums = np.concatenate([straight, turned[:, _TURNED]])
        bare = labels[:, 1] == _NO_LABEL
        between = np.concatenate([labels.view(np.int64), sums], axis=1)[~bare]
        contacts = views_of(np.ascontiguousarray(between.T).T, CONTACT_COLUMNS)
        faces = sums[:, [_Z, _Y, _X]]
        ends = [
            np.concatenate([labels[:, :1].view(np.int64), faces, faces * bare[:, None]], axis=1),
            np.concatenate([labels[~bare, 1:].view(np.int64), faces[~bare], 0 * faces[~bare]], axis=1),
        ]
        surfaces = views_of(np.concatenate(ends), SURFACE_COLUMNS)
        return group(contacts, CONTACT_KEY), group(surfaces, SURFACE_KEY)

    def _add(
        self, block: Block, first: int, place: Place, axes: tuple[bool, bool, bool], turned: bool = False
    ) -> None:
        if block.size:
            rows, end = self._rows[turned], self._ends[int(turned)]
            self._rows[turned] = _tally(unsigned(block), first, axes, place, self._background, rows, end)


@njit(cache=True, nogil=True)
def _tally(block, first, axes, place, background, touches, end):  # type: ignore[no-untyped-def]
    """Add the faces normal to some of the axes; gives the rows back, as they may have to grow.

    Parameters
    ----------
    block : ndarray of an unsigned integer, shape (n, y, x), C-contiguous
    first : int
    axes : tuple of bool
        Whether faces normal to z, y, x count.
    place : tuple of int
    background : ndarray of uint64
    touches : TouchRows
        Changed in place.
    end : ndarray of int64, shape (1,)
        How many rows there are; changed in place.
    """
    nz, ny, nx = block.shape
    flat = block.reshape(-1)
    edges = np.empty((2, ny, (nx + 63) // 64), np.uint64)
    spans, places = np.empty(edges.shape[2], np.uint64), np.empty(nx + 4, np.int64)
    for z in range(max(first - 1, 0), nz):
        here, above = edges[z % 2], edges[1 - z % 2]
        edges_of(flat, z * ny * nx, nx, here)
        y = 0 if z >= first else ny
        while y < ny:
            if end[0] + 3 * nx > len(touches.labels):
                touches = more_touches(touches, end, 3 * nx)
            y = _layer(
                flat, z, y, nx, axes, (place[0] + z, place[1], place[2]), background, here, above, spans,
                places, touches, end,
            )  # fmt: skip
    return touches


@njit(cache=True, nogil=True, _nrt=False)
def _layer(  # type: ignore[no-untyped-def]
    flat, z, y, nx, axes, corner, background, here, above, spans, places, touches, end
):
    """Add the faces of a layer towards what lies before them, from row `y` on.

    Returns the row where the table is full, or the number of rows.
    """
    ny = len(here)
    plane = ny * nx
    top, front, left = 2 * corner[0], 2 * corner[1], 2 * corner[2]
    while y < ny and end[0] + 3 * nx <= len(touches.labels):
        at, now = z * plane + y * nx, front + 2 * y
        if axes[2]:
            n = _alone(here[y], spans, places)
            _add(flat, at, 1, n, spans, places, (top, now, left - 1), background, touches, end, _X)
        if axes[1] and y > 0:
            n = _stretches(flat, at, nx, nx, here[y], here[y - 1], spans, places)
            _add(flat, at, nx, n, spans, places, (top, now - 1, left), background, touches, end, _Y)
        if axes[0] and z > 0:
            n = _stretches(flat, at, plane, nx, here[y], above[y], spans, places)
            _add(flat, at, plane, n, spans, places, (top - 1, now, left), background, touches, end, _Z)
        y += 1
    return y


@njit(cache=True, nogil=True, _nrt=False)
def _alone(edges, spans, places):  # type: ignore[no-untyped-def]
    """Where a row's voxels differ from the one before; how many. Each such face stands alone."""
    n = listed(edges[0] & ~_ONE, 0, places, 0)
    for word in range(1, len(edges)):
        n = listed(edges[word], 64 * word, places, n)
    for word in range(len(edges)):
        spans[word] = ~np.uint64(0)
    return n


@njit(cache=True, nogil=True, _nrt=False)
def _stretches(flat, at, back, nx, here, there, spans, places):  # type: ignore[no-untyped-def]
    """Where stretches begin in which a row and the one `back` voxels before have one label each; how many.

    `spans` has bits where such a stretch cannot go on.
    """
    n = 0
    for word in range(len(here)):
        x = at + 64 * word
        bits = differing(flat, x, x - back, min(64, nx - 64 * word))
        if bits:
            spans[word] = here[word] | there[word] | ~bits
            n = listed(bits & (spans[word] | ~(bits << _ONE)), 64 * word, places, n)
    return n


@njit(cache=True, nogil=True, _nrt=False)
def _add(flat, at, back, n, spans, places, centre, background, touches, end, column):  # type: ignore[no-untyped-def]
    """Add stretches of faces to the rows of their labels.

    `centre` is that of the face before the row's first voxel, in doubled coordinates.
    """
    sums = touches.sums
    z, y, x0 = centre
    some = len(background) > 0
    nothing = background[0] if some else np.uint64(0)
    several = len(background) > 1
    for i in range(np.uint64(n)):
        place = places[i]
        before, after = np.uint64(flat[at + place - back]), np.uint64(flat[at + place])
        if some:
            if before == nothing or (several and among(background, before)):
                before = _NO_LABEL
            if after == nothing or (several and among(background, after)):
                after = _NO_LABEL
            if before == after:
                continue
        bit = place & 63
        width = min(lowest((spans[place >> 6] >> np.uint64(bit)) >> _ONE) + 1, 64 - bit)
        row = touch_of(touches, end, min(before, after), max(before, after))
        sums[row, column] += width
        if before != _NO_LABEL and after != _NO_LABEL:
            x = x0 + 2 * place
            # Sums of x, x + 2, .. and of their squares.
            sx = width * (x + width - 1)
            sxx = width * x * x + 2 * x * width * (width - 1) + 2 * width * (width - 1) * (2 * width - 1) // 3
            sums[row, column + 1] += width if before < after else -width
            sums[row, column + 2] += width * z
            sums[row, column + 3] += width * y
            sums[row, column + 4] += sx
            sums[row, column + 5] += width * z * z
            sums[row, column + 6] += width * y * y
            sums[row, column + 7] += sxx
            sums[row, column + 8] += width * z * y
            sums[row, column + 9] += z * sx
            sums[row, column + 10] += y * sx
