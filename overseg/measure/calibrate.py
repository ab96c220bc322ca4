"""From probabilities on tissue that a model never saw: its threshold, calibration curve and accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.measure.examples import Examples
from overseg.model.mlp import Float
from overseg.model.touching import TOUCHING

Bool = npt.NDArray[np.bool_]

#: At most so many false merges of natural neighbours per 1,000 cells.
FALSE_MERGES = 1.0
LEAST_THRESHOLD = 0.5
#: A wrong merge is as bad as four misses: with probabilities that can be trusted, merges pay from here on.
WORTH_IT = 0.8
REVIEW_FROM = 0.2
#: Of merges of labels that touch at least so many are right, where three in ten cells or more are cut.
PRECISION = 0.97

#: Between these the first stage asks the second.
SURE_LOW, SURE_HIGH = 0.02, 0.98

_GROUP_WEIGHT = 4000.0


def group_weight(group: npt.NDArray[np.int64]) -> Float:
    """Weights that let no tissue count for more than 4,000 examples."""
    counts = np.bincount(group)
    weights: Float = np.minimum(1.0, _GROUP_WEIGHT / np.maximum(counts, 1))[group]
    return weights


def choose_threshold(unseen: Float, examples: Examples) -> float:
    """The lowest threshold, of hundredths from 0.8 on, with at most one false merge per 1,000 cells.

    Counted over all natural pairs of tissues that the model has not seen; 0.99 where none will do.
    """
    wrong = unseen[examples.natural & ~examples.same]
    cells = int(examples.cells.sum())
    for hundredth in range(round(100 * WORTH_IT), 99):
        if 1000.0 * float((wrong >= hundredth / 100).sum()) <= FALSE_MERGES * cells:
            return hundredth / 100
    return 0.99


def touching_threshold(unseen: Float, examples: Examples) -> float:
    """The lowest threshold, of hundredths from 0.5 on, of whose merges of contacts 97 of 100 are right.

    Counted over contacts of tissues that the model has not seen, but for those of which both labels are cut
    by the volume's border: more is asked of these. 0.99 where none will do.
    """
    whole = examples.features[:, TOUCHING.index("edges_low")] == 0
    for hundredth in range(round(100 * LEAST_THRESHOLD), 99):
        merged = whole & (unseen >= hundredth / 100)
        if merged.any() and examples.same[merged].mean() >= PRECISION:
            return hundredth / 100
    return 0.99


def calibration(unseen: Float, same: Bool) -> list[dict[str, float]]:
    """Ten bins of probability: how many examples, their mean probability, and how many are one cell."""
    place = np.minimum((unseen * 10).astype(int), 9)
    curve = []
    for k in range(10):
        inside = place == k
        if inside.any():
            curve.append(
                {
                    "from": k / 10,
                    "n": int(inside.sum()),
                    "mean_p": round(float(unseen[inside].mean()), 4),
                    "one_cell": round(float(same[inside].mean()), 4),
                }
            )
    return curve


def accuracy(unseen: Float, examples: Examples, names: list[str], threshold: float) -> list[dict[str, Any]]:
    """For each tissue, by a model that has not seen it: recall and what is kept apart, by candidate."""
    merged = unseen >= threshold
    table = []
    for group, name in enumerate(names):
        here = examples.group == group
        same, natural = here & examples.same, here & examples.natural & ~examples.same
        other = here & ~examples.same & ~examples.natural
        table.append(
            {
                "tissue": name,
                "cells": int(examples.cells[group]),
                "one_cell": int(same.sum()),
                "recall": _part(merged[same]),
                "natural": int(natural.sum()),
                "natural_kept": _part(~merged[natural]),
                "other": int(other.sum()),
                "other_kept": _part(~merged[other]),
                "natural_false_merges_per_1000_cells": round(
                    1000.0 * float(merged[natural].sum()) / max(1, int(examples.cells[group])), 3
                ),
            }
        )
    return table


def _part(values: Bool) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None
