"""What a model's card tells of tissue that it had not seen, in the numbers a user asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def on_unseen(card: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy and calibration on tissues that were left out of training, over all of them.

    Parameters
    ----------
    card : mapping
        Of a model.

    Returns
    -------
    dict
        ``splits`` and the part of them that was joined, ``recall``, at ``threshold``; ``cells`` and
        ``false_merges_per_1000_cells`` among neighbours that nobody had broken; ``calibration_error``, the
        mean difference between probability and the part that is one cell. Only what the card tells.
    """
    tissues = [row for row in card.get("left_out_tissue") or () if isinstance(row, Mapping)]
    found: dict[str, float] = {}
    recall, splits = _mean(tissues, "recall", "one_cell")
    if splits:
        found |= {"splits": splits, "recall": round(recall, 4), "threshold": float(card["threshold"])}
    wrong, cells = _mean(tissues, "natural_false_merges_per_1000_cells", "cells")
    if cells:
        found |= {"cells": cells, "false_merges_per_1000_cells": round(wrong, 3)}
    bins = [
        {"n": each["n"], "off": abs(each["mean_p"] - each["one_cell"])}
        for each in card.get("calibration") or ()
    ]
    off, n = _mean(bins, "off", "n")
    return found | ({"calibration_error": round(off, 4)} if n else {})


def _mean(rows: Sequence[Mapping[str, Any]], value: str, weight: str) -> tuple[float, int]:
    """Weighted mean of what is known, and the sum of the weights."""
    known = [(row[value], row[weight]) for row in rows if row.get(value) is not None and row.get(weight)]
    n = sum(int(count) for _, count in known)
    return (sum(each * count for each, count in known) / n if n else 0.0), n
