"""Score: how likely the two faces of each candidate belong to one cell, in two stages.

Stage one needs the tables alone and decides what it is sure of. Stage two adds earth mover's distances for
the others: it reads the boxes around them, unless bounds of the distances decide already. Each row is worked
on by itself in a fixed order, so neither batches nor workers change a bit. Fast distances, and those from a
graphics card, have no last word: where not every distance within their error makes the same decision, they
are worked out again exactly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.cluster.receipts import file_is_there
from overseg.kernels.tables import Bool, Candidates, Int, Layers
from overseg.model.intervals import Interval
from overseg.model.usual import CELLS, usual_of
from overseg.pipeline.distances import (
    ALL,
    NAMES,
    REACH,
    Device,
    Look,
    Way,
    distance_task,
    peak_bytes,
    width_of,
)
from overseg.pipeline.distances import batches as look_batches
from overseg.pipeline.expected import OwnGaps, own_gaps
from overseg.pipeline.firststage import First, Firsts, Wanted, first_task, save_candidates
from overseg.pipeline.firststage import batches as first_batches
from overseg.pipeline.halves import halving, paths_in_order
from overseg.pipeline.lazy import Limits, certain, ranked
from overseg.pipeline.plandata import Features

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.cluster.executor import Halve
    from overseg.model import Model
    from overseg.model.mlp import Head
    from overseg.settings import Settings
    from overseg.volume import Volume

Float = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]

#: Heads of the published method, of which a model has one: as written, or as the authors' code has it.
PUBLISHED = ("paper", "geoseg")

MARGIN = 1e-3
"""Distances that are not exact are not trusted where p may come as near as this to a border of a decision."""


@dataclass(frozen=True)
class Scores:
    """What is known of every candidate.

    Attributes
    ----------
    p : ndarray of float64, shape (n,)
        Probability that both faces belong to one cell.
    stage : ndarray of str, shape (n,)
        Who said so: ``moments``, ``full``, ``paper`` or ``geoseg``; ``bounds`` where no value that the
        distances can have changes what ``full`` would decide.
    features : Features
        On disk; NaN where a stage was not asked.
    out_of_range : ndarray of bool, shape (n,)
        Far outside what the model was trained on.
    unusual : ndarray of float64, shape (n,)
        How unusual each is to the head that judged it, or to the first where bounds did, 0 to 1; NaN where
        that does not know. See `overseg.model.Head.unusual`.
    own : OwnGaps, optional
        What the first stage said of gaps made in the volume's own cells.
    """

    p: Float
    stage: npt.NDArray[np.str_]
    features: Features
    out_of_range: Bool
    unusual: Float
    own: OwnGaps | None = None

    @classmethod
    def none(cls) -> Scores:
        """Of no candidates."""
        nobody = np.zeros(0, bool)
        return cls(np.zeros(0), np.zeros(0, "<U7"), Features((), ()), nobody, np.zeros(0))


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
    device: Device | None = None,
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
        `preset`, `emd` and `transport` matter here.
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
    device : {"cuda", "cpu"}, optional
        Who brackets distances before exact ones are worked out: graphics cards, or processors with the
        cards' code. Decisions are the same.

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
    kind = next((name for name in PUBLISHED if published and name in model.heads), "full")
    second = model.heads.get(kind)
    everyone: Wanted = "all" if published or settings.emd == "all" else "unsure"
    usual, own, limits = None, None, Limits.of(model, settings)
    if not published:
        some = layers.take(layers.some(CELLS))
        usual = usual_of(some, voxel_size)
        own = own_gaps(some, voxel_size, usual, model.head("moments"), limits.threshold, limits.review_from)
    first = First(
        "",
        layers,
        voxel_size,
        None if published else model.head("moments"),
        "none" if second is None else everyone,
        ALL if published else REACH,
        usual,
        None if published else second,
        limits,
    )
    batches = work.first_stage(first, candidates, model.digest)
    found = _Found.after_the_tables(candidates, batches, kind, first.limits)
    for way in _ways(settings, device):
        rest = found.left_open()
        if second is not None and rest.any():
            found.learn(rest, work.distances(candidates, batches, rest, kind, way), second)
    return replace(found.scores(), own=own)


def _ways(settings: Settings, device: Device | None) -> tuple[Way, ...]:
    """How distances are worked out: cheaply for all, then exactly for those that this leaves open."""
    if settings.preset == "paper":
        return ("exact",)
    if device is not None:
        return (device, "exact")
    return ("fast", "exact") if settings.transport == "fast" else ("exact",)


@dataclass
class _Found:
    """What is known of the candidates so far.

    Attributes
    ----------
    batches : list of (int, int, str)
        Candidates as half-open ranges, and the file of what the first stage found.
    kind : {"full", "paper", "geoseg"}
        Head of the second stage.
    p, low, high : ndarray of float64, shape (n,)
        Probability, and bounds of what it will be when distances are exact.
    certain, wanted : ndarray of bool, shape (n,)
        Whether all of these bounds are one decision; who is to be judged by distances.
    stage, strange, unusual : ndarray, shape (n,)
        As in `Scores`.
    distances : ndarray of float64, shape (k, F)
        Features of those who are wanted, in order.
    """

    candidates: Candidates
    batches: list[tuple[int, int, str]]
    kind: str
    limits: Limits
    p: Float
    low: Float
    high: Float
    certain: Bool
    wanted: Bool
    stage: npt.NDArray[np.str_]
    strange: Bool
    unusual: Float
    distances: Float

    @classmethod
    def after_the_tables(
        cls,
        candidates: Candidates,
        batches: list[tuple[int, int, str]],
        kind: str,
        limits: Limits,
    ) -> _Found:
        """The first stage's word, and for those it leaves to the second what that can say at all."""
        n = len(candidates)
        p, strange = np.full(n, np.nan), np.zeros(n, bool)
        stage = np.full(n, "moments" if kind == "full" else kind, "<U7")
        unusual = np.full(n, np.nan)
        low, high, certain, wanted = np.zeros(n), np.ones(n), np.ones(n, bool), np.zeros(n, bool)
        for start, stop, path in batches:
            each = Firsts.load(path)
            p[start:stop], strange[start:stop] = each.p, each.out_of_range
            unusual[start:stop] = each.unusual
            low[start:stop] = high[start:stop] = each.p
            rows = start + each.rows
            low[rows], high[rows], certain[rows], wanted[rows] = each.low, each.high, each.certain, True
            sure = each.certain
            p[rows[sure]], strange[rows[sure]] = each.middle[sure], each.strange[sure]
            stage[rows[sure]] = "bounds"
        none = np.full((int(wanted.sum()), width_of(kind)), np.nan)
        given = candidates, batches, kind, limits
        return cls(*given, p, low, high, certain, wanted, stage, strange, unusual, none)

    def left_open(self) -> Bool:
        """Candidates whose decision, or rank among rivals, is not certain yet."""
        ranks = ranked(self.candidates, Interval(self.low, self.high), self.limits)
        return self.wanted & ~(self.certain & ranks) & (self.low < self.high)

    def learn(self, asked: Bool, found: Float, second: Head) -> None:
        """Take in the distances of some candidates: values and bounds, shape (3, k, F)."""
        self.distances[asked[self.wanted]] = found[0]
        at = 0
        for start, _, path in self.batches:
            each = Firsts.load(path)
            mine = asked[start + each.rows]
            rows, features = start + each.rows[mine], each.features[each.rows[mine]]
            here = found[:, at : at + len(rows)]
            at += len(rows)
            both = [np.concatenate([features, part], axis=1) for part in here]
            # A transport problem too large to be solved leaves the first stage's word; whom the authors' code
            # passes over stays apart.
            known = np.isfinite(both[0]).all(axis=1)
            self._settle(rows[~known], each.p[each.rows[mine]][~known])
            self._judge(second, rows[known], *(part[known] for part in both))

    def _settle(self, rows: Int, p: Float) -> None:
        """Probabilities that nothing will change."""
        self.p[rows] = self.low[rows] = self.high[rows] = p
        self.certain[rows] = True

    def _judge(self, second: Head, rows: Int, values: Float, low: Float, high: Float) -> None:
        """What the second stage says, and how far it can be trusted."""
        self.stage[rows], self.strange[rows] = self.kind, second.out_of_range(values)
        self.unusual[rows] = second.unusual(values)
        self._settle(rows, second.probability(values))
        loose = (low < high).any(axis=1)
        same, p = certain(second, Interval(low[loose], high[loose]), self.limits, MARGIN)
        rows = rows[loose]
        self.low[rows], self.high[rows], self.certain[rows] = p.low, p.high, same

    def scores(self) -> Scores:
        """As it stands."""
        blocks: list[Callable[[], Float]] = []
        at = 0
        for start, stop, path in self.batches:
            mine = np.flatnonzero(self.wanted[start:stop])
            blocks.append(partial(_features, path, mine, self.distances[at : at + len(mine)]))
            at += len(mine)
        features = Features(NAMES[self.kind], tuple(blocks))
        return Scores(self.p, self.stage, features, self.strange, self.unusual)


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
        kept = [each.name for each in fields(Firsts)]
        name = f"t{self.t}-{_short([*facts, *vars(first.limits).values(), kept])}"

        def unit(start: int, stop: int) -> tuple[First, int, int, str]:
            return first, start, stop, str(folder / f"{name}-{start}-{stop}.first")

        def halve(whole: str, args: tuple[First, int, int, str]) -> dict[str, tuple[First, int, int, str]]:
            start, stop = args[1:3]
            middle = (start + stop) // 2
            parts = (unit(start, middle), unit(middle, stop)) if middle > start else ()
            named = {f"{whole}, half {i}": part for i, part in enumerate(parts, 1)}
            known.update(named)
            return named

        units = {
            f"{name}-{start}-{stop}": unit(start, stop) for start, stop in first_batches(candidates, layers)
        }
        known = dict(units)
        done = self._run("score", first_task, units, halve)
        return sorted(known[each][1:] for each in done)

    def distances(
        self,
        candidates: Candidates,
        batches: list[tuple[int, int, str]],
        asked: Bool,
        kind: str,
        way: Way,
    ) -> Float:
        """Distance features of the candidates that are asked for, in their order; see `measured`."""
        units = {}
        for batch in look_batches(list(self._looks(candidates, batches, asked))):
            facts = [str(self.fingerprint), self.t, kind, way, list(self.volume.voxel_size)]
            name = f"t{self.t}-{kind}-{_short([*facts, [asdict(look) for look in batch]])}"
            path = str(self.run / "distances" / f"{name}.npy")
            units[name] = (self.volume, batch, kind, path, self.t, way)
            need = peak_bytes(self.volume, batch, kind)
            self.executor.check_room(need, "measuring the largest cells' distances", self.volume.location)
        done = self._run("distances", distance_task, units, halving(path=3), card=way == "cuda")
        parts = [np.load(path, allow_pickle=False) for path in paths_in_order(units, done)]
        return np.concatenate(parts, axis=1)

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

    def _run(
        self,
        step: str,
        task: Callable[..., Any],
        units: Mapping[str, tuple[Any, ...]],
        halve: Halve,
        *,
        card: bool = False,
    ) -> dict[str, Any]:
        folder, run = self.run / "receipts", self.executor.run
        return dict(run(step, task, units, folder, self.progress, file_is_there, halve=halve, card=card))


def _short(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
