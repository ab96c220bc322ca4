"""The mask that is missing between two layers, from the masks above and below it.

Everything is worked out in the common box of the masks, in integers, and alike for both sides, so that a mask
depends on nothing but these masks: not on the crop, and not on which of them is on top.
"""

from __future__ import annotations

from typing import Literal

import numba
import numpy as np
import numpy.typing as npt

from overseg.errors import InputError
from overseg.kernels.coupling import solve
from overseg.kernels.distances import common_box, distances
from overseg.kernels.raster import FINE, draw, pieces, solid, trace, wind

Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]
Method = Literal["distance", "contour"]

MAX_SAMPLES = 256
"""Points of one contour that enter the transport problem; between them displacements are interpolated."""

_COST_BITS = 46  # integers of this size may be added up along an outline


def interpolate(
    mask_a: Mask,
    mask_b: Mask,
    gap: int,
    method: Method = "distance",
    *,
    before: Mask | None = None,
    after: Mask | None = None,
) -> Mask:
    """Masks of the `gap` layers between two masks.

    ``"distance"`` is shape-based interpolation (Raya and Udupa, IEEE Trans. Med. Imaging 9:32, 1990; cubic
    after Herman et al., IEEE Comput. Graph. Appl. 12:69, 1992): the signed distances to the masks' borders
    are curves in z, and so is the path of the centroids, along which they are moved; see
    `overseg.kernels.distances`. ``"contour"`` is the optimal transport interpolation of CellStitch (Liu et
    al., BMC Bioinformatics 24:480, 2023): uniform mass on both outlines, the plan that is optimal for squared
    Euclidean cost, every point moved along it by k / (gap + 1), closed and filled. Outlines run along the
    voxels' edges, so that they hold one-voxel masks and lines as well. Ties in the cost are broken by a small
    integer term, so that the plan is unique. Equal masks come back as they are with either.

    Parameters
    ----------
    mask_a, mask_b : ndarray of bool, shape (y, x)
        The masks in the layers before and after the gap, in one frame; neither is empty. A hole is kept
        only where both have one.
    gap : int
        Missing layers, at least 1.
    method : {"distance", "contour"}
        How. Where distances would break in pieces what is whole in both masks, contours are taken.
    before, after : ndarray of bool, shape (y, x), optional
        The masks in the layers just before `mask_a` and just after `mask_b`, for ``"distance"``: curves
        follow them. An empty one counts as none.

    Returns
    -------
    ndarray of bool, shape (gap, y, x)
        One mask per missing layer, from `mask_a` to `mask_b`; none is empty, and each is in one piece where
        both masks are. Exchanging the sides reverses the layers, bit for bit.

    Raises
    ------
    InputError
        If the masks differ in shape, one is empty, or the gap is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> line = np.zeros((1, 5), bool)
    >>> left, right = line.copy(), line.copy()
    >>> left[0, 0] = right[0, 4] = True
    >>> interpolate(left, right, 3, "contour")[:, 0].astype(int)
    array([[0, 1, 0, 0, 0],
           [0, 0, 1, 0, 0],
           [0, 0, 0, 1, 0]])
    """
    beyond = [mask for mask in (before, after) if mask is not None]
    if mask_a.ndim != 2 or any(mask.shape != mask_a.shape for mask in (mask_b, *beyond)):
        raise InputError(
            "all masks must be images (y, x) of one shape",
            where=f"shapes {', '.join(str(mask.shape) for mask in (mask_a, mask_b, *beyond))}",
            remedy="cut them out of the same box",
        )
    if gap < 1 or not mask_a.any() or not mask_b.any():
        raise InputError(
            "there is nothing to interpolate",
            where=f"gap {gap}, masks of {mask_a.sum()} and {mask_b.sum()} voxels",
            remedy="give two masks that are not empty and a gap of at least one layer",
        )
    none = np.zeros_like(mask_a)
    masks = np.stack([none if before is None else before, mask_a, mask_b, none if after is None else after])
    found: Mask = _layers(np.ascontiguousarray(masks, bool), gap, method == "distance", MAX_SAMPLES)
    return found


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _layers(masks: Mask, gap: int, by_distance: bool, samples: int) -> Mask:
    # Filled masks and their holes, each between each.
    filled, holes = np.empty_like(masks), np.zeros_like(masks)
    for layer in range(4):
        filled[layer] = solid(masks[layer])
    out = _between(filled, gap, by_distance, samples)
    holes[1], holes[2] = filled[1] & ~masks[1], filled[2] & ~masks[2]
    if holes[1].any() and holes[2].any():
        hollow = out & ~_between(holes, gap, by_distance, samples)
        for k in range(gap):
            if hollow[k].any():
                out[k] = hollow[k]
    return out  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _between(masks: Mask, gap: int, by_distance: bool, samples: int) -> Mask:
    y0, y1, x0, x1 = common_box(masks[1:3])
    a, b = masks[1, y0:y1, x0:x1].copy(), masks[2, y0:y1, x0:x1].copy()
    if by_distance:
        out = distances(masks, gap)
        broken = False
        for k in range(gap):
            broken = broken or pieces(out[k], True)[1] > 1
        if not broken or pieces(a, True)[1] > 1 or pieces(b, True)[1] > 1:
            return out  # type: ignore[no-any-return]
    out = np.zeros((gap, masks.shape[1], masks.shape[2]), np.bool_)
    out[:, y0:y1, x0:x1] = _contours(a, b, gap, samples)
    return out  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _contours(a: Mask, b: Mask, gap: int, samples: int) -> Mask:
    points, start = trace(a)
    target, target_start = trace(b)
    whole = start.size == target_start.size == 2
    swapped = _before(points, target)
    if swapped:
        points, start, target = target, target_start, points
    step, total = _displacements(points, start, target, samples)
    out = np.zeros((gap, a.shape[0], a.shape[1]), np.bool_)
    for layer in range(gap):
        k = gap - layer if swapped else layer + 1
        weight = total * (gap + 1)
        moved = points * FINE + (2 * FINE * k * step + weight) // (2 * weight)
        drawn = wind(moved, start, a.shape[0], a.shape[1])
        if not drawn.any() or (whole and pieces(drawn, True)[1] > 1):
            draw(moved, start, drawn)
            drawn = solid(drawn)
        out[layer] = drawn
    return out  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _before(one: Int, two: Int) -> bool:
    # The longer outline is moved onto the shorter; between equally long ones the coordinates decide.
    if one.shape[0] != two.shape[0]:
        return one.shape[0] < two.shape[0]  # type: ignore[no-any-return]
    for i in range(one.shape[0]):
        for axis in range(2):
            if one[i, axis] != two[i, axis]:
                return one[i, axis] < two[i, axis]  # type: ignore[no-any-return]
    return False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _displacements(points: Int, start: Int, target: Int, samples: int) -> tuple[Int, int]:
    # Way of every corner to its place on the target outline, as a sum over `total` units of mass.
    stride = -(-len(points) // samples)
    taken = _taken(start, stride)
    goal = target[:: -(-len(target) // samples)].copy()
    n, m = len(taken), len(goal)
    way = -points[taken] * m
    for i, j, units in zip(*solve(transport_cost(points[taken], goal))):  # noqa: B905 (numba knows no `strict`)
        way[i] += units * goal[j]
    full = np.empty_like(points)
    for i in range(n):
        # In whole shares of 1 / stride^2; only the last piece of a loop may be shorter than the others.
        loop = np.searchsorted(start, taken[i], side="right")
        stop = taken[i + 1] if i + 1 < n and taken[i + 1] < start[loop] else start[loop]
        following = i + 1 if stop < start[loop] else np.searchsorted(taken, start[loop - 1])
        length = stop - taken[i]
        for at in range(taken[i], stop):
            rest = at - taken[i]
            full[at] = (way[i] * (length - rest) + way[following] * rest) * stride // length
    return full, m * stride


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _taken(start: Int, stride: int) -> Int:
    # Every stride-th corner of each loop.
    taken = np.empty(start[-1], np.int64)
    n = 0
    for k in range(start.size - 1):
        for i in range(start[k], start[k + 1], stride):
            taken[n] = i
            n += 1
    return taken[:n]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def transport_cost(source: Int, goal: Int) -> Int:
    """Squared distances between points, as integers that differ where distances tie.

    A source is to give len(goal) units, and a goal to take len(source). What all plans share, the distance
    of the centroids, is taken out. The term that breaks ties is too small to change which of two costs is
    lower.

    Parameters
    ----------
    source, goal : ndarray of int64, shape (n, 2) and (m, 2)
        Positions (y, x).

    Returns
    -------
    ndarray of int64, shape (n, m)
    """
    n, m = len(source), len(goal)
    dy = (goal[:, 0].sum() * n - source[:, 0].sum() * m) // (n * m)
    dx = (goal[:, 1].sum() * n - source[:, 1].sum() * m) // (n * m)
    cost = np.empty((n, m), np.int64)
    most = np.int64(0)
    for i in range(n):
        for j in range(m):
            y, x = goal[j, 0] - dy - source[i, 0], goal[j, 1] - dx - source[i, 1]
            cost[i, j] = y * y + x * x
            most = max(most, cost[i, j])
    bits = min(max(_COST_BITS - _bit_length(most) - _bit_length(n * m), 0), 16)
    for i in range(n):
        for j in range(m):
            mixed = np.uint64(i * m + j + 1) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
            broken = np.int64(mixed >> np.uint64(40)) & ((1 << bits) - 1)
            cost[i, j] = ((cost[i, j] * (n * m)) << bits) + broken
    return cost


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _bit_length(value: int) -> int:
    n = 0
    while value > 0:
        value >>= 1
        n += 1
    return n
