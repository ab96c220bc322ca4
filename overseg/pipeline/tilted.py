"""Touching splits of one time point: judge the contacts, and join what is one cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from overseg.kernels.groups import Groups, grouped, run_sums
from overseg.kernels.solids import Solids
from overseg.kernels.tables import Int, Labels
from overseg.model.touching import touching_features
from overseg.pipeline.decide import Guard, Verdicts, volume_limit
from overseg.pipeline.graph import Graph
from overseg.pipeline.join import join
from overseg.pipeline.lazy import Limits
from overseg.pipeline.parts import TimePoint
from overseg.pipeline.plandata import Fills
from overseg.pipeline.touching import Job, Touching, judge_touching

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.model import Model
    from overseg.pipeline.reconcile import Box
    from overseg.settings import Settings

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
    voxel_size: tuple[float, float, float],
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
    voxel_size : tuple of float
        (z, y, x).
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.
    model : Model
        With a head ``touching``.
    settings, executor, run, progress
        As in `overseg.pipeline.plan.make_plan`.

    Returns
    -------
    Joined
    """
    groups, guard, limits = Groups(before.old, before.new), Guard(), Limits.of(model, settings)
    graph = Graph(found.layers, groups, _added(fills, groups))
    job = Job(graph, model.head("touching"), voxel_size, box)
    touching = judge_touching(job, model.digest, f"{found.fingerprint:032x}", executor, run, progress)
    verdicts = join(
        touching.pairs,
        threshold=limits.threshold,
        review_from=limits.review_from,
        cut=groups.root(found.cut()),
        guard=guard,
        limit=volume_limit(found.layers.sizes(), guard),
        voxels=lambda labels: graph.cells(labels).n,
        rescore=lambda one, two: rescored(job, one, two),
    )
    return Joined(touching, verdicts)


def rescored(job: Job, one: Labels, two: Labels) -> float:
    """Probability that two groups of labels are one cell, from the sums of their members."""
    around = job.graph.around(np.concatenate([one, two]))
    old = np.setdiff1d(np.concatenate([one, two]), [one.min(), two.min()])
    groups = Groups(old, np.where(np.isin(old, one), one.min(), two.min()))
    a, b = np.sort(np.array([one.min(), two.min()], np.uint64))
    whole = grouped(around, groups)
    features = touching_features(whole, np.array([a]), np.array([b]), job.voxel_size, job.box)
    return float(job.head.probability(features)[0])


def composed(first: Verdicts, second: Verdicts) -> Groups:
    """Both rounds of merges as one: the label that each changed label has in the end."""
    old = np.union1d(first.old, second.old)
    new = second.root(first.root(old))
    return Groups(old, new)


def _added(fills: Fills, groups: Groups) -> Solids:
    columns: list[Int] = [fills.z, fills.y, fills.x0, fills.x1]
    return run_sums(groups.root(fills.new), *columns)
