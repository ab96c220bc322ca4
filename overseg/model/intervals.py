"""What a decision can still become while distances are only known to lie between two bounds.

Interval arithmetic through the features of the second stage and through its perceptron: where no value in
the intervals can change a decision, the distances themselves need not be worked out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from overseg.model.features import _FLOOR, _OF_A_CHANGE, DISTANCES
from overseg.model.mlp import Head

Float = npt.NDArray[np.float64]

#: Bounds are widened by so much of their size: far above what rounding adds, far below what matters.
_SLACK = 1e-9


@dataclass(frozen=True)
class Interval:
    """Values known to lie between two bounds.

    Attributes
    ----------
    low, high : ndarray of float64
        Of one shape; ``low <= high``.
    """

    low: Float
    high: Float


def distance_intervals(through: Interval, one: Interval, two: Interval) -> Interval:
    """Bounds of `overseg.model.features.distance_features`, from bounds of the distances.

    Parameters
    ----------
    through : Interval, shape (2,)
        Distance through the gap, plain and centred, over the radius.
    one, two : Interval, shape (2, m)
        The same within either part, the pair nearest to the face first; may be empty.

    Returns
    -------
    Interval, shape (len(FULL) - len(MOMENTS),)
        No distances between the bounds given have features outside these.
    """
    width = len(_OF_A_CHANGE)
    low, high = np.empty(len(DISTANCES) * width), np.empty(len(DISTANCES) * width)
    for k in range(len(DISTANCES)):
        part = slice(k * width, (k + 1) * width)
        rows = (np.ascontiguousarray(each[k]) for each in (one.low, one.high, two.low, two.high))
        change_between(through.low[k], through.high[k], *rows, low[part], high[part])
    return wider(low, high)


def probability_between(head: Head, features: Interval) -> Interval:
    """Bounds of `Head.probability` over boxes of features.

    Parameters
    ----------
    head : Head
    features : Interval, shape (n, F)
        A box per row; columns that are known have equal bounds.

    Returns
    -------
    Interval, shape (n,)
        Interval arithmetic: never too narrow, often wider than need be.
    """
    ends = (np.ascontiguousarray(end, np.float64) for end in (features.low, features.high))
    low, high = (np.clip((end - head.mean) / head.scale, -head.clip, head.clip) for end in ends)
    sizes = np.array([len(head.mean), *(len(bias) for bias in head.biases)])
    parts = zip(head.weights, head.biases, strict=True)
    flat = np.concatenate([part.ravel() for pair in parts for part in pair])
    out = np.empty((2, len(low)))
    _forward_between(low, high, flat, sizes, head.temperature, out)
    return Interval(out[0], out[1])


def wider(low: Float, high: Float) -> Interval:
    return Interval(low - _SLACK * (1.0 + np.abs(low)), high + _SLACK * (1.0 + np.abs(high)))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def change_between(  # type: ignore[no-untyped-def]
    gap_low, gap_high, one_low, one_high, two_low, two_high, low, high
):
    """Bounds of `overseg.model.features._one_change`: all of it is monotone but the rank."""
    for gap, one, two, out in ((gap_low, one_low, two_low, low), (gap_high, one_high, two_high, high)):
        out[0] = gap
        for at, first, second in (
            (1, _largest(one), _largest(two)),
            (3, _middle(one), _middle(two)),
            (5, _nearest(one), _nearest(two)),
        ):
            if one.size == 0:
                first = second
            if two.size == 0:
                second = first
            out[at], out[at + 1] = min(first, second), max(first, second)
    n = one_low.size + two_low.size
    if n == 0:
        low[7], high[7], low[8], high[8] = 0.5, 0.5, 0.0, 0.0
        return
    low[7] = (_below(gap_low, one_high) + _below(gap_low, two_high)) / n
    high[7] = (_below(gap_high, one_low) + _below(gap_high, two_low)) / n
    low[8] = math.log((gap_low + _FLOOR) / (high[4] + _FLOOR))
    high[8] = math.log((gap_high + _FLOOR) / (low[4] + _FLOOR))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _largest(values):  # type: ignore[no-untyped-def]
    return values.max() if values.size else 0.0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _middle(values):  # type: ignore[no-untyped-def]
    return np.median(values) if values.size else 0.0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _nearest(values):  # type: ignore[no-untyped-def]
    return values[0] if values.size else 0.0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _below(gap, values):  # type: ignore[no-untyped-def]
    """How many values lie below the gap's, equal ones counted as half."""
    found = 0.0
    for value in values:
        found += 1.0 if value < gap else (0.5 if value == gap else 0.0)
    return found


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _forward_between(low, high, flat, sizes, temperature, out):  # type: ignore[no-untyped-def]
    # Sums in a fixed order, as in the perceptron itself: what is skipped may not depend on batches either.
    here, there = np.empty((2, sizes.max())), np.empty((2, sizes.max()))
    for i in range(low.shape[0]):
        here[0, : sizes[0]], here[1, : sizes[0]] = low[i], high[i]
        at = 0
        for layer in range(sizes.size - 1):
            n, m = sizes[layer], sizes[layer + 1]
            for j in range(m):
                there[0, j] = there[1, j] = flat[at + n * m + j]
            for k in range(n):
                least, most, first = here[0, k], here[1, k], at + k * m
                for j in range(m):
                    one, two = least * flat[first + j], most * flat[first + j]
                    there[0, j] += min(one, two)
                    there[1, j] += max(one, two)
            at += n * m + m
            for j in range(m):
                least = there[0, j] - _SLACK * (1.0 + abs(there[0, j]))
                most = there[1, j] + _SLACK * (1.0 + abs(there[1, j]))
                last = layer == sizes.size - 2
                here[0, j] = least if last else max(least, 0.0)
                here[1, j] = most if last else max(most, 0.0)
        for end in range(2):
            out[end, i] = 1.0 / (1.0 + math.exp(-here[end, 0] / temperature))
        out[0, i] -= _SLACK
        out[1, i] += _SLACK
