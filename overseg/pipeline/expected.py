"""What to expect of a plan, measured in the user's own volume without any truth.

Layers are blanked, in thought, within the volume's own cells, and the first stage is asked about these gaps:
it should find them to be one cell each. Where it does not, the model does not fit the tissue. How many merges
are right is the mean of their probabilities, which are calibrated on tissue that the model had not seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Candidates, LayerTable
from overseg.model.features import moments_features
from overseg.model.mlp import Head
from overseg.model.usual import Usual

Float = npt.NDArray[np.float64]

#: More made gaps than this, and not twice as many, are asked about; fewer where there are fewer.
_CASES = 1000

#: A part keeps so many layers, and a face has so many voxels.
_LEAST_LAYERS, _LEAST_AREA = 2, 6

#: With so many made gaps, a smaller part closed than this is a reason to doubt.
_ENOUGH, _FEW = 50, 0.7

#: Half width of a 95% interval, in standard deviations.
_WIDE = 1.96


@dataclass(frozen=True)
class OwnGaps:
    """Gaps made in the volume's own cells, and what the first stage said of them.

    Attributes
    ----------
    made : int
    closed, review : int
        Those that would be closed, and those that a person would be shown.
    """

    made: int
    closed: int
    review: int


def own_gaps(
    layers: LayerTable,
    voxel_size: tuple[float, float, float],
    usual: Usual,
    head: Head,
    threshold: float,
    review_from: float,
) -> OwnGaps:
    """Ask the first stage about gaps made in some cells.

    Parameters
    ----------
    layers : LayerTable
        All rows of these cells.
    voxel_size : tuple of float
        (z, y, x).
    usual : Usual
        Of the volume.
    head : Head
        Of the first stage.
    threshold, review_from : float

    Returns
    -------
    OwnGaps
    """
    made = make_gaps(layers)
    made = made.take(np.arange(0, len(made), max(1, len(made) // _CASES)))
    features = moments_features(made, layers, voxel_size, usual)
    p, strange = head.probability(features), head.out_of_range(features)
    closed = (p >= threshold) & ~strange
    return OwnGaps(len(made), int(closed.sum()), int(((p >= review_from) & ~closed).sum()))


def make_gaps(layers: LayerTable) -> Candidates:
    """One gap of each width in every cell that is tall enough, as holes.

    Parameters
    ----------
    layers : LayerTable
        All rows of some cells.

    Returns
    -------
    Candidates
        Where a cell has several places, its number of voxels decides.
    """
    found = [np.zeros((3, 0), np.int64)]
    place = np.arange(len(layers.z)) - np.repeat(layers.start[:-1], np.diff(layers.start))
    left = np.repeat(np.diff(layers.start), np.diff(layers.start)) - place
    owner = layers.index(layers.label)
    voxels = layers.facts(layers.labels).voxels
    for gap in range(1, layers.lags):
        other = layers.row(layers.label, layers.z + gap + 1)
        fits = (other >= 0) & (place + 1 >= _LEAST_LAYERS) & ~layers.too_large[owner]
        fits &= (left[other] >= _LEAST_LAYERS) & (layers.back[other, gap] > 0)
        fits &= np.minimum(layers.area, layers.area[other]) >= _LEAST_AREA
        rows = np.flatnonzero(fits)
        who, first, count = np.unique(owner[rows], return_index=True, return_counts=True)
        rows = rows[first + voxels[who] % count]
        found.append(np.stack([rows, other[rows], np.full(len(rows), gap)]))
    one, two, gap = np.concatenate(found, axis=1)
    label, yes = layers.label[one], np.ones(len(one), bool)
    overlap, areas = layers.back[two, gap], (layers.area[one], layers.area[two])
    return Candidates(
        label, label, layers.z[one], gap, overlap, *areas, hole=yes, sliver=~yes, noise=((),) * len(one)
    )


def doubts(own: OwnGaps | None) -> list[str]:
    """A warning where the model would leave too many gaps open in the volume's own cells."""
    if own is None or own.made < _ENOUGH or own.closed >= _FEW * own.made:
        return []
    share = 100 * own.closed / own.made
    return [
        f"Of {own.made:,} gaps made in this volume's own cells the model would close only {share:.0f}%: "
        "it does not fit this tissue. Train a model on a few labelled stacks (overseg train), or review."
    ]


def of_this_volume(own: list[OwnGaps], merged: Float, off: float) -> dict[str, Any]:
    """What a plan says of itself.

    Parameters
    ----------
    own : list of OwnGaps
        Of all time points.
    merged : ndarray of float64, shape (n,)
        Probabilities of what is merged or filled.
    off : float
        By how much probabilities were off on tissue that the model had not seen.

    Returns
    -------
    dict
        ``own_gaps``, ``own_gaps_closed``, ``own_gaps_in_review``; ``expected_precision`` and its 95%
        interval: that of a sum of independent trials, widened by `off`.
    """
    made = sum(each.made for each in own)
    found: dict[str, Any] = {}
    if made:
        found = {
            "own_gaps": made,
            "own_gaps_closed": sum(each.closed for each in own),
            "own_gaps_in_review": sum(each.review for each in own),
        }
    if len(merged):
        mean = math.fsum(merged.tolist()) / len(merged)
        spread = math.sqrt(math.fsum((merged * (1 - merged)).tolist())) / len(merged)
        # As many again that went wrong as a sample of this size may hide (rule of three).
        low, high = mean - _WIDE * spread - off - 3 / (len(merged) + 3), mean + _WIDE * spread + off
        found["expected_precision"] = round(mean, 4)
        found["expected_precision_interval"] = [round(max(low, 0.0), 4), round(min(high, 1.0), 4)]
    return found
