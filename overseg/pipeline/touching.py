"""Labels that touch: which pairs may be one cell, and how likely that is.

Stage one needs the contact graph alone and decides what it is sure of; for the rest the pair is re-sliced
across its contact, see `overseg.pipeline.closer`. The published method looks at every pair that way.

A unit of work is one part of the labels. It looks at the contacts of its labels with larger ones, so that
each is judged once, with the neighbourhoods of both: what it finds depends on neither parts nor order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.cluster.receipts import file_is_there
from overseg.kernels.groups import Groups
from overseg.kernels.solids import Solids, Touches
from overseg.kernels.tables import Bool, Int, Labels
from overseg.model.mlp import Head
from overseg.model.touching import TOUCHING, Spans, edges_of, touching_features
from overseg.pipeline.across import Kind
from overseg.pipeline.closer import looks, measured, sights
from overseg.pipeline.graph import Graph, candidates_among, graph_task
from overseg.pipeline.plandata import Features, Fills
from overseg.pipeline.reconcile import Box
from overseg.pipeline.sections import Sections, write_sections

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.volume import Volume

Float = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]
Judge = Callable[[Float], tuple[Float, Bool, Float]]

#: Probability that is asked of two labels that are both cut by the border of what was scanned; and which
#: are slivers there: of fewer voxels, or smaller (logarithm) against the median of their neighbours.
AT_BORDER = 0.8
_SLIVER_VOXELS, _SLIVER_SIZE = 150, -2.5

_TOGETHER = 1 << 12  # pairs whose neighbourhoods are held at a time


@dataclass(frozen=True)
class Pairs:
    """Touching labels that may be one cell.

    Attributes
    ----------
    a, b : ndarray of uint64, shape (n,)
        Labels, a < b.
    z : ndarray of int64, shape (n,)
        Layer of the contact's centre.
    faces, faces_a, faces_b : ndarray of int64, shape (n,)
        Voxel faces that they share, and all that each has towards anything else.
    least : ndarray of float64, shape (n,)
        From this probability on they may be merged, whatever the threshold; see `least_of`.
    p : ndarray of float64, shape (n,)
        Probability that both are one cell.
    out_of_range : ndarray of bool, shape (n,)
        Far outside what the model was trained on.
    unusual : ndarray of float64, shape (n,)
        How unusual each is to the head that judged it, 0 to 1; NaN where that does not know.
    """

    a: Labels
    b: Labels
    z: Int
    faces: Int
    faces_a: Int
    faces_b: Int
    least: Float
    p: Float
    out_of_range: Bool
    unusual: Float

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class Touching:
    """What is known of the touching labels of one time point.

    Attributes
    ----------
    pairs : Pairs
        Candidates, part by part.
    features : Features
        Of the same rows, on disk.
    stage : ndarray of str, shape (n,)
        Who judged each.
    slight : int
        Contacts that are too small a part of either surface to be candidates, or touch no cell.
    """

    pairs: Pairs
    features: Features
    stage: npt.NDArray[np.str_]
    slight: int


@dataclass(frozen=True)
class Job:
    """How pairs are judged.

    Attributes
    ----------
    graph : Graph
    head : Head or None
        Of the first stage; None leaves every contact, however slight, to the second, as published.
    closer : bool
        Whether there is a second stage.
    voxel_size : tuple of float
        (z, y, x).
    shape : tuple of int
        Of the volume, (z, y, x).
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.
    """

    graph: Graph
    head: Head | None
    closer: bool
    voxel_size: tuple[float, float, float]
    shape: tuple[int, int, int]
    box: Box


@dataclass(frozen=True)
class Second:
    """The second stage, and the means to run both.

    Attributes
    ----------
    volume : Volume
        Only read.
    t : int
        Time point.
    kind : {"tilted", "paper"}
    judge : callable or None
        Probability, whether far outside the training range, and how unusual, of rows of all features.
    names : tuple of str
        Of all features.
    groups : Groups
        Merges before.
    fills : Fills
        Voxels that were given to them, at this time point.
    executor, run, progress
        As in `overseg.pipeline.plan.make_plan`.
    """

    volume: Volume
    t: int
    kind: Kind
    judge: Judge | None
    names: tuple[str, ...]
    groups: Groups
    fills: Fills
    executor: Executor
    run: Path
    progress: Progress | None = None


def judge_touching(job: Job, second: Second, model: str, mark: str) -> Touching:
    """All touching pairs of one time point.

    Parameters
    ----------
    job : Job
    second : Second
    model : str
        Digest of the model.
    mark : str
        Of the volume's labels: what an earlier run left is used where it is the same.

    Returns
    -------
    Touching

    Raises
    ------
    PlanError
        If a file on the way is damaged.
    OversegError
        If the volume cannot be read.
    """
    layers, receipts, run = job.graph.layers, second.run / "receipts", second.run
    kept = [each.name for each in fields(Pairs)]
    facts = [mark, model, job.head is None, job.closer, list(job.voxel_size), job.box, layers.parts, kept]
    made = hashlib.sha256(json.dumps([*facts, job.graph.mark]).encode()).hexdigest()[:24]

    def fits(_: str, receipt: Any) -> bool:
        return receipt["mark"] == made and Path(receipt["path"]).exists()

    execute, progress = second.executor.run, second.progress
    names = [f"{layers.name}-{part}" for part in range(layers.parts)]
    graphs = {name: (layers, part, made) for part, name in enumerate(names)}
    for _ in execute("graph", graph_task, graphs, receipts, progress, fits):
        pass
    paths = [str(run / "touching" / f"{name}-{made}.pairs") for name in names]
    units = {Path(path).stem: (job, part, path) for part, path in enumerate(paths)}
    for _ in execute("touching", touching_task, units, receipts, progress, file_is_there):
        pass
    return _second_look([Sections(path) for path in paths], second, mark)


def _second_look(files: list[Sections], second: Second, mark: str) -> Touching:
    """What all units found, and for the unsure pairs what they look like across their contact."""
    columns = {
        each.name: np.concatenate([file.checked(each.name) for file in files]) for each in fields(Pairs)
    }
    pairs, stage = Pairs(**columns), np.full(len(columns["a"]), "contacts")
    starts = np.cumsum([0] + [len(file["a"]) for file in files])
    unsure = [file.checked("unsure") for file in files]
    rows = np.concatenate([start + mine for start, mine in zip(starts[:-1], unsure, strict=True)])
    width = files[0]["features"].shape[1]
    closer = np.zeros((0, len(second.names) - width))
    if len(rows) and second.judge is not None:
        sights_of = np.concatenate([file.checked("sights") for file in files])
        wanted = list(looks(pairs.a[rows], pairs.b[rows], sights_of, second.groups, second.fills))
        closer = measured(
            second.volume, second.t, wanted, second.kind, mark, second.executor, second.run, second.progress
        )
        before = [file["features"][mine] for file, mine in zip(files, unsure, strict=True)]
        said = second.judge(np.concatenate([np.concatenate(before), closer], axis=1))
        pairs.p[rows], pairs.out_of_range[rows], pairs.unusual[rows] = said
        stage[rows] = "paper" if second.kind == "paper" else "across"
    ends = np.cumsum([0] + [len(mine) for mine in unsure])
    blocks = tuple(
        partial(_features, str(file.path), closer[ends[i] : ends[i + 1]], len(second.names))
        for i, file in enumerate(files)
    )
    slight = sum(int(file.checked("slight")[0]) for file in files)
    return Touching(pairs, Features(second.names, blocks), stage, slight)


def _features(path: str, closer: Float, columns: int) -> Float:
    """All features of a part's pairs; NaN where nothing was measured."""
    file = Sections(path)
    first = file["features"]
    out = np.full((len(first), columns), np.nan)
    out[:, : first.shape[1]] = first
    if len(closer):
        out[file["unsure"], first.shape[1] :] = closer
    return out


