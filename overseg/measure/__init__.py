"""Measuring: known splits, agreement with the truth, and models trained from both. Loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "cut_cells": "cutting",
    "evaluate": "evaluation",
    "Evaluation": "evaluation",
    "simulate": "simulation",
    "simulate_splits": "simulation",
    "generate_tissue": "tissue",
    "import_geoseg": "geoseg",
    "read_truth": "truth",
    "Truth": "truth",
    "train": "training",
}

__all__ = [
    "Evaluation",
    "Truth",
    "cut_cells",
    "evaluate",
    "generate_tissue",
    "import_geoseg",
    "read_truth",
    "simulate",
    "simulate_splits",
    "train",
]

if TYPE_CHECKING:
    from overseg.measure.cutting import cut_cells
    from overseg.measure.evaluation import Evaluation, evaluate
    from overseg.measure.geoseg import import_geoseg
    from overseg.measure.simulation import simulate, simulate_splits
    from overseg.measure.tissue import generate_tissue
    from overseg.measure.training import train
    from overseg.measure.truth import Truth, read_truth


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
