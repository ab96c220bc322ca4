"""Certified laziness: which candidates are decided whatever their exact distances turn out to be.

The second stage's features are bounded from the tables, the bounds are pushed through the model, and where no
value between them can change what `decide` makes of a candidate, its distances are not worked out. So the
decisions are those of the second stage, by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Bool, Candidates, LayerTable
from overseg.model.bounds import distance_bounds
from overseg.model.features import MOMENTS
from overseg.model.intervals import Interval, probability_between
from overseg.model.mlp import Head

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


def certain(head: Head, features: Interval, limits: Limits) -> tuple[Bool, Interval]:
    """Rows of which the wish (merge, review or keep) is the same for all features between the bounds.

    Parameters
    ----------
    head : Head
        Of the second stage.
    features : Interval, shape (n, F)
        Boxes of features.
    limits : Limits

    Returns
    -------
    same : ndarray of bool, shape (n,)
    p : Interval, shape (n,)
        Probability, between its bounds.
    """
    p = probability_between(head, features)
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
