"""The course of a quantity along z: five numbers, straight and parabolic fits, and whether it turns.

Profiles of many cells lie end to end in one array, with offsets. Each is worked on alone, by sums that pair
the layers from both ends inwards, so that neither batches nor a flipped z axis change a bit.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fits(y: Float) -> tuple[float, float]:
    n = y.size
    if n < 3:
        return np.nan, np.nan
    if y.min() == y.max():
        return 1.0, 1.0
    total = y[n // 2] if n % 2 else 0.0
    for i in range(n // 2):
        total += y[i] + y[n - 1 - i]
    mean = total / n
    spread = (y[n // 2] - mean) ** 2 if n % 2 else 0.0
    # Orthogonal polynomials on equally spaced points, in integers: p1 is odd, p2 even about the middle.
    along, bend, norm1, norm2 = 0.0, 0.0, 0.0, 0.0
    if n % 2:
        p2 = 1.0 - n * n
        bend = p2 * (y[n // 2] - mean)
        norm2 = p2 * p2
    for i in range(n // 2):
        low, high = y[i] - mean, y[n - 1 - i] - mean
        p1 = float(n - 1 - 2 * i)
        p2 = 3.0 * p1 * p1 - (n * n - 1.0)
        spread += low * low + high * high
        along += p1 * (high - low)
        bend += p2 * (high + low)
        norm1 += 2.0 * p1 * p1
        norm2 += 2.0 * p2 * p2
    linear = min(along * along / (norm1 * spread), 1.0)
    return linear, min(linear + bend * bend / (norm2 * spread), 1.0)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _turns_at_most_once(y: Float) -> bool:
    if y.size < 3:
        return False
    turns = 0
    for i in range(1, y.size):
        if y[i] == y[i - 1] or np.isnan(y[i]) or np.isnan(y[i - 1]):
            return False
        if i > 1 and (y[i] > y[i - 1]) != (y[i - 1] > y[i - 2]):
            turns += 1
    return turns <= 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _all_fits(values: Float, start: Int, linear: Float, quadratic: Float, smooth: Bool) -> None:
    for i in range(start.size - 1):
        y = values[start[i] : start[i + 1]]
        linear[i], quadratic[i] = _fits(y)
        smooth[i] = _turns_at_most_once(y)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _all_numbers(values: Float, start: Int, out: Float) -> None:
    for i in range(start.size - 1):
        y = np.sort(values[start[i] : start[i + 1]])
        for k in range(5):
            if y.size == 0:
                out[i, k] = np.nan
                continue
            place = k * (y.size - 1)
            low, part = y[place // 4], (place % 4) / 4.0
            step = y[min(place // 4 + 1, y.size - 1)] - low
            out[i, k] = low + step * part


def fits(values: npt.ArrayLike, start: npt.ArrayLike) -> tuple[Float, Float, Bool]:
    """R² of a straight line and of a parabola through each profile, and whether it turns at most once.

    Parameters
    ----------
    values : array_like of float, shape (m,)
        Profiles end to end, layer by layer.
    start : array_like of int, shape (n + 1,)
        Profile i is ``values[start[i]:start[i + 1]]``.

    Returns
    -------
    linear, quadratic : ndarray of float64, shape (n,)
        Coefficients of determination, 0 to 1; 1 for a constant profile, which both fit; NaN ("missing") for
        fewer than three values, where a fit says nothing.
    smooth : ndarray of bool, shape (n,)
        Strictly monotone, or strictly so up to one turning point and after it; False for fewer than three
        values.
    """
    flat, offsets = np.asarray(values, np.float64), np.asarray(start, np.int64)
    n = len(offsets) - 1
    linear, quadratic, smooth = np.empty(n), np.empty(n), np.empty(n, bool)
    _all_fits(flat, offsets, linear, quadratic, smooth)
    return linear, quadratic, smooth


def shape_index(values: npt.ArrayLike, start: npt.ArrayLike) -> Float:
    """Shape index of each profile: how well one smooth course explains it (arXiv 2502.01890, Algorithm 3).

    Parameters
    ----------
    values : array_like of float, shape (m,)
        Profiles end to end, layer by layer.
    start : array_like of int, shape (n + 1,)
        Profile i is ``values[start[i]:start[i + 1]]``.

    Returns
    -------
    ndarray of float64, shape (n,)
        1 where the profile is strictly monotone or turns once, else the larger R² of a linear and a quadratic
        fit; NaN ("missing") for fewer than three values.
    """
    linear, quadratic, smooth = fits(values, start)
    return np.where(smooth, 1.0, np.maximum(linear, quadratic))


def five_numbers(values: npt.ArrayLike, start: npt.ArrayLike) -> Float:
    """Minimum, quartiles and maximum of each profile, with NumPy's linear interpolation.

    Parameters
    ----------
    values : array_like of float, shape (m,)
        Profiles end to end.
    start : array_like of int, shape (n + 1,)
        Profile i is ``values[start[i]:start[i + 1]]``.

    Returns
    -------
    ndarray of float64, shape (n, 5)
        Minimum, lower quartile, median, upper quartile, maximum; NaN for an empty profile.
    """
    offsets = np.asarray(start, np.int64)
    out = np.empty((len(offsets) - 1, 5))
    _all_numbers(np.asarray(values, np.float64), offsets, out)
    return out
