"""Touching splits of one time point: judge the contacts, and join what is one cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from overseg.kernels.bodies import Neighbours, Triple
from overseg.kernels.groups import Groups, grouped, run_sums
from overseg.kernels.solids import Solids
from overseg.kernels.tables import Bool, Int, Labels
from overseg.model.across import ACROSS, with_penalty
from overseg.model.features import PAPER
from overseg.model.mlp import Head
from overseg.model.touching import TOUCHING, Spans, touching_features
from overseg.pipeline.across import Kind
from overseg.pipeline.decide import Guard, Verdicts, volume_limit
from overseg.pipeline.graph import Graph
from overseg.pipeline.join import join
from overseg.pipeline.lazy import Limits
from overseg.pipeline.parts import TimePoint
from overseg.pipeline.plandata import Fills
from overseg.pipeline.touching import Job, Judge, Second, Touching, judge_touching

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.model import Model
    from overseg.pipeline.reconcile import Box
    from overseg.settings import Settings
    from overseg.volume import Volume

Float = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Joined:
    """Touching labels of one time point, judged and decided.

    Attributes
    ----------
    touching : Touching
    verdicts : Verdicts
        Of its pairs; labels are those after gaps were closed.
    """

    touching: Touching
    verdicts: Verdicts


def join_touching(
    found: TimePoint,
    before: Verdicts,
    fills: Fills,
    gone: Labels,
    unread: Labels,
    volume: Volume,
    box: Box,
    model: Model,
    settings: Settings,
    executor: Executor,
    run: Path,
    progress: Progress | None = None,
) -> Joined:
    """Judge and decide all contacts of one time point, after its gaps were closed.

    Parameters
    ----------
    found : TimePoint
        Reconciled, with contacts.
    before : Verdicts
        Of the gaps: their groups count as one label each.
    fills : Fills
        Voxels that the groups were given, at this time point.
    gone : ndarray of uint64
        Labels that these took whole.
    unread : ndarray of uint64
        Labels near voxels that cannot be decoded.
    volume : Volume
        Only read.
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.
    model : Model
        With a head ``touching``, or the published one.
    settings, executor, run, progress
        As in `overseg.pipeline.plan.make_plan`.

    Returns
    -------
    Joined
    """
    groups, limits = before.groups, Limits.of(model, settings)
    published = settings.preset == "paper"
    guard = None if published else Guard()
    graph = Graph(found.layers, groups, _added(fills, groups))
    head = None if published else model.head("touching")
    judge, names = _judge_of(model, settings)
    job = Job(graph, head, judge is not None, volume.voxel_size, volume.shape, box)
    kind: Kind = "paper" if published else "tilted"
    second = Second(volume, found.t, kind, judge, names, groups, fills, executor, run, progress)
    touching = judge_touching(job, second, model.digest, f"{found.fingerprint:032x}")
    verdicts = join(
        touching.pairs,
        threshold=limits.threshold,
        review_from=limits.review_from,
        cut=groups.root(found.cut()),
        gone=gone,
        unread=groups.root(unread),
        guard=guard,
        limit=None if guard is None else volume_limit(found.layers.sizes(), guard),
        voxels=lambda labels: graph.cells(labels).n,
        rescore=None if head is None else partial(_rescored, job, head),
    )
    return Joined(touching, verdicts)


def _judge_of(model: Model, settings: Settings) -> tuple[Judge | None, tuple[str, ...]]:
    """The second stage's word, if there is one, and the names of all features."""
    if settings.preset == "paper":
        head = model.head("paper")

        def published(rows: Float) -> tuple[Float, Bool, Float]:
            known = np.isfinite(rows).all(axis=1)
            p = np.zeros(len(rows))  # a part of fewer than two sections cannot be compared
            given = with_penalty(rows[known], head.scale, settings.penalty, settings.emd_mode)
            p[known] = head.probability(given)
            return p, np.zeros(len(p), bool), head.unusual(rows)

        return published, PAPER
    across = model.heads.get("across")
    if across is None:
        return None, TOUCHING

    def judge(rows: Float) -> tuple[Float, Bool, Float]:
        return across.probability(rows), across.out_of_range(rows), across.unusual(rows)

    return judge, TOUCHING + ACROSS


def _rescored(job: Job, head: Head, one: Labels, two: Labels) -> float:
    around = job.graph.around(np.concatenate([one, two]))
    return rescored(around, head, one, two, job.voxel_size, job.box)


def rescored(
    around: Neighbours, head: Head, one: Labels, two: Labels, voxel_size: Triple, box: Spans
) -> float:
    """Probability that two groups of labels are one cell, from the sums of their members.

    Parameters
    ----------
    around : Neighbours
        With all contacts of all members.
    head : Head
        Of the first stage.
    one, two : ndarray of uint64
        Members of either group.
    voxel_size : tuple of float
        (z, y, x).
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.

    Returns
    -------
    float
    """
    old = np.setdiff1d(np.concatenate([one, two]), [one.min(), two.min()])
    whole = grouped(around, Groups(old, np.where(np.isin(old, one), one.min(), two.min())))
    a, b = np.sort(np.array([one.min(), two.min()], np.uint64))
    features = touching_features(whole, np.array([a]), np.array([b]), voxel_size, box)
    return float(head.probability(features)[0])


def composed(first: Verdicts, second: Verdicts) -> Groups:
    """Both rounds of merges as one: the label that each changed label has in the end."""
    old = np.union1d(first.old, second.old)
    new = second.root(first.root(old))
    return Groups(old, new)


def _added(fills: Fills, groups: Groups) -> Solids:
    columns: list[Int] = [fills.z, fills.y, fills.x0, fills.x1]
    return run_sums(groups.root(fills.new), *columns)
