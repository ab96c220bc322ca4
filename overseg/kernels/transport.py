"""Earth mover's distances between masks, exact or from moments. See docs/architecture.md, section 5.

Masks are boolean images of one layer (y, x); every mask is a uniform probability measure on its voxels.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from overseg.errors import InputError, ResourceError
from overseg.kernels.levels import levels, residual

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

VOXEL_VARIANCE = 1.0 / 12.0
"""Variance of a uniform voxel of side 1 along each axis."""

MOST_MASS = 2**58
"""Product of both areas and the larger one: below it the masses of the transport problem fit 64 bits."""


# ------------------------------------------------------------------ from moments


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _centred(
    n: int, sy: int, sx: int, syy: int, sxx: int, syx: int
) -> tuple[int, int, float, float, float, float, float]:
    # Shifted in integers to the voxel nearest to the centroid: the floats below are small, nothing cancels.
    cy = (2 * sy + n) // (2 * n)
    cx = (2 * sx + n) // (2 * n)
    fy = (sy - n * cy) / n
    fx = (sx - n * cx) / n
    vyy = (syy - 2 * cy * sy + n * cy * cy) / n - fy * fy
    vxx = (sxx - 2 * cx * sx + n * cx * cx) / n - fx * fx
    vyx = (syx - cx * sy - cy * sx + n * cy * cx) / n - fy * fx
    return cy, cx, fy, fx, vyy, vxx, vyx


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _drift_shape(rows: Points, spacing_y: float, spacing_x: float, out: Float) -> None:
    for i in range(rows.shape[1]):
        n1, sy1, sx1, syy1, sxx1, syx1 = (
            rows[0, i],
            rows[1, i],
            rows[2, i],
            rows[3, i],
            rows[4, i],
            rows[5, i],
        )
        n2, sy2, sx2, syy2, sxx2, syx2 = (
            rows[6, i],
            rows[7, i],
            rows[8, i],
            rows[9, i],
            rows[10, i],
            rows[11, i],
        )
        dy, dx = rows[12, i], rows[13, i]
        if n1 <= 0 or n2 <= 0:
            out[:, i] = np.nan
            continue
        cy1, cx1, fy1, fx1, a1, c1, b1 = _centred(n1, sy1, sx1, syy1, sxx1, syx1)
        cy2, cx2, fy2, fx2, a2, c2, b2 = _centred(n2, sy2, sx2, syy2, sxx2, syx2)
        my = ((cy2 + dy - cy1) + (fy2 - fy1)) * spacing_y
        mx = ((cx2 + dx - cx1) + (fx2 - fx1)) * spacing_x
        out[0, i] = my * my + mx * mx
        yy, xx, yx = spacing_y * spacing_y, spacing_x * spacing_x, spacing_y * spacing_x
        a1, a2 = (a1 + VOXEL_VARIANCE) * yy, (a2 + VOXEL_VARIANCE) * yy
        c1, c2 = (c1 + VOXEL_VARIANCE) * xx, (c2 + VOXEL_VARIANCE) * xx
        b1, b2 = b1 * yx, b2 * yx
        root1 = math.sqrt(max(a1 * c1 - b1 * b1, 0.0))
        root2 = math.sqrt(max(a2 * c2 - b2 * b2, 0.0))
        # tr(S1 + S2 - 2 R), R = (S1^1/2 S2 S1^1/2)^1/2, by its conjugate: the numerator's terms are
        # squares of small differences, so equal shapes give exactly zero and near ones keep their digits.
        da, db, dc, dr = a1 - a2, b1 - b2, c1 - c2, root1 - root2
        above = (da - dc) * (da - dc) + 4.0 * (db * db) + 4.0 * (dr * dr)
        inner = (a1 * a2 + c1 * c2) + 2.0 * (b1 * b2) + 2.0 * (root1 * root2)
        below = ((a1 + c1) + (a2 + c2)) + 2.0 * math.sqrt(max(inner, 0.0))
        out[1, i] = above / below


def drift_shape(
    n1: npt.ArrayLike,
    sy1: npt.ArrayLike,
    sx1: npt.ArrayLike,
    syy1: npt.ArrayLike,
    sxx1: npt.ArrayLike,
    syx1: npt.ArrayLike,
    n2: npt.ArrayLike,
    sy2: npt.ArrayLike,
    sx2: npt.ArrayLike,
    syy2: npt.ArrayLike,
    sxx2: npt.ArrayLike,
    syx2: npt.ArrayLike,
    dy: npt.ArrayLike,
    dx: npt.ArrayLike,
    spacing_y: float = 1.0,
    spacing_x: float = 1.0,
) -> tuple[Float, Float]:
    """How far a mask moves and how much it changes shape, from the moments of two masks, row by row.

    Gelbrich's bound W2² >= |m1 - m2|² + tr(S1 + S2 - 2 (S1^½ S2 S1^½)^½), with equality when one mask
    is an affine image of the other; the first term is the drift, the second (Bures) the change of shape.
    Each voxel is a unit square, not a point: 1/12 is added to both variances before the voxel size. A row
    depends on nothing but itself, and exchanging the two masks (with -dy, -dx) gives the same bits.

    Parameters
    ----------
    n1, sy1, sx1, syy1, sxx1, syx1 : array_like of int64, shape (n,)
        Area and sums of y, x, y², x², y·x over the voxels of the first masks, about an integer corner.
    n2, sy2, sx2, syy2, sxx2, syx2 : array_like of int64, shape (n,)
        The same of the second masks, about a corner of their own.
    dy, dx : array_like of int64, shape (n,)
        Second corner minus first corner, in voxels.
    spacing_y, spacing_x : float
        Voxel size.

    Returns
    -------
    drift2, shape2 : ndarray of float64, shape (n,)
        Both terms, squared lengths in the unit of the voxel size; NaN where a mask is empty.
    """
    given = (n1, sy1, sx1, syy1, sxx1, syx1, n2, sy2, sx2, syy2, sxx2, syx2, dy, dx)
    columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(part, np.int64)) for part in given))
    out = np.empty((2, columns[0].size))
    _drift_shape(np.stack(columns), float(spacing_y), float(spacing_x), out)
    return out[0], out[1]


def mask_moments(mask: Mask) -> tuple[int, int, int, int, int, int]:
    """Area and sums of y, x, y², x², y·x of a mask about its corner, as `drift_shape` takes them.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)

    Returns
    -------
    tuple of int
        ``n, sy, sx, syy, sxx, syx`` in voxels.
    """
    y, x = np.nonzero(mask)
    parts = (np.sum(y), np.sum(x), np.sum(y * y), np.sum(x * x), np.sum(y * x))
    return (len(y), *(int(part) for part in parts))  # type: ignore[return-value]


# ------------------------------------------------------------------ exact


def mask_points(mask: Mask, offset: tuple[int, int] = (0, 0)) -> Points:
    """Voxels of a mask as rows (y, x), in C order.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)
    offset : tuple of int
        Added to every row, in voxels.

    Returns
    -------
    ndarray of int64, shape (n, 2)
    """
    return np.argwhere(mask).astype(np.int64) + np.asarray(offset, np.int64)


def emd(
    mask_a: Mask, mask_b: Mask, spacing: tuple[float, float] = (1.0, 1.0), offset: tuple[int, int] = (0, 0)
) -> float:
    """Exact earth mover's distance (W1, Euclidean ground cost) between two masks.

    Parameters
    ----------
    mask_a, mask_b : ndarray of bool, shape (y, x)
        Each carries a uniform probability measure; the shapes may differ.
    spacing : tuple of float
        Voxel size (y, x).
    offset : tuple of int
        Corner of `mask_b` relative to that of `mask_a`, in voxels (y, x).

    Returns
    -------
    float
        The distance, in the unit of the voxel size; the same bits for exchanged or shifted masks.

    Raises
    ------
    InputError
        If a mask is empty or not two-dimensional.
    ResourceError
        If the masks have some half a million voxels or more.

    Notes
    -----
    W1 depends on the difference of the measures alone, so shared mass may stay where it is (Kantorovich-
    Rubinstein); only the residual is transported, in integer supplies of 1 / (|A| |B|). It is solved by a
    network simplex (Dantzig 1951; Bonneel et al., ACM TOG 30:158, 2011) that starts from the potentials of
    coarser levels; see `overseg.kernels.simplex`.

    Examples
    --------
    >>> import numpy as np
    >>> emd(np.ones((2, 2), bool), np.ones((2, 2), bool), offset=(0, 3))
    3.0
    """
    if mask_a.ndim != 2 or mask_b.ndim != 2:
        raise InputError(
            "a mask must have the two axes (y, x)",
            where=f"shapes {mask_a.shape} and {mask_b.shape}",
            remedy="give one layer at a time",
        )
    return emd_points(mask_points(mask_a), mask_points(mask_b, offset), spacing)


def can_be_solved(voxels_a: int, voxels_b: int) -> bool:
    """Whether masks of so many voxels are small enough for exact integers."""
    return voxels_a * voxels_b * max(voxels_a, voxels_b) < MOST_MASS


def emd_points(
    points_a: Points, points_b: Points, spacing: tuple[float, float] = (1.0, 1.0), fast: bool = False
) -> float:
    """Earth mover's distance between two sets of voxels given by their coordinates; see `emd`.

    Parameters
    ----------
    points_a, points_b : ndarray of int64, shape (n, 2)
        Different voxels (y, x) in any order.
    spacing : tuple of float
        Voxel size (y, x).
    fast : bool
        Within about 1% and many times faster: blocks of voxels in place of voxels where two sizes of block
        agree, their totals extrapolated. Small problems and those that do not agree are exact all the same.

    Returns
    -------
    float
        The distance, in the unit of the voxel size.

    Raises
    ------
    InputError
        If a set is empty.
    ResourceError
        If the masks have some half a million voxels or more.
    """
    return _solved(points_a, points_b, spacing, fast, bounds=False)[0]


def emd_between(
    points_a: Points, points_b: Points, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float, float]:
    """The fast distance of `emd_points`, with bounds of the exact one.

    Parameters
    ----------
    points_a, points_b, spacing
        As for `emd_points`, which also tells what is raised.

    Returns
    -------
    value, low, high : float
        In the unit of the voxel size. The lower bound is what the blocks' potentials, extended to all voxels,
        are worth (Kantorovich-Rubinstein); the upper one what the blocks' plan costs at most (Jensen's
        inequality). They are some 4% apart, or 2e-9 where the distance is exact.
    """
    return _solved(points_a, points_b, spacing, fast=True, bounds=True)


def _solved(
    points_a: Points, points_b: Points, spacing: tuple[float, float], fast: bool, bounds: bool
) -> tuple[float, float, float]:
    if not len(points_a) or not len(points_b):
        raise InputError(
            "the distance to an empty mask is not defined",
            where=f"masks of {len(points_a)} and {len(points_b)} voxels",
            remedy="leave out layers in which the cell has no voxel",
        )
    if not can_be_solved(len(points_a), len(points_b)):
        raise ResourceError(
            f"masks of {len(points_a):,} and {len(points_b):,} voxels are too large for exact integers",
            where="an earth mover's distance between two layers",
            remedy="work on a coarser level of the volume",
        )
    rest = residual(np.ascontiguousarray(points_a), np.ascontiguousarray(points_b))
    if not rest[0].size:
        return 0.0, 0.0, 0.0
    total, low, high = levels(*rest[:6], np.array(spacing, np.float64), fast, bounds)
    return float(total / rest[6]), float(low / rest[6]), float(high / rest[6])


# ------------------------------------------------------------------ bounds


def lower_bound(points_a: Points, points_b: Points, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """Distance of the centroids: W1 is never below it (Jensen's inequality).

    Parameters
    ----------
    points_a, points_b : ndarray of int64, shape (n, 2)
        Voxels (y, x).
    spacing : tuple of float
        Voxel size (y, x).

    Returns
    -------
    float
        In the unit of the voxel size.
    """
    step = (points_a.mean(axis=0) - points_b.mean(axis=0)) * np.asarray(spacing)
    return float(np.hypot(step[0], step[1]))


def upper_bound(points_a: Points, points_b: Points, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """(1 - overlap / larger area) times the diagonal of the common box: W1 is never above it.

    Parameters
    ----------
    points_a, points_b : ndarray of int64, shape (n, 2)
        Voxels (y, x).
    spacing : tuple of float
        Voxel size (y, x).

    Returns
    -------
    float
        In the unit of the voxel size.
    """
    both = np.concatenate([points_a, points_b])
    side = (both.max(axis=0) - both.min(axis=0)) * np.asarray(spacing)
    overlap = len(both) - len(np.unique(both, axis=0))
    return float((1 - overlap / max(len(points_a), len(points_b))) * np.hypot(side[0], side[1]))
