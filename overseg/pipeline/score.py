"""Score: how likely the two faces of each candidate belong to one cell, in two stages.

Stage one needs the tables alone and decides what it is sure of. Stage two adds exact earth mover's distances
for the others: it reads the boxes around them, unless bounds of the distances decide already. All of it runs
on the exact CPU path, one row at a time in a fixed order, so neither batches nor workers change a bit, and
nothing near a border of a decision is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.cluster.receipts import file_is_there
from overseg.kernels.tables import Bool, Candidates, Int, Layers
from overseg.model.features import FULL, MOMENTS, PAPER
from overseg.model.intervals import Interval
from overseg.pipeline.distances import ALL, REACH, Look, distance_task
from overseg.pipeline.distances import batches as look_batches
from overseg.pipeline.firststage import First, Firsts, Wanted, first_task, save_candidates
from overseg.pipeline.firststage import batches as first_batches
from overseg.pipeline.lazy import Limits, ranked
from overseg.pipeline.plandata import Features

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
        Who said so: ``moments``, ``full`` or ``paper``; ``bounds`` where no value that the distances can
        have changes what ``full`` would decide.
    features : Features
        On disk; NaN where a stage was not asked.
    out_of_range : ndarray of bool, shape (n,)
        Far outside what the model was trained on.
    """

    p: Float
    stage: npt.NDArray[np.str_]
    features: Features
    out_of_range: Bool


def score(
    candidates: Candidates,
    layers: Layers,
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
    layers : Layers
        The reconciled table, or where it is.
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
        Runs both stages.
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

    work = _Work(volume, t, fingerprint, executor, run, progress)
    published = settings.preset == "paper"
    head = None if published else model.head("moments")
    second = model.head("paper") if published else model.heads.get("full")
    names, kind, reach = (PAPER, "paper", ALL) if published else (FULL, "full", REACH)
    everyone: Wanted = "all" if published or settings.emd == "all" else "unsure"
    wanted = "none" if second is None else everyone
    limits = Limits.of(model, settings)
    first = First("", layers, voxel_size, head, wanted, reach, None if published else second, limits)
    batches = work.first_stage(first, candidates, model.digest)
    asked = _asked(candidates, batches, limits)
    width = len(names) - (0 if published else len(MOMENTS))
    measured = work.distances(candidates, batches, asked, kind, width)

    n = len(candidates)
    p, strange, stage = np.full(n, np.nan), np.zeros(n, bool), np.full(n, "moments", "<U7")
    blocks: list[Callable[[], Float]] = []
    at = 0
    for start, stop, path in batches:
        found = Firsts.load(path)
        p[start:stop], strange[start:stop] = found.p, found.out_of_range
        look = asked[start + found.rows]
        rows, here = start + found.rows[~look], ~look
        p[rows], strange[rows], stage[rows] = found.middle[here], found.strange[here], "bounds"
        rows, values = found.rows[look], measured[at : at + int(look.sum())]
        at += len(values)
        blocks.append(partial(_features, path, rows, values))
        if second is not None:
            both = np.concatenate([found.features[rows], values], axis=1)
            # A transport problem too large to be solved leaves the first stage's word.
            known = np.isfinite(both).all(axis=1)
            rows = start + rows[known]
            p[rows], stage[rows] = second.probability(both[known]), kind
            strange[rows] = second.out_of_range(both[known])
    return Scores(p, stage, Features(names, tuple(blocks)), strange)


def _asked(candidates: Candidates, batches: list[tuple[int, int, str]], limits: Limits) -> Bool:
    """Candidates whose distances have to be worked out: wanted, and not certain without them."""
    n = len(candidates)
    low, high, asked, certain = np.zeros(n), np.ones(n), np.zeros(n, bool), np.zeros(n, bool)
    for start, stop, path in batches:
        found = Firsts.load(path)
        low[start:stop] = high[start:stop] = found.p
        rows = start + found.rows
        low[rows], high[rows], asked[rows], certain[rows] = found.low, found.high, True, found.certain
    return asked & ~(certain & ranked(candidates, Interval(low, high), limits))


def _features(path: str, rows: Int, values: Float) -> Float:
    """All features of a batch, one row per candidate; NaN where nothing was measured."""
    found = Firsts.load(path)
    width = found.features.shape[1]
    out = np.full((len(found.p), width + values.shape[1]), np.nan)
    out[:, :width] = found.features
    out[rows, width:] = values
    return out


@dataclass(frozen=True)
class _Work:
    """Runs the units of both stages; what an earlier run left is not done again."""

    volume: Volume
    t: int
    fingerprint: int
    executor: Executor
    run: Path
    progress: Progress | None

    def first_stage(self, first: First, candidates: Candidates, model: str) -> list[tuple[int, int, str]]:
        """Batches of candidates as half-open ranges, and the file that says what was found."""
        folder = self.run / "score"
        saved, mark = save_candidates(folder, f"t{self.t}", candidates)
        first, layers = replace(first, candidates=str(saved)), first.layers
        facts = [str(self.fingerprint), mark, list(first.voxel_size), model, first.wanted, first.reach]
        name = f"t{self.t}-{_short([*facts, *vars(first.limits).values()])}"
        found = [
            (start, stop, str(folder / f"{name}-{start}-{stop}.first"))
            for start, stop in first_batches(candidates, layers)
        ]
        units = {Path(path).stem: (first, start, stop, path) for start, stop, path in found}
        self._run("score", first_task, units)
        return found

    def distances(
        self,
        candidates: Candidates,
        batches: list[tuple[int, int, str]],
        asked: Bool,
        kind: str,
        width: int,
    ) -> Float:
        """Distance features of the candidates that are asked for, in their order."""
        units = {}
        for batch in look_batches(list(self._looks(candidates, batches, asked))):
            facts = [str(self.fingerprint), self.t, kind, list(self.volume.voxel_size)]
            name = f"t{self.t}-{kind}-{_short([*facts, [asdict(look) for look in batch]])}"
            units[name] = (self.volume, batch, kind, str(self.run / "distances" / f"{name}.npy"), self.t)
        done = self._run("distances", distance_task, units)
        parts = [np.load(done[name]["path"], allow_pickle=False) for name in units]
        return np.concatenate([np.empty((0, width)), *parts])

    def _looks(
        self, candidates: Candidates, batches: list[tuple[int, int, str]], asked: Bool
    ) -> Iterator[Look]:
        for start, _, path in batches:
            found = Firsts.load(path)
            mine = asked[start + found.rows]
            rows = start + found.rows[mine]
            keys = [getattr(candidates, name)[rows].tolist() for name in ("a", "b", "z", "gap")]
            for a, b, z, gap, box in zip(*keys, found.boxes[mine].tolist(), strict=True):
                yield Look(a, b, z, gap, tuple(box))

    def _run(self, step: str, task: Callable[..., Any], units: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
        receipts = self.run / "receipts"
        return dict(self.executor.run(step, task, units, receipts, self.progress, file_is_there))


def _short(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
