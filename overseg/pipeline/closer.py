"""The second look at touching labels: pairs that the tables leave open, re-sliced across their contact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.cluster.receipts import file_is_there
from overseg.kernels.bodies import patches
from overseg.kernels.groups import Groups
from overseg.kernels.solids import Solids, Touches
from overseg.kernels.tables import Int, Labels
from overseg.pipeline.across import Across, Kind, across_box, across_task, batches, peak_bytes
from overseg.pipeline.boxes import along_a_curve, tile_of
from overseg.pipeline.halves import halving, paths_in_order
from overseg.pipeline.plandata import Fills

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.volume import Volume

Float = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]

#: How far is looked along the normal and beside it, over the contact's equivalent radius, and in spacings.
_DEPTH, _RADIUS = (0.55, 2.0), (1.6, 4.0)
_LEAST_FLAT = 0.2  # of the contact's area counts at least as flat: one that is wrapped around has no normal


def sights(
    touches: Touches,
    solids: Solids,
    voxel_size: tuple[float, float, float],
    shape: tuple[int, int, int],
    whole: bool = False,
) -> Float:
    """Where to look at pairs of touching labels: one row of numbers each, for `looks`.

    Parameters
    ----------
    touches : Touches
    solids : Solids
        Holds both labels of each.
    voxel_size : tuple of float
        (z, y, x).
    shape : tuple of int
        Of the volume.
    whole : bool
        Look at all of both cells, as the published method does, not only around the contact.

    Returns
    -------
    ndarray of float64, shape (n, 14)
        Half-open box (6 columns, whole numbers), a point of the plane, its unit normal from a to b, how far
        to look along it and beside it; lengths in physical units.
    """
    one, two = solids.index(touches.a), solids.index(touches.b)
    surface = patches(touches, solids.box[one][:, ::2], voxel_size)
    flat = np.sqrt((surface.vector * surface.vector).sum(axis=1))
    normal = np.where(flat[:, None] > 0, surface.vector / np.maximum(flat, 1e-300)[:, None], [1.0, 0.0, 0.0])
    reach = np.sqrt(np.maximum(flat, _LEAST_FLAT * surface.area) / np.pi)
    step = min(voxel_size)
    depth, radius = (part * reach + more * step for part, more in (_DEPTH, _RADIUS))
    if whole:
        low, high = np.minimum(solids.box[one], solids.box[two]), np.maximum(solids.box[one], solids.box[two])
        depth = radius = np.linalg.norm((high[:, 1::2] - low[:, ::2]) * np.array(voxel_size), axis=1)
    out = np.empty((len(touches), 14))
    for i in range(len(touches)):
        point, along = tuple(surface.mean[i].tolist()), tuple(normal[i].tolist())
        boxes = solids.box[one[i]].tolist(), solids.box[two[i]].tolist()
        out[i, :6] = across_box(*boxes, point, along, float(depth[i]), float(radius[i]), voxel_size, shape)
    out[:, 6:9], out[:, 9:12], out[:, 12], out[:, 13] = surface.mean, normal, depth, radius
    return out


def looks(a: Labels, b: Labels, rows: Float, groups: Groups, fills: Fills) -> Iterator[Across]:
    """What `across_task` is told of each pair.

    Parameters
    ----------
    a, b : ndarray of uint64, shape (n,)
        Labels after the merges before.
    rows : ndarray of float64, shape (n, 14)
        Of `sights`.
    groups : Groups
        The merges before.
    fills : Fills
        Voxels that were given to groups.
    """
    root = groups.root(fills.new)
    order = np.argsort(root, kind="stable")
    names, first = np.unique(root[order], return_index=True)
    of = {name: rows.tolist() for name, rows in zip(names.tolist(), np.split(order, first[1:]), strict=False)}
    members: dict[int, list[int]] = {}
    for old, new in zip(groups.old.tolist(), groups.new.tolist(), strict=True):
        members.setdefault(new, [new]).append(old)
    for one, two, row in zip(a.tolist(), b.tolist(), rows, strict=True):
        box = tuple(int(each) for each in row[:6])
        runs = [
            run
            for side, label in enumerate((one, two))
            for run in _runs(fills, np.array(of.get(label, ()), np.int64), box, side)
        ]
        sides = [tuple(sorted(members.get(label, [label]))) for label in (one, two)]
        numbers = row[6:].tolist()
        point, normal = tuple(numbers[:3]), tuple(numbers[3:6])
        yield Across(sides[0], sides[1], box, point, normal, numbers[6], numbers[7], tuple(runs))  # type: ignore[arg-type]


def _runs(fills: Fills, rows: Int, box: tuple[int, ...], side: int) -> list[tuple[int, int, int, int, int]]:
    """Some runs of voxels as far as they lie in a box."""
    z0, z1, y0, y1, x0, x1 = box
    z, y, start, stop = (column[rows] for column in (fills.z, fills.y, fills.x0, fills.x1))
    here = (z >= z0) & (z < z1) & (y >= y0) & (y < y1) & (stop > x0) & (start < x1)
    start, stop = np.maximum(start, x0), np.minimum(stop, x1)
    found = zip(*(column[here].tolist() for column in (z, y, start, stop)), strict=True)
    return [(*run, side) for run in found]


def measured(
    volume: Volume,
    t: int,
    wanted: Sequence[Across],
    kind: Kind,
    mark: str,
    executor: Executor,
    run: Path,
    progress: Progress | None = None,
) -> Float:
    """Features of pairs across their contact, read and worked out batch by batch.

    Parameters
    ----------
    volume : Volume
        Only read.
    t : int
        Time point.
    wanted : sequence of Across
    kind : {"tilted", "paper"}
    mark : str
        Of the volume's labels: what an earlier run left is used where it is the same.
    executor, run, progress
        As in `overseg.pipeline.plan.make_plan`.

    Returns
    -------
    ndarray of float64, shape (n, F)
    """
    boxes = np.array([look.box for look in wanted], np.int64).reshape(-1, 3, 2)
    # Neighbours together, so that a chunk is decoded for many pairs at once.
    order = along_a_curve(boxes.sum(axis=2) // 2 // np.array(tile_of(volume)))
    units = {}
    for batch in batches([wanted[i] for i in order.tolist()]):
        facts: list[Any] = [mark, t, kind, list(volume.voxel_size), [asdict(look) for look in batch]]
        name = f"t{t}-{kind}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}"
        units[name] = (volume, batch, kind, str(run / "across" / f"{name}.npy"), t)
        need = peak_bytes(volume, batch, kind)
        executor.check_room(need, "looking across the largest contact", volume.location)
    halve = halving(path=3)
    done = dict(
        executor.run("across", across_task, units, run / "receipts", progress, file_is_there, halve=halve)
    )
    found = np.concatenate([np.load(path, allow_pickle=False) for path in paths_in_order(units, done)])
    out = np.empty_like(found)
    out[order] = found
    return out
