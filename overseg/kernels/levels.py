"""From coarse to fine: the earth mover's distance between two sets of voxels, level by level.

Voxels are gathered into square blocks of side h, each block's mass put at its centre of mass. The coarsest
problem is tiny; its potentials, carried to the next level, leave the simplex little to do there.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from overseg.kernels.simplex import transport

Float = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Residual = tuple[Whole, Whole, Whole, Whole, Whole, Whole, int]

FEW = 24
"""A level with at most so many blocks on either side needs none before it."""

SMALL = 2500
"""Problems of at most so many pairs of voxels are solved exactly by the fast way too."""

LEAST_TRAVEL = 2.0
MOST_CHANGE = 0.05
"""The fast way trusts blocks if the mass travels so many of their sides on average, and if the coarser level
differs by no more than this share."""

ROUNDING = 1e-9
"""Bounds are widened by so much of their size: far above what rounding adds, far below what matters."""

_kernel = numba.njit(cache=True, nogil=True)


@_kernel  # type: ignore[untyped-decorator]
def corner(points_a: Whole, points_b: Whole) -> tuple[int, int, int]:
    """Least y, least x, and width of the box around both sets."""
    y0, x0, x1 = points_a[0, 0], points_a[0, 1], points_a[0, 1]
    for points in (points_a, points_b):
        for k in range(points.shape[0]):
            y0 = min(y0, points[k, 0])
            x0 = min(x0, points[k, 1])
            x1 = max(x1, points[k, 1])
    return y0, x0, x1 - x0 + 1


@_kernel  # type: ignore[untyped-decorator]
def sorted_keys(points: Whole, y0: int, x0: int, width: int) -> Whole:
    """Places of the voxels in their common box, ascending."""
    keys = np.empty(points.shape[0], np.int64)
    ascending = True
    for k in range(keys.size):
        keys[k] = (points[k, 0] - y0) * width + points[k, 1] - x0
        ascending &= k == 0 or keys[k] > keys[k - 1]
    if not ascending:
        keys.sort()
    return keys


@_kernel  # type: ignore[untyped-decorator]
def goes_after(a: Whole, b: Whole) -> bool:
    """One order of two masks, whichever is given first: by size, then by the first voxel that differs."""
    if a.size != b.size:
        return bool(a.size > b.size)
    for k in range(a.size):
        if a[k] != b[k]:
            return bool(a[k] > b[k])
    return False


@_kernel  # type: ignore[untyped-decorator]
def residual(points_a: Whole, points_b: Whole) -> Residual:
    """What is left to transport when shared mass stays where it is.

    Parameters
    ----------
    points_a, points_b : ndarray of int64, shape (n, 2)
        Different voxels (y, x) in any order; neither set is empty.

    Returns
    -------
    sy, sx, supply, ty, tx, demand : ndarray of int64
        Voxels in C order about their common corner, and their masses. One side is the smaller set (of two
        equally large ones its part outside the other), the other the larger set's part outside it; the
        side with more voxels comes first.
    whole : int
        The mass of either set, shared mass and all.
    """
    y0, x0, width = corner(points_a, points_b)
    a, b = sorted_keys(points_a, y0, x0, width), sorted_keys(points_b, y0, x0, width)
    if goes_after(a, b):
        a, b = b, a
    divisor = math.gcd(a.size, b.size)
    m, n = a.size // divisor, b.size // divisor
    source, supply, sink = np.empty(a.size, np.int64), np.empty(a.size, np.int64), np.empty(b.size, np.int64)
    ns = nt = k = 0
    for i in range(a.size):
        while k < b.size and b[k] < a[i]:
            sink[nt] = b[k]
            nt += 1
            k += 1
        shared = k < b.size and b[k] == a[i]
        if shared:
            k += 1
        if not shared or n > m:
            source[ns], supply[ns] = a[i], n - m if shared else n
            ns += 1
    for i in range(k, b.size):
        sink[nt] = b[i]
        nt += 1
    source, supply, sink, demand = source[:ns], supply[:ns], sink[:nt], np.full(nt, m, np.int64)
    if nt > ns:
        source, supply, sink, demand = sink, demand, source, supply
    sy, ty = source // width, sink // width
    return sy, source - sy * width, supply, ty, sink - ty * width, demand, n * a.size


@_kernel  # type: ignore[untyped-decorator]
def gathered(y: Whole, x: Whole, mass: Whole, h: int, size: Float) -> tuple[Float, Float, Whole, Float]:
    """Blocks of side h: centres of mass in units of length, masses, and mean squares about the centres.

    In the order of their first voxel.
    """
    n = y.size
    if h == 1:
        return y * size[0], x * size[1], mass, np.zeros(n)
    left = x.min() // h
    band, block = np.full(x.max() // h - left + 1, -1, np.int64), np.empty(x.max() // h - left + 1, np.int64)
    cy, cx, total, square = np.zeros(n), np.zeros(n), np.zeros(n, np.int64), np.zeros(n)
    k = 0
    for i in range(n):
        row, column = y[i] // h, x[i] // h - left
        if band[column] != row:
            band[column], block[column] = row, k
            k += 1
        g = block[column]
        total[g] += mass[i]
        cy[g] += mass[i] * y[i]
        cx[g] += mass[i] * x[i]
        # From the block's corner, so that nothing cancels.
        dy, dx = (y[i] % h) * size[0], (x[i] % h) * size[1]
        square[g] += mass[i] * (dy * dy + dx * dx)
    cy, cx, total, square = cy[:k] / total[:k], cx[:k] / total[:k], total[:k], square[:k]
    for g in range(k):
        dy, dx = (cy[g] % h) * size[0], (cx[g] % h) * size[1]
        square[g] = max(square[g] / total[g] - (dy * dy + dx * dx), 0.0)
    return cy * size[0], cx * size[1], total, square


@_kernel  # type: ignore[untyped-decorator]
def carried(ty: Float, tx: Float, sy: Float, sx: Float, u: Float) -> Float:
    """Potentials of sinks from those of sources of a coarser level: the largest that never exceed a cost."""
    v = np.empty(ty.size)
    for j in range(ty.size):
        least = np.inf
        for i in range(sy.size):
            dy, dx = ty[j] - sy[i], tx[j] - sx[i]
            least = min(least, math.sqrt(dy * dy + dx * dx) - u[i])
        v[j] = least
    return v


@_kernel  # type: ignore[untyped-decorator]
def settled(total: float, before: float, reach: float, h: int) -> bool:
    """Whether a level and the coarser one agree enough to extrapolate from them; `reach`: mass times h."""
    return h > 1 and total > LEAST_TRAVEL * reach and abs(total - before) < MOST_CHANGE * total


@_kernel  # type: ignore[untyped-decorator]
def below(
    sy: Float, sx: Float, supply: Whole, ty: Float, tx: Float, demand: Whole, py: Float, px: Float, u: Float
) -> float:
    """What any transport costs at least: potentials of coarser sources, carried to all points of both sides.

    As a function of slope one they are feasible everywhere (Kantorovich-Rubinstein).
    """
    total = 0.0
    v, w = carried(ty, tx, py, px, u), carried(sy, sx, py, px, u)
    for j in range(v.size):
        total += demand[j] * v[j]
    for i in range(w.size):
        total -= supply[i] * w[i]
    return total


@_kernel  # type: ignore[untyped-decorator]
def levels(
    sy: Whole,
    sx: Whole,
    supply: Whole,
    ty: Whole,
    tx: Whole,
    demand: Whole,
    size: Float,
    fast: bool,
    bounds: bool,
) -> tuple[float, float, float]:
    """Least total of mass times length between two sets of voxels.

    Parameters
    ----------
    sy, sx, supply, ty, tx, demand : ndarray of int64
        As of `residual`.
    size : ndarray of float64, shape (2,)
        Voxel size (y, x).
    fast : bool
        Stop at the first level that agrees with the coarser one, and extrapolate from both: with blocks of
        side h the total is wrong by about h² (Richardson). What never agrees is exact.
    bounds : bool
        Work out bounds of what was extrapolated, which takes as long again.

    Returns
    -------
    total, low, high : float
        The exact total lies between the bounds; without bounds, all three are the same.
    """
    h = 1
    while min(sy.size, ty.size) > FEW * h * h:
        h *= 2
    if fast and sy.size * ty.size > SMALL:
        h = max(h, 8)
    total: float = math.nan
    u, px, py = np.empty(0), np.empty(0), np.empty(0)
    while h >= 1:
        qy, qx, take, spread = gathered(ty, tx, demand, h, size)
        step = h * max(size[0], size[1])
        guess, slack = np.zeros(qy.size), 8.0 * step
        if u.size:
            guess, slack = carried(qy, qx, py, px, u), 0.2 * step
        py, px, give, wide = gathered(sy, sx, supply, h, size)
        before = total
        total, high, u = transport(py, px, give, wide, qy, qx, take, spread, guess, slack)
        if fast and settled(total, before, step * supply.sum(), h):
            total += (total - before) / 3.0
            if not bounds:
                return total, total, total
            fine = sy * size[0], sx * size[1], supply, ty * size[0], tx * size[1], demand
            low, high = below(*fine, py, px, u) * (1 - ROUNDING), high * (1 + ROUNDING)
            return min(max(total, low), high), low, high
        h //= 2
    return total, total * (1 - ROUNDING * bounds), total * (1 + ROUNDING * bounds)
