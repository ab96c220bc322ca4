"""Masks between layers as cubic curves in z of their signed distances, moved along the centroids' path."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from overseg.kernels.raster import FINE, squared_distance

Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def distances(masks: Mask, gap: int) -> Mask:
    """Where the curves of the masks' distances are above 0; their highest point where they never are.

    Parameters
    ----------
    masks : ndarray of bool, shape (4, y, x)
        Two layers on either side; the outer ones may be empty, the inner ones not.
    gap : int
        Layers between.

    Returns
    -------
    ndarray of bool, shape (gap, y, x)
    """
    share = weights(gap, masks[0].any(), masks[3].any())
    ways = paths(masks, share)
    height, width = masks.shape[1:]
    y0, y1, x0, x1 = common_box(masks)
    # Room to move, and to be larger than any of the layers.
    margin = np.abs(ways).max() // FINE + max(y1 - y0, x1 - x0) // 4 + 2
    framed = np.zeros((4, y1 - y0 + 2 * margin, x1 - x0 + 2 * margin), np.bool_)
    framed[:, margin : margin + y1 - y0, margin : margin + x1 - x0] = masks[:, y0:y1, x0:x1]
    field = blend(framed, share, ways)
    out = np.zeros((gap, height, width), np.bool_)
    up, left = y0 - margin, x0 - margin
    for k in range(gap):
        inside = field[k, max(-up, 0) : height - up, max(-left, 0) : width - left]
        above = min(0, inside.max() - 1)
        for y in range(inside.shape[0]):
            for x in range(inside.shape[1]):
                out[k, max(up, 0) + y, max(left, 0) + x] = inside[y, x] > above
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def common_box(masks: Mask) -> tuple[int, int, int, int]:
    """The box ``y0, y1, x0, x1`` of all masks (layer, y, x), half open."""
    y0, y1, x0, x1 = masks.shape[1], 0, masks.shape[2], 0
    for layer in range(masks.shape[0]):
        for y in range(masks.shape[1]):
            for x in range(masks.shape[2]):
                if masks[layer, y, x]:
                    y0, y1, x0, x1 = min(y0, y), max(y1, y + 1), min(x0, x), max(x1, x + 1)
    return y0, y1, x0, x1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def weights(gap: int, before: bool, after: bool) -> Int:
    """Shares of four layers in each of the layers between the inner two.

    A cubic Hermite curve through both inner layers; its slope at either is that of the line between the
    layers beside it (Catmull and Rom, Computer Aided Geometric Design, 1974), or between the inner two where
    there is no layer beyond.

    Parameters
    ----------
    gap : int
        Layers between the inner two.
    before, after : bool
        Whether there is a layer just above the upper inner one, and just below the lower.

    Returns
    -------
    ndarray of int64, shape (gap, 4)
        In parts of (gap + 1)³ (gap + 2).
    """
    g = gap + 1
    out = np.zeros((gap, 4), np.int64)
    for k in range(1, g):
        rise = (3 * g - 2 * k) * k * k * (g + 1)
        leave, arrive = k * (g - k) * (g - k), k * k * (g - k)
        share = out[k - 1]
        share[1], share[2] = g * g * g * (g + 1) - rise, rise
        first, span = (0, g) if before else (1, g + 1)
        share[2] += leave * span
        share[first] -= leave * span
        last, span = (3, g) if after else (2, g + 1)
        share[last] -= arrive * span
        share[1] += arrive * span
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def paths(masks: Mask, share: Int) -> Int:
    """Ways (y, x) from every layer's centroid to those of the layers between, in 1 / FINE of a voxel."""
    centre = np.zeros((4, 2), np.int64)
    for layer in range(4):
        n = 0
        for y in range(masks.shape[1]):
            for x in range(masks.shape[2]):
                if masks[layer, y, x]:
                    n += 1
                    centre[layer, 0] += y
                    centre[layer, 1] += x
        if n:
            centre[layer] = (2 * FINE * centre[layer] + n) // (2 * n)
    ways = np.zeros((len(share), 4, 2), np.int64)
    for k in range(len(share)):
        whole = share[k].sum()
        for axis in range(2):
            goal = (share[k] * centre[:, axis]).sum()
            for layer in range(4):
                ways[k, layer, axis] = (2 * (goal - whole * centre[layer, axis]) + whole) // (2 * whole)
    return ways


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def blend(masks: Mask, share: Int, ways: Int) -> Int:
    """Signed distances of the layers between, above 0 inside, in parts of their own size.

    Parameters
    ----------
    masks : ndarray of bool, shape (4, y, x)
        Two layers on either side.
    share : ndarray of int64, shape (gap, 4)
    ways : ndarray of int64, shape (gap, 4, 2)
        How far each layer is moved, in 1 / FINE of a voxel.

    Returns
    -------
    ndarray of int64, shape (gap, y, x)
    """
    gap, height, width = len(share), masks.shape[1], masks.shape[2]
    out = np.zeros((gap, height, width), np.int64)
    for layer in range(4):
        if not share[:, layer].any():
            continue
        field = _signed(masks[layer])
        for k in range(gap):
            y0, x0 = -ways[k, layer, 0], -ways[k, layer, 1]
            fy, fx = y0 % FINE, x0 % FINE
            for y in range(height):
                up = min(max(y + y0 // FINE, 0), height - 1)
                down = min(max(y + y0 // FINE + 1, 0), height - 1)
                for x in range(width):
                    left = min(max(x + x0 // FINE, 0), width - 1)
                    right = min(max(x + x0 // FINE + 1, 0), width - 1)
                    one = field[up, left] * (FINE - fx) + field[up, right] * fx
                    two = field[down, left] * (FINE - fx) + field[down, right] * fx
                    out[k, y, x] += share[k, layer] * (one * (FINE - fy) + two * fy)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _signed(mask: Mask) -> Int:
    # Distance to the mask's border, in 1 / FINE of a voxel; roots are of whole numbers below 2^52, so exact.
    inside, outside = squared_distance(~mask), squared_distance(mask)
    out = np.empty(mask.shape, np.int64)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x]:
                out[y, x] = np.int64(np.sqrt(inside[y, x] * FINE * FINE)) - FINE // 2
            else:
                out[y, x] = FINE // 2 - np.int64(np.sqrt(outside[y, x] * FINE * FINE))
    return out
