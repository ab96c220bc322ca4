"""Which voxels a restored mask may take: free ones, and those of a neighbour that has swallowed it.

A gap's box holds the face of a in its first layer, the face of b in its last, and the gap layers between.
All comparisons are between integers and treat both faces alike, so that neither the crop beyond the box nor a
flipped z axis can change a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from overseg.kernels.contours import interpolate

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
) -> Restored:
    """Restore the masks between two faces and say which voxels they take.

    The mask of a layer is interpolated from both faces. Where the other cells leave a hole of about that
    shape, made of background, noise, own voxels and what a neighbour has swallowed, the hole's outline wins.
    Else the mask takes of these what it covers, and no voxel of any other label. A layer of which own
    voxels cover seven eighths is not missing. Noise is taken whole.

    Parameters
    ----------
    box : ndarray of uint64, shape (gap + 2, y, x)
        Labels; the whole face of `a` in the first layer, of `b` in the last.
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

    Returns
    -------
    Restored
        Nothing is taken in a layer where no voxel may be.
    """
    gap = len(box) - 2
    mask = interpolate(box[0] == a, box[-1] == b, gap)
    take = np.zeros(mask.shape, np.uint8)
    mine = np.isin(box[1:-1], _labels(a, b, *own))
    if fill != "none":
        take[np.isin(box[1:-1], _labels(*background)) & ~mine] = FREE
        take[np.isin(box[1:-1], _labels(*noise)) & ~mine] = NOISE
    fixed = _labels(a, b, *own, *noise, *background)
    for layer in range(gap):
        if 8 * int((mine[layer] & mask[layer]).sum()) >= 7 * int(mask[layer].sum()):
            mask[layer] = mine[layer]
        else:
            if fill == "all":
                take[layer][_swallowed(box, layer, mask[layer], fixed)] = SWALLOWED
            room = (take[layer] > 0) | mine[layer]
            mask[layer] = _hole(mask[layer], room, open_edges) | mine[layer]
        take[layer][~mask[layer] & (take[layer] != NOISE)] = 0
    depth = np.stack([_squared_depth(one) for one in mask])
    return Restored(mask, take, depth)


def _labels(*labels: int) -> Labels:
    return np.array(labels, np.uint64)


def _swallowed(box: Labels, layer: int, mask: Mask, fixed: Labels) -> Mask:
    """What a neighbour that covers at least half of the mask has more than its outer layers let expect.

    Its area in the layer must exceed theirs by at least half of what it covers.
    """
    here = box[layer + 1]
    names, counts = np.unique(here[mask], return_counts=True)
    most = int(counts.argmax())
    neighbour, covered = names[most], int(counts[most])
    above, below = box[0] == neighbour, box[-1] == neighbour
    areas = [int(above.sum()), int(below.sum())]
    if 2 * covered < mask.sum() or neighbour in fixed or not any(areas):
        return np.zeros_like(mask)
    gap = len(box) - 2
    if all(areas):
        expected = areas[0] * (gap - layer) + areas[1] * (layer + 1)
        known = interpolate(above, below, gap)[layer] | (above & below)
    else:  # it starts or ends here: no smaller than in the layers that are left
        expected = max(areas) * (gap + 1)
        known = above | below
    held = here == neighbour
    if 2 * (int(held.sum()) * (gap + 1) - expected) < covered * (gap + 1):
        return np.zeros_like(mask)
    more: Mask = held & ~known
    return more


def _hole(mask: Mask, room: Mask, open_edges: Edges) -> Mask:
    """The piece of `room` that has about the mask's shape and is bounded by other cells; else the mask.

    Seams one voxel wide may lead out of it or surround it: they are cut off, and of the rim that goes with
    them the mask keeps what it covers.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    for thin in (False, True):
        core = binary_erosion(_framed(room, open_edges))[1:-1, 1:-1] if thin else room
        piece = _piece(core, mask)
        if piece is None:
            continue
        if thin:
            piece |= binary_dilation(piece, np.ones((3, 3), bool)) & room & mask
        if 2 * int((piece & mask).sum()) >= int((piece | mask).sum()) and _bounded(piece, open_edges):
            return piece
    return mask


def _framed(room: Mask, open_edges: Edges) -> Mask:
    """`room` in a frame: nothing beyond the volume, everything beyond the box inside it."""
    low_y, high_y, low_x, high_x = (not is_open for is_open in open_edges)
    framed = np.pad(room, 1)
    framed[0], framed[-1], framed[1:-1, 0], framed[1:-1, -1] = low_y, high_y, low_x, high_x
    return framed


def _piece(room: Mask, mask: Mask) -> Mask | None:
    """The connected piece of `room` that shares most voxels with the mask; of equal ones the first."""
    from scipy.ndimage import label

    pieces, _ = label(room)
    shared = np.bincount(pieces[mask & room])
    if not shared.any():
        return None
    piece: Mask = pieces == shared.argmax()
    return piece


def _bounded(piece: Mask, open_edges: Edges) -> bool:
    edges = (piece[0], piece[-1], piece[:, 0], piece[:, -1])
    return not any(edge.any() and not is_open for edge, is_open in zip(edges, open_edges, strict=True))


def _squared_depth(mask: Mask) -> Int:
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    depth: Int = np.rint(distance * distance).astype(np.int64)
    return depth


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
    there = np.pad(take > 0, ((0, 0), (0, 0), (1, 1)))
    change = np.zeros(there.shape, bool)[:, :, 1:]
    change[:, :, 1:-1] = (take[:, :, 1:] != take[:, :, :-1]) | (box[:, :, 1:] != box[:, :, :-1])
    change |= there[:, :, 1:] != there[:, :, :-1]
    first = np.argwhere(change & there[:, :, 1:])
    last = np.argwhere(change & there[:, :, :-1])
    return np.column_stack([first, last[:, 2]]).astype(np.int64)
