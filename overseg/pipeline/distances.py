"""Earth mover's distances of candidates: what the second stage and the published method read.

A unit of work is a batch of candidates; for each the box around its layers is read, as known from the tables,
so that no answer depends on where a chunk border lies. Distances are exact, or known to lie between bounds.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from overseg.kernels.emd_features import centred, layer_points
from overseg.kernels.sliced import sliced_bytes, sliced_distance
from overseg.kernels.tables import Candidates, Int, LayerTable
from overseg.kernels.transport import Points, can_be_solved, emd_between, emd_points
from overseg.model.features import FULL, MOMENTS, PAPER, distance_features, paper_features
from overseg.model.geoseg import GEOSEG, LAG, geoseg_features
from overseg.model.intervals import Interval, distance_intervals
from overseg.pipeline.boxes import HELD_BYTES, Reader, batched, tile_of
from overseg.pipeline.device import find_card
from overseg.pipeline.durable import write_atomically

if TYPE_CHECKING:
    from overseg.volume import Volume

Float = npt.NDArray[np.float64]
Box = tuple[slice, slice, slice]
Read = Callable[[Box], npt.NDArray[Any]]
Device = Literal["cuda", "cpu"]
Way = Literal["exact", "fast"] | Device
Pair = tuple[Points, Points]

#: Names of all features of a plan by the head of its second stage; the last `width_of` are distances.
NAMES = {"full": FULL, "paper": PAPER, "geoseg": GEOSEG}

#: Pairs of layers within a part that the second stage looks at, the nearest to the gap.
REACH = 4
ALL = 1 << 40

_BATCH_ROWS = 64
_BATCH_VOXELS = 1 << 26
_GROUP_VOXELS = 1 << 19  # of the masks that are held at a time


@dataclass(frozen=True)
class Look:
    """One candidate and where its layers lie.

    Attributes
    ----------
    a, b : int
        Upper and lower label; equal for a hole.
    z, gap : int
        Layer of a's face, and layers between the faces.
    box : tuple of int
        ``(z0, z1, y0, y1, x0, x1)``, half open, around all layers looked at.
    """

    a: int
    b: int
    z: int
    gap: int
    box: tuple[int, int, int, int, int, int]

    @property
    def voxels(self) -> int:
        """Size of the box."""
        z0, z1, y0, y1, x0, x1 = self.box
        return (z1 - z0) * (y1 - y0) * (x1 - x0)


def looks(candidates: Candidates, layers: LayerTable, rows: Int, reach: int) -> list[Look]:
    """Where to look for the distances of some candidates.

    Parameters
    ----------
    candidates : Candidates
    layers : LayerTable
    rows : ndarray of int64, shape (n,)
        Rows of `candidates`.
    reach : int
        Pairs of layers within a part, at the gap's lag; `ALL` for all layers.

    Returns
    -------
    list of Look
    """
    found = []
    at_a, at_b = layers.index(candidates.a[rows]), layers.index(candidates.b[rows])
    for row, a, b in zip(rows.tolist(), at_a.tolist(), at_b.tolist(), strict=True):
        z, gap = int(candidates.z[row]), int(candidates.gap[row])
        below, deep = z + gap + 1, gap + 1 + reach
        of_a = _rows(layers, a, z - deep + 1, z + 1)
        of_b = _rows(layers, b, below, below + deep)
        both = np.concatenate([of_a, of_b])
        box = (
            int(layers.z[of_a[0]]),
            int(layers.z[of_b[-1]]) + 1,
            int(layers.y0[both].min()),
            int(layers.y1[both].max()),
            int(layers.x0[both].min()),
            int(layers.x1[both].max()),
        )
        found.append(Look(int(candidates.a[row]), int(candidates.b[row]), z, gap, box))
    return found


def _rows(layers: LayerTable, label: int, z0: int, z1: int) -> Int:
    first, last = int(layers.start[label]), int(layers.start[label + 1])
    low, high = np.searchsorted(layers.z[first:last], [z0, z1])
    return np.arange(first + low, first + high)


def batches(wanted: Sequence[Look]) -> Iterator[tuple[Look, ...]]:
    """Batches of a sensible size for `distance_task`, in the order given."""
    return batched(wanted, _BATCH_ROWS, _BATCH_VOXELS)


def width_of(kind: str) -> int:
    """How many features come of distances."""
    return len(NAMES[kind]) - (len(MOMENTS) if kind == "full" else 0)


def peak_bytes(volume: Volume, batch: Sequence[Look], kind: str) -> int:
    """Memory that a task of these needs for its voxels and masks, at most."""
    size = volume.dtype.itemsize
    largest, together = max(look.voxels for look in batch), sum(look.voxels for look in batch)
    held = min(size * together, max(HELD_BYTES, size * largest))
    # A box is widened to 64 bits and compared; a mask's voxel is two numbers, listed, centred and sorted.
    masks = 17 * largest + 64 * (_GROUP_VOXELS + largest // 2)
    more = sliced_bytes(max(look.box[5] - look.box[4] for look in batch)) if kind == "geoseg" else 0
    return held + 3 * size * int(np.prod(tile_of(volume))) + masks + more


def distance_task(
    volume: Volume, batch: Sequence[Look], kind: str, path: str, t: int = 0, way: Way = "exact"
) -> dict[str, Any]:
    """Read the boxes of a batch and write its features; a unit of work that may be run again.

    Parameters
    ----------
    volume : Volume
        Only read.
    batch : sequence of Look
    kind : {"full", "paper", "geoseg"}
        Distance features of the second stage, or the published twelve, as written or as the authors' code
        has them.
    path : str
        ``.npy`` file of float64 to write, whole or not at all: those of `measured`.
    t : int
        Time point.
    way : {"exact", "fast", "cuda", "cpu"}
        See `measured`.

    Returns
    -------
    dict
        ``path``.
    """
    size = volume.voxel_size[1], volume.voxel_size[2]
    reader = Reader(volume, t, [(each.box[:2], each.box[2:4], each.box[4:]) for each in batch])

    def read(box: Box) -> npt.NDArray[np.uint64]:
        z, y, x = ((part.start, part.stop) for part in box)
        return reader.read(z, y, x)

    file = io.BytesIO()
    np.save(file, measured(read, batch, kind, size, way), allow_pickle=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), file.getvalue())
    return {"path": path}


def distance_rows(
    read: Read, batch: Sequence[Look], kind: str, size: tuple[float, float], way: Way = "exact"
) -> Float:
    """Distance features of some candidates without their bounds, shape (n, F); see `measured`."""
    rows: Float = measured(read, batch, kind, size, way)[0]
    return rows


def measured(
    read: Read, batch: Sequence[Look], kind: str, size: tuple[float, float], way: Way = "exact"
) -> Float:
    """Distance features of some candidates, each worked on by itself.

    Parameters
    ----------
    read : callable
        Gives the labels in a half-open box of slices (z, y, x).
    batch : sequence of Look
    kind : {"full", "paper", "geoseg"}
    size : tuple of float
        Voxel size (y, x); the published features do not use it.
    way : {"exact", "fast", "cuda", "cpu"}
        Of earth mover's distances. ``fast`` ones are within about 1%; ``cuda`` brackets them on a graphics
        card, and ``cpu`` does what the card would do. Bounds are certain in any case.

    Returns
    -------
    ndarray of float64, shape (3, n, F)
        Values, then bounds that the features of exact distances lie between; equal where they are exact.
        A row is NaN for ``full`` where a transport problem is too large to be solved, and for ``geoseg``
        where the authors' code passes a candidate over.

    Raises
    ------
    ResourceError
        If a problem of the published features is too large to be solved.
    """
    pixels = size if kind == "full" else (1.0, 1.0)
    asks, tells = _ASKS_AND_TELLS[kind]
    solve = _sliced if kind == "geoseg" else partial(_solved, size=pixels, way=way, refuse=kind == "paper")
    measure, rows = _Measure(solve), []
    for group in _groups(read, batch):
        asked = [asks(look, parts) for look, parts in group]
        measure.solve(pair for pairs in asked for pair in pairs)
        rows += [tells(*one, measure.of(pairs), pixels) for one, pairs in zip(group, asked, strict=True)]
    return np.array(rows, np.float64).reshape(len(batch), 3, width_of(kind)).transpose(1, 0, 2)


@dataclass(frozen=True)
class _Layer:
    """One label's voxels (y, x) in one layer."""

    label: int
    z: int
    points: Points

    def __len__(self) -> int:
        return len(self.points)


