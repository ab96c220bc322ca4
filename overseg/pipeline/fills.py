"""Fills: the voxels that restored masks take, found candidate by candidate and settled between them.

A task restores the masks of a batch of accepted candidates and writes its claims to one file;
`settle` then decides who gets a voxel that two claim. Claims come from the original volume alone, so that
neither batches nor their order can change them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overseg.kernels.contours import Method
from overseg.kernels.fill import FREE, NOISE, SWALLOWED, Fill, restore, runs
from overseg.kernels.tables import Candidates, Int, Labels, Layers
from overseg.pipeline.boxes import HELD_BYTES, Box, Reader, along_a_curve, tile_of, tiles
from overseg.pipeline.decide import FILL, MERGE, Verdicts
from overseg.pipeline.settle import Claims, concatenate, write_claims
from overseg.pipeline.unread import may_take

if TYPE_CHECKING:
    from overseg.volume import Volume

# Work is counted in decoded voxels: a voxel of a box and the start of a read are as good as so many.
_A_VOXEL, _A_READ = 32, 1 << 16
_BATCH_WORK = 1 << 28  # some hundred chunks, about a quarter of a second
_BATCH_VOXELS = 1 << 21  # of boxes: what waits to be written is to stay small
_LOOKED_UP = 1 << 11  # gaps whose labels are looked up at a time


@dataclass(frozen=True)
class Wanted:
    """One gap to be filled.

    Attributes
    ----------
    row : int
        Which candidate.
    a, b : int
        Labels of the faces; equal for a hole.
    z, gap : int
        Layer of a's face, and layers between the faces.
    root : int
        The label that taken voxels get.
    own : tuple of int
        The labels that become `root` and may be met in the gap.
    noise : tuple of int
        Labels in the gap that are absorbed.
    box : tuple of int
        ``y0, y1, x0, x1`` of both faces, half open.
    """

    row: int
    a: int
    b: int
    z: int
    gap: int
    root: int
    own: tuple[int, ...]
    noise: tuple[int, ...]
    box: tuple[int, int, int, int]


def wanted_fills(
    candidates: Candidates, verdicts: Verdicts, layers: Layers, cut: Sequence[int] = ()
) -> list[Wanted]:
    """The gaps of all accepted candidates, with what a task needs to know of them.

    Parameters
    ----------
    candidates : Candidates
    verdicts : Verdicts
        Of the same rows.
    layers : Layers
    cut : sequence of int
        Labels cut by the region's border: they may be more than noise, so none is absorbed.

    Returns
    -------
    list of Wanted
        In the order of the candidates.
    """
    groups = _groups(verdicts, layers)
    rows, a, b, z, gap = _gaps(candidates, verdicts, layers)
    boxes = _boxes(a, b, z, gap, layers).tolist()
    places = zip(a.tolist(), b.tolist(), z.tolist(), gap.tolist(), strict=True)
    found, spared = [], set(cut)
    for row, place, root, box in zip(rows, places, verdicts.root(a).tolist(), boxes, strict=True):
        top, bottom = place[2], place[2] + place[3]
        inside = [label for label, first, last in groups.get(root, ()) if first <= bottom and last > top]
        own = tuple(sorted({*inside, *place[:2]}))
        noise = tuple(sorted({label for each in row for label in candidates.noise[each]} - spared))
        found.append(Wanted(row[0], *place, root, own, noise, tuple(box)))
    return found


def _boxes(a: Labels, b: Labels, z: Int, gap: Int, layers: Layers) -> Int:
    """``y0, y1, x0, x1`` of both faces of every gap."""
    found = np.empty((len(a), 4), np.int64)
    for start in range(0, len(a), _LOOKED_UP):
        some = slice(start, start + _LOOKED_UP)
        rows = layers.take(np.concatenate([a[some], b[some]]))
        above, below = rows.row(a[some], z[some]), rows.row(b[some], (z + gap + 1)[some])
        sides = (np.minimum, rows.y0), (np.maximum, rows.y1), (np.minimum, rows.x0), (np.maximum, rows.x1)
        for k, (how, side) in enumerate(sides):
            found[some, k] = how(side[above], side[below])
    return found


def _groups(verdicts: Verdicts, layers: Layers) -> dict[int, list[tuple[int, int, int]]]:
    """Members of every merged group by its root, with their first and last layers."""
    labels = np.concatenate([verdicts.old, np.unique(verdicts.new)])
    roots = np.concatenate([verdicts.new, np.unique(verdicts.new)])
    facts = layers.facts(labels)
    at = facts.index(labels)
    first, last = facts.first[at], facts.last[at]
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for root, *member in zip(*(part.tolist() for part in (roots, labels, first, last)), strict=True):
        groups.setdefault(root, []).append((member[0], member[1], member[2]))
    return groups


def _gaps(
    candidates: Candidates, verdicts: Verdicts, layers: Layers
) -> tuple[list[tuple[int, ...]], Labels, Labels, Int, Int]:
    """Accepted gaps: the candidates that make each, labels, layer and width.

    Two links A-X, X-B with a label X that is thin enough to lie in a gap are one gap from A to B: X may be a
    part of the missing masks. A row of thin labels too long for one gap is left as it is.
    """
    max_gap = layers.lags - 1
    links = np.flatnonzero(np.isin(verdicts.decision, (MERGE, FILL)))
    a, b, z, gap = (getattr(candidates, name)[links].tolist() for name in ("a", "b", "z", "gap"))
    facts = layers.facts(candidates.b[links])
    at = facts.index(candidates.b[links])
    first, last = facts.first[at], facts.last[at]
    from_face = {(a[i], z[i]): i for i in range(len(links)) if a[i] != b[i]}
    after: dict[int, int] = {}
    for i in range(len(links)):
        thin = last[i] - first[i] < max_gap and first[i] == z[i] + gap[i] + 1
        following = from_face.get((b[i], int(last[i])))
        if thin and a[i] != b[i] and following is not None:
            after[i] = following
    inner = set(after.values())
    chains: list[tuple[int, ...]] = []
    for head in (i for i in range(len(links)) if i not in inner):
        chain = [head]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        tail = chain[-1]
        width = z[tail] + gap[tail] - z[head]
        chains += [tuple(chain)] if width <= max_gap else [(i,) for i in chain]
    chains = [chain for chain in chains if z[chain[-1]] + gap[chain[-1]] > z[chain[0]]]
    heads, tails = ([chain[end] for chain in chains] for end in (0, -1))
    top = np.array([z[i] for i in heads], np.int64)
    width_of = np.array([z[i] + gap[i] for i in tails], np.int64) - top
    names_a = np.array([a[i] for i in heads], np.uint64)
    names_b = np.array([b[i] for i in tails], np.uint64)
    rows = [tuple(int(links[i]) for i in chain) for chain in chains]
    return rows, names_a, names_b, top, width_of


def fill_batches(volume: Volume, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, ...]]:
    """Batches of a sensible size for `fill_task`, each of neighbours: few chunks are decoded twice."""
    tile, limits = tile_of(volume), _limits(volume)
    a_tile = _A_READ + int(np.prod(tile))
    boxes = np.array([_box(each, limits) for each in wanted], np.int64).reshape(-1, 3, 2)
    order = along_a_curve(boxes.sum(axis=2) // 2 // tile, _bends(boxes, tile))
    batch: list[Wanted] = []
    seen: set[tuple[int, ...]] = set()
    work = voxels = 0
    for row in order.tolist():
        each, touched = wanted[row], set(tiles(boxes[row].tolist(), tile))
        own = _voxels(each)
        more = _A_VOXEL * own + a_tile * len(touched - seen)
        if batch and (work + more > _BATCH_WORK or voxels + own > _BATCH_VOXELS):
            yield tuple(batch)
            batch, seen, work, voxels = [], set(), 0, 0
            more = _A_VOXEL * own + a_tile * len(touched)
        batch.append(each)
        seen |= touched
        work, voxels = work + more, voxels + own
    if batch:
        yield tuple(batch)


def _bends(boxes: Int, tile: tuple[int, ...]) -> list[int]:
    """For `along_a_curve`: it is to turn late along an axis where boxes seldom reach into the next chunk."""
    if not len(boxes):
        return [0, 0, 0]
    crossed = np.median(boxes[:, :, 1] - boxes[:, :, 0], axis=0) / tile
    bends: list[int] = np.log2(crossed.max() / crossed).round().astype(int).tolist()
    return bends


def fill_task(
    volume: Volume,
    wanted: Sequence[Wanted],
    background: tuple[int, ...],
    fill: Fill,
    path: str,
    t: int = 0,
    bounds: Box | None = None,
    method: Method = "distance",
    kept: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Restore the masks of a batch and write what they claim; a unit of work that may be run again.

    Parameters
    ----------
    volume : Volume
        Only read.
    wanted : sequence of Wanted
    background : tuple of int
        Labels that are no cells.
    fill : {"all", "free", "none"}
        Which voxels may be taken.
    path : str
        File to write, whole or not at all; see `overseg.pipeline.settle.Claims`.
    t : int
        Time point.
    bounds : tuple of (int, int), optional
        Half-open ranges (z, y, x) to stay in; the volume when not given.
    method : {"distance", "contour"}
        How masks are interpolated.
    kept : tuple of int
        Labels of which no voxel is taken.

    Returns
    -------
    dict
        ``path``; ``fills``, ``empty``: gaps, and those in which no voxel could be taken; ``free``, ``noise``,
        ``swallowed``: voxels claimed.
    """
    limits = bounds or _limits(volume)
    reader = Reader(volume, t, [_box(each, limits) for each in wanted])
    counts = dict.fromkeys(("free", "noise", "swallowed"), 0)
    found, empty = [], 0
    for each in wanted:
        claims, by_reason = _claim(reader, volume, each, background, fill, t, limits, method, kept)
        found.append(claims)
        empty += not any(by_reason)
        for name, count in zip(counts, by_reason, strict=True):
            counts[name] += count
    write_claims(Path(path), concatenate(found))
    return {"path": path, "fills": len(wanted), "empty": empty, **counts}


