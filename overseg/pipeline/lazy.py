"""Certified laziness: which candidates are decided whatever their exact distances turn out to be.

The second stage's features are bounded from the tables, the bounds are pushed through the model, and where no
value between them can change what `decide` makes of a candidate, its distances are not worked out. So the
decisions are those of the second stage, by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Bool, Candidates, LayerTable
from overseg.model.bounds import distance_bounds
from overseg.model.features import MOMENTS
from overseg.model.intervals import Interval, probability_between
from overseg.model.mlp import Head

if TYPE_CHECKING:
    from overseg.model import Model
    from overseg.settings import Settings

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Borders between decisions.

    Attributes
    ----------
    threshold, review_from : float
        Merge from the first on, review from the second on.
    """

    threshold: float
    review_from: float

    @classmethod
    def of(cls, model: Model, settings: Settings) -> Limits:
        """Those in force: the published method has no review."""
        threshold = model.threshold if settings.threshold is None else settings.threshold
        published = settings.preset == "paper"
        return cls(threshold, threshold if published else min(model.review_from, threshold))


@dataclass(frozen=True)
class Certainty:
    """What the second stage can only say of some candidates, whatever their distances are.

    Attributes
    ----------
    certain : ndarray of bool, shape (k,)
        One and the same decision.
    low, high : ndarray of float64, shape (k,)
        Bounds of the probability.
    middle : ndarray of float64, shape (k,)
        Probability with all features half way between their bounds.
    strange : ndarray of bool, shape (k,)
        Whether these features are far outside the training range.
    """

    certain: Bool
    low: Float
    high: Float
    middle: Float
    strange: Bool

    @classmethod
    def none(cls, n: int) -> Certainty:
        """Of `n` candidates of which nothing is known beforehand."""
        no, low = np.zeros(n, bool), np.zeros(n)
        return cls(no, low, np.ones(n), np.full(n, np.nan), no)


def foresee(
    head: Head,
    candidates: Candidates,
    layers: LayerTable,
    moments: Float,
    voxel_size: tuple[float, float, float],
    reach: int,
    limits: Limits,
) -> Certainty:
    """Bound the second stage's word on some candidates; see `bounded` and `certain` for the parameters."""
    features = bounded(candidates, layers, moments, voxel_size, reach)
    same, p = certain(head, features, limits)
    middle = 0.5 * (features.low + features.high)
    return Certainty(same, p.low, p.high, head.probability(middle), head.out_of_range(middle))


def bounded(
    candidates: Candidates,
    layers: LayerTable,
    moments: Float,
    voxel_size: tuple[float, float, float],
    reach: int,
) -> Interval:
    """Bounds of all features of the second stage; those of the first are known.

    Parameters
    ----------
    candidates : Candidates
        n pairs of faces.
    layers : LayerTable
        Holds at least the candidates' labels.
    moments : ndarray of float64, shape (n, len(MOMENTS))
        Features of the first stage.
    voxel_size : tuple of float
        (z, y, x).
    reach : int
        Pairs of layers within a part that the second stage looks at.

    Returns
    -------
    Interval, shape (n, len(FULL))
    """
    more = distance_bounds(candidates, layers, voxel_size, reach)
    return Interval(np.hstack([moments, more.low]), np.hstack([moments, more.high]))


def certain(head: Head, features: Interval, limits: Limits, margin: float = 0.0) -> tuple[Bool, Interval]:
    """Rows of which the wish (merge, review or keep) is the same for all features between the bounds.

    Parameters
    ----------
    head : Head
        Of the second stage.
    features : Interval, shape (n, F)
        Boxes of features.
    limits : Limits
    margin : float
        By how much the bounds of the probability are widened.

    Returns
    -------
    same : ndarray of bool, shape (n,)
    p : Interval, shape (n,)
        Probability, between its bounds.
    """
    p = probability_between(head, features)
    p = Interval(p.low - margin, p.high + margin)
    merge, keep = p.low >= limits.threshold, p.high < limits.review_from
    review = (p.low >= limits.review_from) & (p.high < limits.threshold)
    # What is far out of range is never merged: either known already, or not to be at any value.
    usual = np.tile(head.low, (len(features.low), 1))
    usual[:, : len(MOMENTS)] = features.low[:, : len(MOMENTS)]
    strange = head.out_of_range(usual)
    inside = ~head.out_of_range(features.low) & ~head.out_of_range(features.high)
    return keep | review | (merge & (strange | inside)), p


def ranked(candidates: Candidates, p: Interval, limits: Limits) -> Bool:
    """Rows of which it is known how they rank among all that may claim the same face.

    Parameters
    ----------
    candidates : Candidates
        All n of a time point.
    p : Interval, shape (n,)
        Probability of each; equal bounds where it is known.
    limits : Limits

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    clear = np.ones(len(candidates), bool)
    rivals = np.flatnonzero(p.high >= limits.threshold)
    for labels in (candidates.a[rivals], candidates.b[rivals]):
        _, face = np.unique(labels, return_inverse=True)
        order = np.lexsort([p.low[rivals], face])
        # Every face has a stretch of numbers of its own, so that one running maximum serves them all.
        low, high = (4.0 * face[order] + end[rivals][order] for end in (p.low, p.high))
        meets = low[1:] <= np.maximum.accumulate(high)[:-1]
        clear[rivals[order[1:][meets]]] = False
        meets = high[:-1] >= low[1:]
        clear[rivals[order[:-1][meets]]] = False
    return clear
