"""Which voxels a restored mask may take: free ones, and those of neighbours that have swallowed it.

A gap's box holds the face of a, the gap layers, and the face of b; and, where the volume goes on, one layer
beyond either face. All comparisons are between integers and treat both faces alike, so that neither the crop
beyond the box nor a flipped z axis can change a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import numpy.typing as npt

from overseg.kernels.contours import Method, interpolate
from overseg.kernels.distances import blend, paths, weights
from overseg.kernels.raster import perimeter, pieces, squared_depth

Labels = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]
Fill = Literal["all", "free", "none"]
Edges = tuple[bool, bool, bool, bool]

FREE, NOISE, SWALLOWED = 1, 2, 3
"""What a voxel was before it is taken: background, noise in the gap, part of a neighbour."""


@dataclass(frozen=True)
class Restored:
    """The masks of a gap's layers and what they take.

    Attributes
    ----------
    mask : ndarray of bool, shape (gap, y, x)
        The restored mask, with voxels that it may not take.
    take : ndarray of uint8, shape (gap, y, x)
        `FREE`, `NOISE` or `SWALLOWED` where a voxel is taken, else 0.
    depth : ndarray of int64, shape (gap, y, x)
        Squared distance, in voxels, to the nearest voxel of the layer outside the mask; 0 outside it.
    """

    mask: Mask
    take: npt.NDArray[np.uint8]
    depth: Int


def restore(
    box: Labels,
    a: int,
    b: int,
    *,
    own: tuple[int, ...] = (),
    noise: tuple[int, ...] = (),
    background: tuple[int, ...] = (0,),
    fill: Fill = "all",
    open_edges: Edges = (False, False, False, False),
    beyond: tuple[bool, bool] = (False, False),
    method: Method = "distance",
) -> Restored:
    """Restore the masks between two faces and say which voxels they take.

    The mask of a layer is interpolated from both faces and the layers beyond them. Where the other cells
    leave a hole of about that shape, made of background, noise, own voxels and what neighbours have
    swallowed, the hole's outline wins; if it is much rougher than the mask's, without the voxels that stick
    out. Else the mask takes of these what it covers, and no voxel of any other label. A layer of which own
    voxels cover seven eighths is not missing. Noise is taken whole.

    Parameters
    ----------
    box : ndarray of uint64, shape (gap + 2, y, x), more layers with `beyond`
        Labels; the whole face of `a` in the layer before the gap, of `b` in the one after it.
    a, b : int
        The labels; equal for a hole.
    own : tuple of int
        Further labels of the same cell: never taken, they are the mask.
    noise : tuple of int
        Labels that lie wholly in gap layers and are absorbed.
    background : tuple of int
        Labels that are no cells.
    fill : {"all", "free", "none"}
        Which voxels may be taken: also swallowed ones; background and noise; none.
    open_edges : tuple of bool
        Whether the box ends where the volume ends, at low y, high y, low x, high x: a hole may touch that.
    beyond : tuple of bool
        Whether there is one layer more in the box before the face of `a`, and after that of `b`.
    method : {"distance", "contour"}
        How masks are interpolated, see `overseg.kernels.contours.interpolate`.

    Returns
    -------
    Restored
        Nothing is taken in a layer where no voxel may be.
    """
    first, last = int(beyond[0]), len(box) - 1 - int(beyond[1])
    sides = _Sides(box, first, last)
    before, face_a, face_b, after = sides.masks(a, b)
    mask = interpolate(face_a, face_b, sides.gap, method, before=before, after=after)
    mine_are, fixed = _labels(a, b, *own), _labels(a, b, *own, *noise, *background)
    inner = np.ascontiguousarray(box[first + 1 : last], np.uint64)
    mine, take = _room(inner, mine_are, _labels(*noise), _labels(*background), fill != "none")
    for layer in range(sides.gap):
        if not _is_missing(mine[layer], mask[layer]):
            mask[layer] = mine[layer]
        else:
            if fill == "all":
                _take_back(inner[layer], mask[layer], take[layer], layer, (a, b), sides, fixed)
            mask[layer] = _outlined(mask[layer], take[layer], mine[layer], open_edges)
    return Restored(mask, take, _finish(mask, take))


def _labels(*labels: int) -> Labels:
    return np.array(labels, np.uint64)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _room(
    inner: Labels, mine_are: Labels, noise: Labels, background: Labels, taking: bool
) -> tuple[Mask, npt.NDArray[np.uint8]]:
    # Which voxels are own ones, and which of the others are noise or free.
    mine, take = np.zeros(inner.shape, np.bool_), np.zeros(inner.shape, np.uint8)
    own, why, last = False, 0, inner[0, 0, 0]
    for z in range(inner.shape[0]):
        for y in range(inner.shape[1]):
            for x in range(inner.shape[2]):
                label = inner[z, y, x]
                if label != last or z + y + x == 0:
                    own, why, last = _among(label, mine_are), 0, label
                    if taking and not own:
                        why = NOISE if _among(label, noise) else FREE if _among(label, background) else 0
                mine[z, y, x], take[z, y, x] = own, why
    return mine, take


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _among(label: int, labels: Labels) -> bool:
    for each in labels:  # noqa: SIM110 (numba has no `any` of a generator)
        if each == label:
            return True
    return False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_missing(mine: Mask, mask: Mask) -> bool:
    return 8 * (mine & mask).sum() < 7 * mask.sum()  # type: ignore[no-any-return]


class _Sides:
    """The layers beside the gap, and what they let expect of a label in it, worked out once."""

    def __init__(self, box: Labels, first: int, last: int) -> None:
        self.gap = last - first - 1
        self._box, self._at = box, (first - 1, first, last, last + 1)
        self._known: dict[tuple[int, int], Int] = {}

    def masks(self, above: int, below: int) -> Mask:
        """Of one label in the two layers above the gap, and of one in the two below it."""
        masks = np.zeros((4, *self._box.shape[1:]), np.bool_)
        for mask, at, label in zip(masks, self._at, (above, above, below, below), strict=True):
            if 0 <= at < len(self._box):
                np.equal(self._box[at], label, out=mask)
        return masks

    def areas(self, label: int) -> Int:
        """Expected areas in the gap layers, times gap + 1; 0 where it is only in the gap."""
        above, below = (int(mask.sum()) for mask in self.masks(label, label)[1:3])
        down = np.arange(1, self.gap + 1)
        if above and below:
            return above * down[::-1] + below * down
        # It starts or ends here: no smaller than in the layers that are left.
        return np.full(self.gap, max(above, below) * (self.gap + 1))

    def distances(self, above: int, below: int, moved: bool) -> Int:
        """Signed distances in the gap layers, of one scale for all labels that are beside it."""
        if (above, below) not in self._known:
            self._known[above, below] = _expected(self.masks(above, below), self.gap, moved)
        return self._known[above, below]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _expected(masks: Mask, gap: int, moved: bool) -> Int:
    share = weights(gap, masks[0].any(), masks[3].any())
    if not masks[1].any() or not masks[2].any():
        whole = share[0].sum()
        share[:] = 0
        share[:, 1 if masks[1].any() else 2] = whole
    ways = paths(masks, share) if moved else np.zeros((gap, 4, 2), np.int64)
    return blend(masks, share, ways)  # type: ignore[no-any-return]


def _take_back(
    here: Labels,
    mask: Mask,
    take: npt.NDArray[np.uint8],
    layer: int,
    cell: tuple[int, int],
    sides: _Sides,
    fixed: Labels,
) -> None:
    """Mark what neighbours have taken of the mask, if together they cover at least half of it.

    Each must be larger than the layers beside the gap let expect, by half of what it covers, or by three
    quarters where it covers less than half of the mask; one that covers less than a sixteenth keeps all. It
    gives the voxels that lie deeper in the cell than in itself, by the distances expected of both; beyond the
    mask only where it covers half.
    """
    area, together = np.count_nonzero(mask), 0
    taken = []
    for label, covered in zip(
        *(part.tolist() for part in np.unique(here[mask], return_counts=True)), strict=True
    ):
        if 16 * covered < area or label in fixed:
            continue
        expected = int(sides.areas(label)[layer])
        theirs = here == label
        more = np.count_nonzero(theirs) * (sides.gap + 1) - expected
        quarters = 2 if 2 * covered >= area else 3
        if expected and 4 * more >= quarters * covered * (sides.gap + 1):
            inside = sides.distances(*cell, True)[layer] > sides.distances(label, label, False)[layer]
            above, below = sides.masks(label, label)[1:3]
            taken.append(theirs & inside & ~(above & below) & (mask | (quarters == 2)))
            together += covered
    for part in taken if 2 * together >= area else ():
        take[part] = SWALLOWED


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _outlined(mask: Mask, take: npt.NDArray[np.uint8], mine: Mask, open_edges: Edges) -> Mask:
    """The mask with own voxels, or the piece of room of about its shape that is bounded by other cells.

    Seams one voxel wide may lead out of it or surround it: they are cut off, and of the rim that goes with
    them the mask keeps what it covers. So it is with voxels that stick out of a rough outline.
    """
    room = (take > 0) | mine
    for thin in (False, True):
        number = pieces(_core(room, open_edges) if thin else room, False)[0]
        best = _most_shared(number, mask)
        if best == 0:
            continue
        piece = number == best
        if thin:
            piece = piece | (_dilated(piece) & room & mask)
        if _agree(piece, mask) and _bounded(piece, open_edges):
            if 4 * perimeter(piece) > 5 * perimeter(mask):
                piece = piece & (_sheltered(piece) | mask)
            return piece | mine  # type: ignore[no-any-return]
    return mask | mine


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _agree(piece: Mask, mask: Mask) -> bool:
    # Whether they share at least half of what they cover together.
    shared, together = 0, 0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            shared += piece[y, x] & mask[y, x]
            together += piece[y, x] | mask[y, x]
    return 2 * shared >= together


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _core(room: Mask, open_edges: Edges) -> Mask:
    # Without the voxels at its sides. Nothing is beyond the volume, everything beyond a box inside it.
    low_y, high_y, low_x, high_x = open_edges
    height, width = room.shape
    core = room.copy()
    for y in range(height):
        for x in range(width):
            if room[y, x]:
                core[y, x] = (
                    (room[y - 1, x] if y > 0 else not low_y)
                    and (room[y + 1, x] if y + 1 < height else not high_y)
                    and (room[y, x - 1] if x > 0 else not low_x)
                    and (room[y, x + 1] if x + 1 < width else not high_x)
                )
    return core


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _most_shared(number: Int, mask: Mask) -> int:
    # The piece that shares most voxels with the mask; of equal ones the first, and 0 where none does.
    shared = np.zeros(number.max() + 1, np.int64)
    for y in range(number.shape[0]):
        for x in range(number.shape[1]):
            if mask[y, x] and number[y, x] > 0:
                shared[number[y, x]] += 1
    return int(shared.argmax())


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _dilated(piece: Mask) -> Mask:
    # With the voxels at its sides and corners.
    height, width = piece.shape
    out = piece.copy()
    for y in range(height):
        for x in range(width):
            if piece[y, x]:
                for v in range(max(y - 1, 0), min(y + 2, height)):
                    for u in range(max(x - 1, 0), min(x + 2, width)):
                        out[v, u] = True
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sheltered(piece: Mask) -> Mask:
    # Voxels of which six of the nine around are in the piece; the image goes on as it ends.
    height, width = piece.shape
    out = np.zeros_like(piece)
    for y in range(height):
        for x in range(width):
            if piece[y, x]:
                n = 0
                for v in range(y - 1, y + 2):
                    for u in range(x - 1, x + 2):
                        n += piece[min(max(v, 0), height - 1), min(max(u, 0), width - 1)]
                out[y, x] = n >= 6
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _bounded(piece: Mask, open_edges: Edges) -> bool:
    low_y, high_y, low_x, high_x = open_edges
    return (
        (low_y or not piece[0].any())
        and (high_y or not piece[-1].any())
        and (low_x or not piece[:, 0].any())
        and (high_x or not piece[:, -1].any())
    )


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _finish(mask: Mask, take: npt.NDArray[np.uint8]) -> Int:
    # Of free and swallowed voxels the mask takes what it covers. Depths, layer by layer.
    depth = np.empty(mask.shape, np.int64)
    for layer in range(mask.shape[0]):
        for y in range(mask.shape[1]):
            for x in range(mask.shape[2]):
                if not mask[layer, y, x] and take[layer, y, x] != NOISE:
                    take[layer, y, x] = 0
        depth[layer] = squared_depth(mask[layer])
    return depth


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _runs(box: Labels, take: npt.NDArray[np.uint8]) -> Int:
    rows = np.empty((np.count_nonzero(take), 4), np.int64)
    n = 0
    for z in range(take.shape[0]):
        for y in range(take.shape[1]):
            for x in range(take.shape[2]):
                why, label = take[z, y, x], box[z, y, x]
                if why == 0:
                    continue
                if x == 0 or take[z, y, x - 1] != why or box[z, y, x - 1] != label:
                    rows[n, 0], rows[n, 1], rows[n, 2] = z, y, x
                    n += 1
                rows[n - 1, 3] = x + 1
    return rows[:n].copy()


def runs(box: Labels, take: npt.NDArray[np.uint8]) -> Int:
    """Rows of voxels that are taken from one label for one reason.

    Parameters
    ----------
    box : ndarray of uint64, shape (gap, y, x)
        The gap layers' labels.
    take : ndarray of uint8, shape (gap, y, x)
        As of `restore`.

    Returns
    -------
    ndarray of int64, shape (n, 4)
        ``layer, y, x0, x1`` about the box's corner, x half open, in C order.
    """
    rows: Int = _runs(np.ascontiguousarray(box, np.uint64), np.ascontiguousarray(take, np.uint8))
    return rows