def peak_bytes(volume: Volume, wanted: Sequence[Wanted]) -> int:
    """Memory that a task of these needs for its voxels, at most."""
    size = volume.dtype.itemsize
    sizes = [_voxels(each) for each in wanted]
    largest, together = max(sizes, default=0), sum(sizes)
    held = min(size * together, max(HELD_BYTES, size * largest))
    # A chunk is stored, decoded and cut at a time; a box is worked on at a time; claims wait to be written.
    return held + 3 * size * int(np.prod(tile_of(volume))) + 64 * largest + 16 * together


def _voxels(each: Wanted) -> int:
    y0, y1, x0, x1 = each.box
    return 4 * (each.gap + 4) * (y1 - y0 + 3) * (x1 - x0 + 3)


def _limits(volume: Volume) -> Box:
    z, y, x = volume.shape
    return (0, z), (0, y), (0, x)


def _box(each: Wanted, limits: Box) -> Box:
    # With one layer beyond either face.
    y0, y1, x0, x1 = each.box
    z0, z1 = max(each.z - 1, limits[0][0]), min(each.z + each.gap + 3, limits[0][1])
    return (z0, z1), _widened(y0, y1, limits[1]), _widened(x0, x1, limits[2])


def _claim(
    reader: Reader,
    volume: Volume,
    each: Wanted,
    background: tuple[int, ...],
    fill: Fill,
    t: int,
    limits: Box,
    method: Method,
    kept: tuple[int, ...],
) -> tuple[Claims, list[int]]:
    z, y, x = _box(each, limits)
    box = reader.read(z, y, x)
    top = each.z - z[0]
    restored = restore(
        box,
        each.a,
        each.b,
        own=each.own,
        noise=each.noise,
        background=background,
        fill=fill,
        # A region's border is no wall: what looks like a hole may go on beyond it.
        open_edges=(y[0] == 0, y[1] == reader.shape[1], x[0] == 0, x[1] == reader.shape[2]),
        beyond=(top > 0, z[1] > each.z + each.gap + 2),
        method=method,
    )
    inner = box[top + 1 : top + 1 + each.gap]
    free = may_take(volume, t, ((each.z + 1, each.z + 1 + each.gap), y, x), inner, np.array(kept, np.uint64))
    if free is not None:
        restored.take[~free] = 0
    where = runs(inner, restored.take)
    layer, row, start, stop = where.T
    n = len(where)
    taken = restored.take > 0
    claims = Claims(
        t=np.full(n, t, np.int64),
        candidate=np.full(n, each.row, np.int64),
        z=layer + each.z + 1,
        y=row + y[0],
        x0=start + x[0],
        x1=stop + x[0],
        new=np.full(n, each.root, np.uint64),
        old=inner[layer, row, start],
        why=restored.take[layer, row, start],
        depth=restored.depth[taken],  # runs and voxels are both in C order
    )
    return claims, [int((restored.take == why).sum()) for why in (FREE, NOISE, SWALLOWED)]


def _widened(start: int, stop: int, limit: tuple[int, int]) -> tuple[int, int]:
    # Half a cell around: enough to see what bounds a hole, and how much a neighbour has grown.
    margin = (stop - start) // 2 + 3
    return max(start - margin, limit[0]), min(stop + margin, limit[1])
