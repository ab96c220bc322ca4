"""Sliced distances between masks as the code of arXiv 2502.01890 has them: rows of pixels are the points.

The two masks are cut to the box around both, each is divided by its area, and every row of the box is one
point in a space with a dimension for each column. Of these two clouds the sliced Wasserstein-2 distance
(Bonneel et al., J. Math. Imaging Vis. 51:22, 2015) is estimated along 10,000 random directions. This is no
distance between shapes: a mask moved up or down is as far as one that stays, and the number shrinks with the
area. It is here for comparison alone; nothing of ours is decided by it.

Sums run in one fixed order, so that neither the processor nor the batch changes a bit.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

#: Random directions, as in the authors' code. Theirs are new ones for every distance.
DIRECTIONS = 10_000
SEED = 0

_AT_ONCE = 500
_NARROW = 64


def sliced_distance(points_a: Int, points_b: Int) -> float:
    """Sliced Wasserstein-2 distance between the pixel rows of two masks.

    Parameters
    ----------
    points_a, points_b : ndarray of int64, shape (n, 2)
        Pixels (y, x) in common coordinates and C order; neither is empty.

    Returns
    -------
    float
        Without a unit. Exactly 0 where both have the same rows in whatever order.

    Notes
    -----
    Directions are always the same ones, the first that NumPy's legacy generator gives from seed 0: equal to
    ``ot.sliced_wasserstein_distance(..., n_projections=10000, seed=0)`` up to rounding. Another choice of
    directions changes the distance by about half a percent.
    """
    (y0, x0), (y1, x1) = (
        np.minimum(points_a.min(axis=0), points_b.min(axis=0)),
        np.maximum(points_a.max(axis=0), points_b.max(axis=0)) + 1,
    )
    height, width = int(y1 - y0), int(x1 - x0)
    sums = _running_sums(max(_NARROW, 1 << (width - 1).bit_length()))
    corner = np.array([y0, x0], np.int64)
    a, b = _runs(points_a - corner), _runs(points_b - corner)
    total = 0.0
    for start in range(0, DIRECTIONS, _AT_ONCE):
        some = sums[start : start + _AT_ONCE]
        along_a, along_b = np.zeros((len(some), height)), np.zeros((len(some), height))
        _project(a, some, along_a)
        _project(b, some, along_b)
        along_a.sort(axis=1)
        along_b.sort(axis=1)
        total += _squares(along_a, along_b, len(points_a), len(points_b), some, width)
    return float(np.sqrt(total / (DIRECTIONS * height)))


def sliced_bytes(width: int) -> int:
    """Memory that distances between masks in boxes of this many columns need, about."""
    columns = max(_NARROW, 1 << (max(width, 1) - 1).bit_length())
    return 3 * 8 * DIRECTIONS * (columns + 1)


@lru_cache(maxsize=2)
def _running_sums(columns: int) -> Float:
    """Sums of the first entries of each direction, shape (DIRECTIONS, columns + 1), not yet of length one.

    Fewer columns have the same first entries.
    """
    entries = np.random.RandomState(SEED).randn(columns, DIRECTIONS)
    sums = np.zeros((DIRECTIONS, columns + 1))
    np.cumsum(entries.T, axis=1, out=sums[:, 1:])
    sums.setflags(write=False)
    return sums


def _runs(points: Int) -> Int:
    """Runs of pixels within a row, shape (n, 3): row, first column, column after the last."""
    y, x = points[:, 0], points[:, 1]
    ends = np.flatnonzero((np.diff(y) != 0) | (np.diff(x) != 1))
    first, last = np.append(0, ends + 1), np.append(ends, len(x) - 1)
    return np.stack([y[first], x[first], x[last] + 1], axis=1)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _project(runs, sums, out):  # type: ignore[no-untyped-def]
    """Sum of each direction's entries over the pixels of each row."""
    for i in range(sums.shape[0]):
        for k in range(runs.shape[0]):
            out[i, runs[k, 0]] += sums[i, runs[k, 2]] - sums[i, runs[k, 1]]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _squares(one, two, area_one, area_two, sums, width):  # type: ignore[no-untyped-def]
    """Squared differences of the sorted rows over the directions' squared lengths, added up."""
    total = 0.0
    for i in range(one.shape[0]):
        length, found = 0.0, 0.0
        for k in range(width):
            entry = sums[i, k + 1] - sums[i, k]
            length += entry * entry
        for k in range(one.shape[1]):
            apart = one[i, k] / area_one - two[i, k] / area_two
            found += apart * apart
        total += found / length
    return total
