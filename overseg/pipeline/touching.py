"""Labels that touch: which pairs may be one cell, and how likely that is, from the contact graph alone.

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
from overseg.kernels.solids import Solids, Touches
from overseg.kernels.tables import Bool, Int, Labels
from overseg.model.mlp import Head
from overseg.model.touching import TOUCHING, touching_features
from overseg.pipeline.graph import Graph, candidates_among, graph_task
from overseg.pipeline.plandata import Features
from overseg.pipeline.reconcile import Box
from overseg.pipeline.sections import Sections, write_sections

if TYPE_CHECKING:
    from overseg.cluster import Executor

Float = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]

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
    p : ndarray of float64, shape (n,)
        Probability that both are one cell.
    out_of_range : ndarray of bool, shape (n,)
        Far outside what the model was trained on.
    """

    a: Labels
    b: Labels
    z: Int
    faces: Int
    faces_a: Int
    faces_b: Int
    p: Float
    out_of_range: Bool

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
    head : Head
    voxel_size : tuple of float
        (z, y, x).
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.
    """

    graph: Graph
    head: Head
    voxel_size: tuple[float, float, float]
    box: Box


def judge_touching(
    job: Job,
    model: str,
    mark: str,
    executor: Executor,
    run: Path,
    progress: Progress | None = None,
) -> Touching:
    """All touching pairs of one time point.

    Parameters
    ----------
    job : Job
    model : str
        Digest of the model.
    mark : str
        Of what the graph holds: what an earlier run left is used where it is the same.
    executor : Executor
    run : Path
        Folder for what is worked out on the way.
    progress : callable, optional
        Called as ``progress(step, done, total)``.

    Returns
    -------
    Touching

    Raises
    ------
    PlanError
        If a file on the way is damaged.
    """
    layers, receipts = job.graph.layers, run / "receipts"
    facts = [mark, model, list(job.voxel_size), job.box, layers.parts, job.graph.mark]
    made = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]

    def fits(_: str, receipt: Any) -> bool:
        return receipt["mark"] == made and Path(receipt["path"]).exists()

    names = [f"{layers.name}-{part}" for part in range(layers.parts)]
    graphs = {name: (layers, part, made) for part, name in enumerate(names)}
    for _ in executor.run("graph", graph_task, graphs, receipts, progress, fits):
        pass
    paths = [str(run / "touching" / f"{name}-{made}.pairs") for name in names]
    units = {Path(path).stem: (job, part, path) for part, path in enumerate(paths)}
    for _ in executor.run("touching", touching_task, units, receipts, progress, file_is_there):
        pass
    return _gathered(paths)


def _gathered(paths: list[str]) -> Touching:
    """What all units found."""
    files = [Sections(path) for path in paths]
    columns = {
        each.name: np.concatenate([file.checked(each.name) for file in files]) for each in fields(Pairs)
    }
    blocks = tuple(partial(_features, path) for path in paths)
    slight = sum(int(file.checked("slight")[0]) for file in files)
    pairs = Pairs(**columns)
    return Touching(pairs, Features(TOUCHING, blocks), np.full(len(pairs), "contacts"), slight)


def _features(path: str) -> Float:
    return np.array(Sections(path)["features"])


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
    chosen = candidates_among(touches, solids, job.voxel_size)
    slight, touches = int((~chosen).sum()), touches.take(chosen)
    found = np.zeros((len(touches), len(TOUCHING)))
    for start in range(0, len(touches), _TOGETHER):
        some = touches.take(slice(start, start + _TOGETHER))  # type: ignore[arg-type]
        around = job.graph.around(np.concatenate([some.a, some.b]))
        found[start : start + _TOGETHER] = touching_features(around, some.a, some.b, job.voxel_size, job.box)
    pairs = pairs_of(touches, solids, job.head.probability(found), job.head.out_of_range(found))
    write_sections(Path(path), {**vars(pairs), "features": found, "slight": np.array([slight])})
    return {"path": path}


def pairs_of(touches: Touches, solids: Solids, p: Float, out_of_range: Bool) -> Pairs:
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
        p,
        out_of_range,
    )