Parts = tuple[list[_Layer], list[_Layer]]
Asked = tuple[_Layer, _Layer, bool]
"""Two layers, and whether their centroids are to be laid on each other."""


def _groups(read: Read, batch: Sequence[Look]) -> Iterator[list[tuple[Look, Parts]]]:
    """Candidates with their layers, as many at a time as memory should hold."""
    group: list[tuple[Look, Parts]] = []
    held = 0
    for look in batch:
        parts = _parts(read, look)
        group.append((look, parts))
        held += sum(map(len, (*parts[0], *parts[1])))
        if held > _GROUP_VOXELS:
            yield group
            group, held = [], 0
    if group:
        yield group


def _parts(read: Read, look: Look) -> Parts:
    """Layers of both parts, from the face outwards; only the own side of the gap is looked at."""
    z0, z1, y0, y1, x0, x1 = look.box
    block = read((slice(z0, z1), slice(y0, y1), slice(x0, x1)))
    face, below = look.z - z0, look.z - z0 + look.gap + 1
    upper = layer_points(block[: face + 1], look.a, (y0, x0))
    lower = layer_points(block[below:], look.b, (y0, x0))
    above = [_Layer(look.a, z0 + i, points) for i, points in enumerate(upper)]
    return above[::-1], [_Layer(look.b, z0 + below + i, points) for i, points in enumerate(lower)]


