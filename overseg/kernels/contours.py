"""The mask that is missing between two layers, from the masks above and below it.

Everything is worked out in the common box of both masks, in integers, and in one orientation of the pair, so
that a mask depends on nothing but the two masks: not on the crop, and not on which of them is on top.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numba
import numpy as np
import numpy.typing as npt

from overseg.errors import InputError, OversegError

Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]
Method = Literal["contour", "distance"]

FINE = 256
"""Positions on displaced contours are multiples of 1 / FINE of a voxel."""

MAX_SAMPLES = 256
"""Points of one contour that enter the transport problem; between them displacements are interpolated."""

_COST_BITS = 46  # the solver's doubles hold integers of this size, and sums of them, exactly


def interpolate(mask_a: Mask, mask_b: Mask, gap: int, method: Method = "contour") -> Mask:
    """Masks of the `gap` layers between two masks.

    ``"contour"`` is the optimal transport interpolation of CellStitch (Liu et al., BMC Bioinformatics
    24:480, 2023): uniform mass on both outlines, the plan that is optimal for squared Euclidean cost, every
    point moved along it by k / (gap + 1), closed and filled. Outlines run along the voxels' edges, so that
    they hold one-voxel masks and lines as well, and equal masks come back as they are. Ties in the cost are
    broken by a small integer term, so that the plan is unique. ``"distance"`` is the mean of both signed
    distance fields, each moved to the interpolated centroid.

    Parameters
    ----------
    mask_a, mask_b : ndarray of bool, shape (y, x)
        The masks in the layers before and after the gap, in one frame; neither is empty. A hole is kept
        only where both have one.
    gap : int
        Missing layers, at least 1.
    method : {"contour", "distance"}
        How.

    Returns
    -------
    ndarray of bool, shape (gap, y, x)
        One mask per missing layer, from `mask_a` to `mask_b`; none is empty, and each is in one piece where
        both masks are. Exchanging the masks reverses the layers, bit for bit.

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
    >>> interpolate(left, right, 3)[:, 0].astype(int)
    array([[0, 1, 0, 0, 0],
           [0, 0, 1, 0, 0],
           [0, 0, 0, 1, 0]])
    """
    if mask_a.shape != mask_b.shape or mask_a.ndim != 2:
        raise InputError(
            "both masks must be images (y, x) of one shape",
            where=f"shapes {mask_a.shape} and {mask_b.shape}",
            remedy="cut both out of the same box",
        )
    if gap < 1 or not mask_a.any() or not mask_b.any():
        raise InputError(
            "there is nothing to interpolate",
            where=f"gap {gap}, masks of {mask_a.sum()} and {mask_b.sum()} voxels",
            remedy="give two masks that are not empty and a gap of at least one layer",
        )
    between = _contours if method == "contour" else _distances
    out = np.zeros((gap, *mask_a.shape), bool)
    box = _box(mask_a | mask_b)
    a, b = (np.ascontiguousarray(mask[box], dtype=bool) for mask in (mask_a, mask_b))
    solid_a, solid_b = fill_holes(a), fill_holes(b)
    solid = between(solid_a, solid_b, gap)
    hole_a, hole_b = solid_a & ~a, solid_b & ~b
    if hole_a.any() and hole_b.any():
        hollow = solid & ~between(hole_a, hole_b, gap)
        keep = hollow.any(axis=(1, 2))
        solid[keep] = hollow[keep]
    out[:, *box] = solid
    return out


def fill_holes(mask: Mask) -> Mask:
    """A mask without its holes: background that an outline of (diagonally) touching voxels encloses.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)

    Returns
    -------
    ndarray of bool, shape (y, x)
    """
    corners, start = outline(mask)
    filled: Mask = _wind(corners * FINE, start, *mask.shape)
    return filled


def outline(mask: Mask) -> tuple[Int, Int]:
    """Outer outlines of a mask along the edges of its voxels, without those of holes.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)
        Diagonal neighbours belong together.

    Returns
    -------
    corners : ndarray of int64, shape (n, 2)
        Corners (y, x) of voxels, one step of length 1 after the other; voxel (i, j) has the corners (i, j) to
        (i + 1, j + 1).
    start : ndarray of int64, shape (loops + 1,)
        Loop i is ``corners[start[i]:start[i + 1]]``, closed; in C order of the first corners.
    """
    corners, start = _trace(np.pad(mask, 1))
    return corners - 1, start


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _trace(mask: Mask) -> tuple[Int, Int]:
    height, width = mask.shape
    seen = np.zeros((height, width), np.bool_)  # voxels whose upper edge is on a traced loop
    corners = np.empty((4 * mask.sum(), 2), np.int64)
    starts = [0]
    n = 0
    for y0 in range(1, height):
        for x0 in range(1, width):
            if not mask[y0, x0] or mask[y0 - 1, x0] or seen[y0, x0]:
                continue
            first, doubled_area = n, 0
            y, x, dy, dx = y0, x0, 0, 1  # along the upper edge, mask to the right
            while True:
                if dx == 1:
                    if seen[y, x]:
                        break
                    seen[y, x] = True
                corners[n, 0], corners[n, 1] = y, x
                n += 1
                doubled_area += x * dy - y * dx
                y, x = y + dy, x + dx
                # The voxels ahead, to the left and to the right of the way.
                left = mask[y + (dy - dx - 1) // 2, x + (dx + dy - 1) // 2]
                right = mask[y + (dy + dx - 1) // 2, x + (dx - dy - 1) // 2]
                if left:
                    dy, dx = -dx, dy
                elif not right:
                    dy, dx = dx, -dy
            if doubled_area > 0:
                starts.append(n)
            else:
                n = first  # the rim of a hole
    return corners[:n].copy(), np.array(starts)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _wind(points: Int, start: Int, height: int, width: int) -> Mask:
    # Voxels whose centre has a winding number other than zero; `points` are in units of 1 / FINE.
    turns = np.zeros((height, width + 1), np.int64)
    half = FINE // 2
    for k in range(start.size - 1):
        for i in range(start[k], start[k + 1]):
            j = i + 1 if i + 1 < start[k + 1] else start[k]
            y0, x0, y1, x1, sign = points[i, 0], points[i, 1], points[j, 0], points[j, 1], 1
            if y0 > y1:
                y0, x0, y1, x1, sign = y1, x1, y0, x0, -1
            for row in range(max(-((half - y0) // FINE), 0), min(-((half - y1) // FINE), height)):
                # First centre at or after the crossing of this row.
                over = (x0 - half) * (y1 - y0) + (x1 - x0) * (row * FINE + half - y0)
                column = -(-over // (FINE * (y1 - y0)))
                turns[row, min(max(column, 0), width)] += sign
    out = np.zeros((height, width), np.bool_)
    for row in range(height):
        depth = 0
        for column in range(width):
            depth += turns[row, column]
            out[row, column] = depth != 0
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _draw(points: Int, start: Int, out: Mask) -> None:
    # Every voxel that the closed lines pass, densely enough to be connected.
    for k in range(start.size - 1):
        for i in range(start[k], start[k + 1]):
            j = i + 1 if i + 1 < start[k + 1] else start[k]
            dy, dx = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1]
            steps = max(abs(dy), abs(dx)) // FINE + 1
            for s in range(steps):
                y, x = (points[i, 0] + dy * s // steps) // FINE, (points[i, 1] + dx * s // steps) // FINE
                out[min(max(y, 0), out.shape[0] - 1), min(max(x, 0), out.shape[1] - 1)] = True


def _contours(a: Mask, b: Mask, gap: int) -> Mask:
    line_a, line_b = outline(a), outline(b)
    swapped = _before(line_a, line_b)
    if swapped:
        line_a, line_b = line_b, line_a
    points, start = line_a
    whole = len(line_a[1]) == len(line_b[1]) == 2
    step, total = _displacements(points, start, line_b[0])
    out = np.zeros((gap, *a.shape), bool)
    for layer in range(gap):
        k = gap - layer if swapped else layer + 1
        weight = total * (gap + 1)
        moved = points * FINE + (2 * FINE * k * step + weight) // (2 * weight)
        out[layer] = _wind(moved, start, *a.shape)
        if not out[layer].any() or (whole and _pieces(out[layer]) > 1):
            _draw(moved, start, out[layer])
            out[layer] = fill_holes(out[layer])
    return out


def _before(line_a: tuple[Int, Int], line_b: tuple[Int, Int]) -> bool:
    # The longer outline is moved onto the shorter; between equally long ones the coordinates decide.
    a, b = line_a[0].ravel(), line_b[0].ravel()
    if len(a) != len(b):
        return len(a) < len(b)
    differ = np.flatnonzero(a != b)
    return bool(differ.size and a[differ[0]] < b[differ[0]])


def _displacements(points: Int, start: Int, target: Int) -> tuple[Int, int]:
    """Way of every corner to its place on the target outline, as a sum over `total` units of mass."""
    stride = -(-len(points) // MAX_SAMPLES)
    taken = np.concatenate([np.arange(i, j, stride) for i, j in pairwise(start)])
    goal = target[:: -(-len(target) // MAX_SAMPLES)]
    flow = _plan(points[taken], goal)
    way = flow @ goal - points[taken] * len(goal)
    if stride == 1:
        return way, len(goal)
    full = np.empty_like(points)
    for i, j in pairwise(start):
        own = (taken >= i) & (taken < j)
        at, known = np.append(taken[own], j), np.append(way[own], way[own][:1], axis=0)
        place = np.searchsorted(at, np.arange(i, j), side="right") - 1
        rest, length = (np.arange(i, j) - at[place])[:, None], (at[place + 1] - at[place])[:, None]
        # Whole shares of 1 / stride^2; only the last piece of a loop is shorter than the others.
        full[i:j] = (known[place] * (length - rest) + known[place + 1] * rest) * stride // length
    return full, len(goal) * stride


def _plan(source: Int, goal: Int) -> Int:
    """Optimal plan for squared Euclidean cost: a source gives len(goal) units, a goal takes len(source)."""
    import ot

    n, m = len(source), len(goal)
    # Moving one outline as a whole adds a constant to every plan's cost: take the centroids' distance out.
    drift = (goal.sum(axis=0) * n - source.sum(axis=0) * m) // (n * m)
    apart = goal[None, :, :] - drift - source[:, None, :]
    cost = (apart * apart).sum(axis=2)
    # A term that is too small to change which costs are lower, but makes equal ones differ.
    bits = min(max(_COST_BITS - int(cost.max()).bit_length() - (n * m).bit_length(), 0), 16)
    index = np.arange(n * m, dtype=np.uint64).reshape(n, m)
    mixed = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    cost = ((cost * (n * m)) << bits) + ((mixed >> np.uint64(40)) & np.uint64((1 << bits) - 1)).astype(
        np.int64
    )
    flow, log = ot.emd(np.full(n, float(m)), np.full(m, float(n)), cost.astype(float), 10**8, log=True)
    if log["warning"] is not None:
        raise OversegError(
            f"an outline could not be interpolated: {log['warning']}",
            where=f"outlines of {n} and {m} points",
            remedy="report this with the two masks: it should not happen",
        )
    units: Int = np.rint(flow).astype(np.int64)
    return units


def _pieces(mask: Mask) -> int:
    from scipy.ndimage import label

    return int(label(mask, np.ones((3, 3), int))[1])


def _box(mask: Mask) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _distances(a: Mask, b: Mask, gap: int) -> Mask:
    from scipy.ndimage import map_coordinates

    drift = np.argwhere(b).mean(axis=0) - np.argwhere(a).mean(axis=0)
    margin = int(np.abs(drift).max()) + 2
    field_a, field_b = (_signed_distance(np.pad(mask, margin)) for mask in (a, b))
    grid = np.indices(a.shape, dtype=float) + margin
    out = np.zeros((gap, *a.shape), bool)
    for layer in range(gap):
        from_a, from_b = (layer + 1) / (gap + 1), (gap - layer) / (gap + 1)
        moved_a = map_coordinates(field_a, grid - (from_a * drift)[:, None, None], order=1, mode="nearest")
        moved_b = map_coordinates(field_b, grid + (from_b * drift)[:, None, None], order=1, mode="nearest")
        mean = from_b * moved_a + from_a * moved_b
        out[layer] = mean > min(0.0, float(np.nextafter(mean.max(), -np.inf)))
    return out


def _signed_distance(mask: Mask) -> npt.NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    signed: npt.NDArray[np.float64] = distance_transform_edt(mask) - distance_transform_edt(~mask)
    return signed - np.where(mask, 0.5, -0.5)