def touching_task(job: Job, part: int, path: str) -> dict[str, Any]:
    """Judge the contacts of one part's labels with larger ones; a unit of work that may be run again.

    Returns
    -------
    dict
        ``path``.
    """
    touches = job.graph.of_part(part)
    touches = touches.take(touches.a < touches.b)
    solids = job.graph.cells(np.concatenate([touches.a, touches.b]))
    chosen = candidates_among(touches, solids, job.voxel_size, slight=job.head is None)
    slight, touches = int((~chosen).sum()), touches.take(chosen)
    n = len(touches)
    found, p, strange, rows = np.zeros((n, 0)), np.full(n, np.nan), np.zeros(n, bool), np.arange(n)
    unusual = p
    if job.head is not None:
        found = _measured(job, touches)
        p, strange = job.head.probability(found), job.head.out_of_range(found)
        unusual = job.head.unusual(found)
        rows = np.flatnonzero((p > job.head.sure_low) & (p < job.head.sure_high))
    rows = rows if job.closer else rows[:0]
    least = np.zeros(n) if job.head is None else least_of(touches, solids, found, job.box)
    pairs = pairs_of(touches, solids, p, strange, least, unusual)
    seen = sights(touches.take(rows), solids, job.voxel_size, job.shape, whole=job.head is None)
    more = {"features": found, "unsure": rows, "sights": seen, "slight": np.array([slight])}
    write_sections(Path(path), {**vars(pairs), **more})
    return {"path": path}