class _Measure:
    """Distances between layers with bounds; each once, however many candidates ask for it."""

    def __init__(self, solved: Callable[[Sequence[Pair]], Float]) -> None:
        self._solved = solved
        self._known: dict[tuple[int, int, int, int, bool], Float] = {}

    def solve(self, asked: Iterable[Asked]) -> None:
        """Work out those that are not known yet, all at once."""
        new = {self._key(one): one for one in asked if self._key(one) not in self._known}
        pairs = [_laid(*one) for one in new.values()]
        self._known.update(zip(new, self._solved(pairs).T, strict=True))

    def of(self, asked: Sequence[Asked]) -> Float:
        """Values, lower and upper bounds of distances that are known, shape (3, n)."""
        return np.array([self._known[self._key(one)] for one in asked], np.float64).reshape(-1, 3).T

    @staticmethod
    def _key(asked: Asked) -> tuple[int, int, int, int, bool]:
        one, two, centre = asked
        (z, label), (other_z, other) = sorted([(one.z, one.label), (two.z, two.label)])
        return z, label, other_z, other, centre


def _laid(one: _Layer, two: _Layer, centre: bool) -> Pair:
    return centred(one.points, two.points) if centre else (one.points, two.points)


def _solved(pairs: Sequence[Pair], size: tuple[float, float], way: Way, refuse: bool) -> Float:
    """Distances, lower and upper bounds, shape (3, n); masks too large for it have NaN, or are refused."""
    out = np.full((3, len(pairs)), np.nan)
    rows = [i for i, (one, two) in enumerate(pairs) if refuse or can_be_solved(len(one), len(two))]
    if way == "cuda" and not find_card()["card"]:
        way = "fast"  # this worker has none, and the decisions are the same
    some = [pairs[i] for i in rows]
    if way in ("cuda", "cpu"):
        from overseg.kernels.brackets import brackets

        low, high = brackets(some, size, way)
        out[:, rows] = 0.5 * (low + high), low, high
    elif way == "fast":
        out[:, rows] = np.array([emd_between(*pair, size) for pair in some]).reshape(-1, 3).T
    else:
        out[:, rows] = [emd_points(*pair, size) for pair in some]
    return out


