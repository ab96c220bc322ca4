"""Shares, areas under the curve and calibration errors, with intervals over cells that come back.

The same cell is broken in several seeds, so its outcomes are not independent. Whole cells are drawn again,
with everything that was found of them (the clustered bootstrap; Davison and Hinkley, 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Measure = Callable[[Float], float]

#: Times that cells are drawn again, for shares and for what takes longer.
RESAMPLES, FEWER = 500, 200
BINS = 15
_SEED = 0


def auc(score: Float, same: Bool) -> Measure:
    """The area under the ROC curve as a function of the weights of the rows; ties count half.

    Parameters
    ----------
    score : ndarray of float64, shape (n,)
    same : ndarray of bool, shape (n,)
        Which rows should have high scores.

    Returns
    -------
    callable
        Takes weights of shape (n,); NaN where rows of one kind weigh nothing.
    """
    values, place = np.unique(score, return_inverse=True)

    def area(weight: Float) -> float:
        right = np.bincount(place, weight * same, len(values))
        wrong = np.bincount(place, weight * ~same, len(values))
        pairs = right.sum() * wrong.sum()
        below = np.cumsum(wrong) - wrong / 2
        return float((right * below).sum() / pairs) if pairs else np.nan

    return area


def calibration_error(p: Float, same: Bool) -> Measure:
    """The expected calibration error over equal bins as a function of the weights of the rows.

    Parameters
    ----------
    p : ndarray of float64, shape (n,)
        Probabilities.
    same : ndarray of bool, shape (n,)
        What came true.

    Returns
    -------
    callable
        Takes weights of shape (n,); NaN where nothing weighs anything.
    """
    place = np.clip((p * BINS).astype(np.int64), 0, BINS - 1)
    off = p - same

    def error(weight: Float) -> float:
        total = weight.sum()
        return float(np.abs(np.bincount(place, weight * off, BINS)).sum() / total) if total else np.nan

    return error


def share(cluster: Int, right: Bool) -> list[float] | None:
    """A share with its 95% interval, by drawing clusters again.

    Parameters
    ----------
    cluster : ndarray of int64, shape (n,)
        What each outcome belongs to.
    right : ndarray of bool, shape (n,)

    Returns
    -------
    list of float or None
        Value, lower and upper limit; None where there is nothing.
    """
    if not len(right):
        return None
    names, place = np.unique(cluster, return_inverse=True)
    all_, good = np.bincount(place), np.bincount(place, right)
    times = draws(len(names), RESAMPLES)
    return _told(float(np.mean(right)), (times @ good) / (times @ all_))


def resampled(cluster: Int, measure: Measure) -> list[float] | None:
    """Any measure of weighted rows with its 95% interval, by drawing clusters again.

    Parameters
    ----------
    cluster : ndarray of int64, shape (n,)
        What each row belongs to.
    measure : callable
        As of `auc` and `calibration_error`.

    Returns
    -------
    list of float or None
        Value, lower and upper limit; None where the measure has no value.
    """
    value = measure(np.ones(len(cluster)))
    if np.isnan(value):
        return None
    names, place = np.unique(cluster, return_inverse=True)
    times = draws(len(names), FEWER)
    return _told(value, np.array([measure(each[place].astype(np.float64)) for each in times]))


def draws(n: int, resamples: int) -> Int:
    """How often each of `n` clusters is drawn, shape (resamples, n); the same in every call."""
    drawn = np.random.default_rng(_SEED).integers(0, n, (resamples, n))
    offset = np.arange(resamples)[:, None] * n
    return np.bincount((drawn + offset).ravel(), minlength=resamples * n).reshape(resamples, n)


def _told(value: float, values: npt.NDArray[Any]) -> list[float]:
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return [round(float(each), 5) for each in (value, low, high)]
