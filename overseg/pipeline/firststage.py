"""The first stage of scoring: features from the tables alone, a batch of candidates at a time.

A unit of work takes the rows of its candidates' labels, and nothing else; what it finds does not depend on
the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Bool, Candidates, Int, Layers, LayerTable
from overseg.model.features import moments_features
from overseg.model.mlp import Head
from overseg.model.usual import Usual
from overseg.pipeline.distances import looks
from overseg.pipeline.lazy import Certainty, Limits, foresee
from overseg.pipeline.sections import Sections, write_sections

Float = npt.NDArray[np.float64]
Wanted = Literal["all", "unsure", "none"]

#: Rows of the layer table that a batch looks at, about; and candidates in it.
_BATCH_ROWS = 1 << 18
_BATCH = 1 << 13


@dataclass(frozen=True)
class First:
    """How the first stage is done.

    Attributes
    ----------
    candidates : str
        File of `save_candidates`.
    layers : Layers
    voxel_size : tuple of float
        (z, y, x).
    head : Head or None
        Of the model; None leaves everything to the distances, as published.
    wanted : {"all", "unsure", "none"}
        For whom the second stage is: all, those that the head is unsure of, or nobody.
    reach : int
        Pairs of layers within a part that the second stage looks at.
    usual : Usual or None
        Of the volume; None where nobody asks.
    second : Head or None
        Of the second stage, where what is certain beforehand need not be measured.
    limits : Limits
        Between the decisions.
    """

    candidates: str
    layers: Layers
    voxel_size: tuple[float, float, float]
    head: Head | None
    wanted: Wanted
    reach: int
    usual: Usual | None
    second: Head | None
    limits: Limits


@dataclass(frozen=True)
class Firsts:
    """What the first stage says of a batch.

    Attributes
    ----------
    features : ndarray of float64, shape (n, F)
    p : ndarray of float64, shape (n,)
    out_of_range : ndarray of bool, shape (n,)
    unusual : ndarray of float64, shape (n,)
        How unusual each is; see `overseg.model.Head.unusual`.
    rows : ndarray of int64, shape (k,)
        Those that the second stage is wanted for, as numbers within the batch.
    boxes : ndarray of int64, shape (k, 6)
        Where it has to look; see `overseg.pipeline.distances.Look`.
    certain, low, high, middle, strange : ndarray, shape (k,)
        What the second stage can only say; see `overseg.pipeline.lazy.Certainty`.
    """

    features: Float
    p: Float
    out_of_range: Bool
    unusual: Float
    rows: Int
    boxes: Int
    certain: Bool
    low: Float
    high: Float
    middle: Float
    strange: Bool

    @classmethod
    def load(cls, path: str | Path) -> Firsts:
        """From the file of a batch."""
        file = Sections(path)
        return cls(**{each.name: file[each.name] for each in fields(cls)})


def save_candidates(folder: Path, name: str, candidates: Candidates) -> tuple[Path, str]:
    """Write candidates to a file that units read from; the file and a mark of its content."""
    columns: dict[str, npt.NDArray[Any]] = {
        each.name: getattr(candidates, each.name) for each in fields(candidates) if each.name != "noise"
    }
    state = hashlib.sha256()
    for values in columns.values():
        state.update(np.ascontiguousarray(values).data)
    mark = state.hexdigest()[:24]
    path = folder / f"{name}-{mark}.candidates"
    write_sections(path, columns)
    return path, mark


def batches(candidates: Candidates, layers: Layers) -> Iterator[tuple[int, int]]:
    """Half-open ranges of candidates whose labels have so many rows that a process can take them."""
    facts = layers.facts(np.concatenate([candidates.a, candidates.b]))
    height = facts.last - facts.first + 1
    rows = np.cumsum(height[facts.index(candidates.a)] + height[facts.index(candidates.b)])
    start = 0
    while start < len(candidates):
        full = np.searchsorted(rows, (rows[start - 1] if start else 0) + _BATCH_ROWS, side="right")
        stop = max(start + 1, min(int(full), start + _BATCH))
        yield start, stop
        start = stop


def first_task(first: First, start: int, stop: int, path: str) -> dict[str, Any]:
    """Judge a batch by the tables; a unit of work that may be run again.

    Returns
    -------
    dict
        ``path``.
    """
    file = Sections(first.candidates)
    columns = {
        each.name: np.array(file[each.name][start:stop])
        for each in fields(Candidates)
        if each.name != "noise"
    }
    candidates = Candidates(**columns, noise=((),) * (stop - start))
    layers = first.layers.take(np.concatenate([candidates.a, candidates.b]))
    rows = np.arange(stop - start)
    # Whom nobody has a word for, as published, stays apart.
    features, p, strange = np.zeros((stop - start, 0)), np.zeros(stop - start), np.zeros(stop - start, bool)
    unusual = np.full(stop - start, np.nan)
    if first.head is not None:
        features = moments_features(candidates, layers, first.voxel_size, first.usual)
        p, strange = first.head.probability(features), first.head.out_of_range(features)
        unusual = first.head.unusual(features)
        if first.wanted == "unsure":
            rows = np.flatnonzero((p > first.head.sure_low) & (p < first.head.sure_high))
    if first.wanted == "none":
        rows = rows[:0]
    boxes = np.array([look.box for look in looks(candidates, layers, rows, first.reach)], np.int64)
    known = _foreseen(first, candidates, layers, features, rows)
    found = Firsts(features, p, strange, unusual, rows, boxes.reshape(-1, 6), **vars(known))
    write_sections(Path(path), vars(found))
    return {"path": path}


def _foreseen(
    first: First, candidates: Candidates, layers: LayerTable, features: Float, rows: Int
) -> Certainty:
    if first.second is None:
        return Certainty.none(len(rows))
    wanted = candidates.take(rows)
    return foresee(first.second, wanted, layers, features[rows], first.voxel_size, first.reach, first.limits)