def _sliced(pairs: Sequence[Pair]) -> Float:
    """Distances of the authors' code, three times; shape (3, n)."""
    return np.tile(np.array([sliced_distance(*pair) for pair in pairs], np.float64), (3, 1))


def _within(part: list[_Layer], lag: int) -> list[tuple[_Layer, _Layer]]:
    return [(p, q) for p, q in zip(part, part[lag:], strict=False) if len(p) and len(q)][:REACH]


def _of_change(look: Look, parts: Parts) -> list[Asked]:
    """What the second stage asks for: through the gap, within either part; all plain, then all centred."""
    upper, lower = parts
    pairs = [(upper[0], lower[0]), *_within(upper, look.gap + 1), *_within(lower, look.gap + 1)]
    return [(*pair, centre) for centre in (False, True) for pair in pairs]


def _second_stage(look: Look, parts: Parts, found: Float, size: tuple[float, float]) -> Float:
    """Features of one candidate and their bounds, shape (3, F); `found` as `_of_change` asked."""
    area = 0.5 * (len(parts[0][0]) + len(parts[1][0]))
    values = found.reshape(3, 2, -1) / math.sqrt(area * size[0] * size[1] / math.pi)
    cut = 1 + len(_within(parts[0], look.gap + 1))
    through, one, two = values[:, :, 0], values[:, :, 1:cut], values[:, :, cut:]
    if not np.isfinite(values).all():
        return np.full((3, len(FULL) - len(MOMENTS)), np.nan)
    row = distance_features(through[0], one[0], two[0])
    if np.array_equal(found[1], found[2]):
        return np.stack([row, row, row])
    between = distance_intervals(*(Interval(each[1], each[2]) for each in (through, one, two)))
    return np.stack([row, between.low, between.high])


def _of_profile(look: Look, parts: Parts) -> list[Asked]:
    """What the published method asks for: through the gap, then between layers of either part."""
    a, b = ([layer for layer in part if len(layer)] for part in parts)
    return [(p, q, False) for p, q in [(a[0], b[0]), *pairwise(a), *pairwise(b)]]


def _published(look: Look, parts: Parts, found: Float, size: tuple[float, float]) -> Float:
    """The published twelve of one candidate, three times, for they are exact; lengths in pixels."""
    a, b = ([layer for layer in part if len(layer)] for part in parts)
    areas = np.array([len(layer) for layer in [*a[::-1], *b]], np.float64)
    within = [found[0, 1 : len(a)], found[0, len(a) :]]
    if look.a > look.b:
        within, areas = within[::-1], areas[::-1]
    row = paper_features(found[0, 0], within[0], within[1], areas)
    return np.stack([row, row, row])


def _of_released(look: Look, parts: Parts) -> list[Asked]:
    """What the authors' code asks for: through the gap, then two layers apart in either part."""
    within = (pair for part in parts for pair in zip(part, part[LAG:], strict=False))
    pairs = [(parts[0][0], parts[1][0]), *within]
    return [(p, q, False) for p, q in pairs if len(p) and len(q)]


def _released(look: Look, parts: Parts, found: Float, size: tuple[float, float]) -> Float:
    """The twelve of the authors' code, three times; NaN for a cell with a hole in z, where it has none."""
    upper, lower = parts
    if not all(map(len, (*upper, *lower))):
        return np.full((3, len(GEOSEG)), np.nan)
    cut = 1 + max(0, len(upper) - LAG)
    joined = [layer.points[:, 0] << 32 | layer.points[:, 1] for layer in (*upper[::-1], *lower)]
    overlaps = [len(np.intersect1d(p, q, assume_unique=True)) for p, q in pairwise(joined)]
    row = geoseg_features(found[0, 0], found[0, 1:cut], found[0, cut:], overlaps)
    return np.stack([row, row, row])


_ASKS_AND_TELLS = {
    "full": (_of_change, _second_stage),
    "paper": (_of_profile, _published),
    "geoseg": (_of_released, _released),
}