def _measured(job: Job, touches: Touches) -> Float:
    """Features of the first stage."""
    found = np.zeros((len(touches), len(TOUCHING)))
    for start in range(0, len(touches), _TOGETHER):
        some = touches.take(np.arange(start, min(start + _TOGETHER, len(touches))))
        around = job.graph.around(np.concatenate([some.a, some.b]))
        found[start : start + _TOGETHER] = touching_features(around, some.a, some.b, job.voxel_size, job.box)
    return found


def least_of(touches: Touches, solids: Solids, features: Float, box: Spans) -> Float:
    """From which probability on pairs may be merged: where neither label is seen whole, more is asked.

    Nearly all false merges in trials were of two labels that are both cut by the volume's border, most of
    them of slivers: those are never merged.

    Parameters
    ----------
    touches : Touches
    solids : Solids
        Holds both labels of each.
    features : ndarray of float64, shape (n, F)
        Of the first stage.
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.

    Returns
    -------
    ndarray of float64, shape (n,)
        0, `AT_BORDER`, or infinity for slivers.
    """
    one, two = solids.index(touches.a), solids.index(touches.b)
    cut = edges_of(solids, box) > 0
    small = np.minimum(solids.n[one], solids.n[two]) < _SLIVER_VOXELS
    small |= features[:, TOUCHING.index("smaller_over_neighbours")] < _SLIVER_SIZE
    least = np.where(cut[one] & cut[two], np.where(small, np.inf, AT_BORDER), 0.0)
    return np.asarray(least, np.float64)


def pairs_of(
    touches: Touches, solids: Solids, p: Float, out_of_range: Bool, least: Float, unusual: Float
) -> Pairs:
    """Candidates as the plan tells them."""
    surface = solids.faces.sum(axis=1)
    faces = touches.faces.sum(axis=1)
    # About the corner of a's box sums fit; faces were counted in doubled coordinates.
    top = solids.box[solids.index(touches.a), 0]
    depth = touches.sums[:, :, 0].sum(axis=1) - 2 * top * faces
    return Pairs(
        touches.a,
        touches.b,
        top + depth // (2 * np.maximum(faces, 1)),
        faces,
        surface[solids.index(touches.a)],
        surface[solids.index(touches.b)],
        least,
        p,
        out_of_range,
        unusual,
    )
