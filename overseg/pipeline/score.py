"""Score: how likely the two faces of each candidate belong to one cell, in two stages.

Stage one needs the tables alone and decides what it is sure of; stage two reads the boxes around the others
and adds exact earth mover's distances. All of it runs on the exact CPU path, one row at a time in a fixed
order, so neither batches nor workers change a bit, and nothing near a border of a decision is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.cluster.receipts import file_is_there
from overseg.kernels.tables import Bool, Candidates, Int, LayerTable
from overseg.model.features import FULL, MOMENTS, PAPER, moments_features
from overseg.pipeline.distances import ALL, REACH, batches, distance_task, looks

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.model import Model
    from overseg.settings import Settings
    from overseg.volume import Volume

Float = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Scores:
    """What is known of every candidate.

    Attributes
    ----------
    p : ndarray of float64, shape (n,)
        Probability that both faces belong to one cell.
    stage : ndarray of str, shape (n,)
        Who said so: ``moments``, ``full`` or ``paper``.
    features : dict of str to ndarray of float64, shape (n,)
        By name; NaN where a stage was not asked.
    out_of_range : ndarray of bool, shape (n,)
        Far outside what the model was trained on.
    """

    p: Float
    stage: npt.NDArray[np.str_]
    features: dict[str, Float]
    out_of_range: Bool


def score(
    candidates: Candidates,
    layers: LayerTable,
    voxel_size: tuple[float, float, float],
    model: Model,
    settings: Settings,
    *,
    volume: Volume,
    t: int,
    fingerprint: int,
    executor: Executor,
    run: Path,
    progress: Progress | None = None,
) -> Scores:
    """Probabilities of all candidates of one time point.

    Parameters
    ----------
    candidates : Candidates
        n pairs of faces.
    layers : LayerTable
        The reconciled table.
    voxel_size : tuple of float
        (z, y, x).
    model : Model
    settings : Settings
        `preset` and `emd` matter here.
    volume : Volume
        Only read.
    t : int
        Time point.
    fingerprint : int
        Of the volume; what an earlier run left is used where it is the same.
    executor : Executor
        Runs the second stage.
    run : Path
        Folder for what is worked out on the way.
    progress : callable, optional
        Called as ``progress(step, done, total)``.

    Returns
    -------
    Scores

    Raises
    ------
    ModelError
        If the model does not fit the features.
    OversegError
        If the volume cannot be read.
    """

    def measured(rows: Int, kind: str, reach: int) -> Float:
        wanted = looks(candidates, layers, rows, reach)
        return _on_executor(wanted, kind, volume, t, fingerprint, executor, run, progress)

    n = len(candidates)
    if settings.preset == "paper":
        values = measured(np.arange(n), "paper", ALL)
        head = model.head("paper")
        return Scores(
            head.probability(values), np.full(n, "paper"), _named(PAPER, values), head.out_of_range(values)
        )
    first = model.head("moments")
    values = np.full((n, len(FULL)), np.nan)
    values[:, : len(MOMENTS)] = moments_features(candidates, layers, voxel_size)
    p = first.probability(values[:, : len(MOMENTS)])
    strange = first.out_of_range(values[:, : len(MOMENTS)])
    stage = np.full(n, "moments", "<U7")
    if "full" in model.heads:
        second = model.head("full")
        unsure = (p > first.sure_low) & (p < first.sure_high)
        rows = np.arange(n) if settings.emd == "all" else np.flatnonzero(unsure)
        values[rows, len(MOMENTS) :] = measured(rows, "full", REACH)
        # A transport problem too large to be solved leaves the first stage's word.
        rows = rows[np.isfinite(values[rows]).all(axis=1)]
        p[rows], stage[rows] = second.probability(values[rows]), "full"
        strange[rows] = second.out_of_range(values[rows])
    return Scores(p, stage, _named(FULL, values), strange)


def _named(names: tuple[str, ...], values: Float) -> dict[str, Float]:
    return {name: np.ascontiguousarray(values[:, k]) for k, name in enumerate(names)}


def _on_executor(
    wanted: list[Any],
    kind: str,
    volume: Volume,
    t: int,
    fingerprint: int,
    executor: Executor,
    run: Path,
    progress: Progress | None,
) -> Float:
    """Distance features of the looks, in their order; batches left by an earlier run are not done again."""
    units = {}
    for batch in batches(wanted):
        facts = [str(fingerprint), t, kind, list(volume.voxel_size), [asdict(look) for look in batch]]
        name = f"t{t}-{kind}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}"
        units[name] = (volume, batch, kind, str(run / "distances" / f"{name}.npy"), t)
    done = dict(executor.run("distances", distance_task, units, run / "receipts", progress, file_is_there))
    width = len(PAPER) if kind == "paper" else len(FULL) - len(MOMENTS)
    parts = [np.load(done[name]["path"], allow_pickle=False) for name in units]
    return np.concatenate([np.empty((0, width)), *parts])
