"""Exact earth mover's distances of candidates: what the second stage and the published method read.

A unit of work is a batch of candidates; for each the box around its layers is read, as known from the tables,
so that no answer depends on where a chunk border lies.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.errors import ResourceError
from overseg.kernels.emd_features import layer_points, mask_distance
from overseg.kernels.tables import Candidates, Int, LayerTable
from overseg.kernels.transport import Points
from overseg.model.features import FULL, MOMENTS, PAPER, distance_features, paper_features
from overseg.pipeline.boxes import Reader
from overseg.pipeline.planfile import write_atomically

if TYPE_CHECKING:
    from overseg.volume import Volume

Float = npt.NDArray[np.float64]
Box = tuple[slice, slice, slice]
Read = Callable[[Box], npt.NDArray[Any]]

#: Pairs of layers within a part that the second stage looks at, the nearest to the gap.
REACH = 4
ALL = 1 << 40
#: Masks above so many voxels are thinned to every 2nd, 3rd, ... row and column for the second stage.
MOST_VOXELS = 1024

_BATCH_ROWS = 64
_BATCH_VOXELS = 1 << 26


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
    batch: list[Look] = []
    voxels = 0
    for look in wanted:
        if batch and (len(batch) == _BATCH_ROWS or voxels + look.voxels > _BATCH_VOXELS):
            yield tuple(batch)
            batch, voxels = [], 0
        batch.append(look)
        voxels += look.voxels
    if batch:
        yield tuple(batch)


def distance_task(volume: Volume, batch: Sequence[Look], kind: str, path: str, t: int = 0) -> dict[str, Any]:
    """Read the boxes of a batch and write its features; a unit of work that may be run again.

    Parameters
    ----------
    volume : Volume
        Only read.
    batch : sequence of Look
    kind : {"full", "paper"}
        Distance features of the second stage, or the published twelve.
    path : str
        ``.npy`` file of float64 to write, whole or not at all: one row per look.
    t : int
        Time point.

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

    rows = distance_rows(read, batch, kind, size)
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), file.getvalue())
    return {"path": path}


def distance_rows(read: Read, batch: Sequence[Look], kind: str, size: tuple[float, float]) -> Float:
    """Distance features of some candidates, each worked on by itself.

    Parameters
    ----------
    read : callable
        Gives the labels in a half-open box of slices (z, y, x).
    batch : sequence of Look
    kind : {"full", "paper"}
    size : tuple of float
        Voxel size (y, x); the published features do not use it.

    Returns
    -------
    ndarray of float64, shape (n, F)
        For ``full`` a row is NaN where a transport problem is too large to be solved.
    """
    width = len(PAPER) if kind == "paper" else len(FULL) - len(MOMENTS)
    out = np.empty((len(batch), width))
    measure = _Measure((1.0, 1.0), None) if kind == "paper" else _Measure(size, MOST_VOXELS)
    for i, look in enumerate(batch):
        parts = _parts(read, look)
        if kind == "paper":
            out[i] = _published(look, *parts, measure)
            continue
        try:
            out[i] = _second_stage(look.gap + 1, *parts, measure)
        except ResourceError:
            out[i] = np.nan
    return out


@dataclass(frozen=True)
class _Layer:
    """One label's voxels (y, x) in one layer."""

    label: int
    z: int
    points: Points

    def __len__(self) -> int:
        return len(self.points)


def _parts(read: Read, look: Look) -> tuple[list[_Layer], list[_Layer]]:
    """Layers of both parts, from the face outwards; only the own side of the gap is looked at."""
    z0, z1, y0, y1, x0, x1 = look.box
    block = read((slice(z0, z1), slice(y0, y1), slice(x0, x1)))
    face, below = look.z - z0, look.z - z0 + look.gap + 1
    upper = layer_points(block[: face + 1], look.a, (y0, x0))
    lower = layer_points(block[below:], look.b, (y0, x0))
    above = [_Layer(look.a, z0 + i, points) for i, points in enumerate(upper)]
    return above[::-1], [_Layer(look.b, z0 + below + i, points) for i, points in enumerate(lower)]


class _Measure:
    """Distances between layers; those within a cell once, however many candidates it is in."""

    def __init__(self, size: tuple[float, float], most: int | None) -> None:
        self._size, self._most = size, most
        self._known: dict[tuple[int, int, int, bool], float] = {}

    def __call__(self, one: _Layer, two: _Layer, centre: bool = False) -> float:
        key = one.label, min(one.z, two.z), max(one.z, two.z), centre
        if one.label != two.label:
            return self._solve(one, two, centre)
        if key not in self._known:
            self._known[key] = self._solve(one, two, centre)
        return self._known[key]

    def radius(self, voxels: float) -> float:
        """Of a disc as large as so many voxels."""
        return math.sqrt(voxels * self._size[0] * self._size[1] / math.pi)

    def _solve(self, one: _Layer, two: _Layer, centre: bool) -> float:
        pair = one.points, two.points
        return mask_distance(
            *(pair if self._most is None else _thinned(*pair, self._most)), self._size, centre
        )


def _second_stage(lag: int, upper: list[_Layer], lower: list[_Layer], measure: _Measure) -> Float:
    """Distances through the gap and within the parts, over the radius."""
    radius = measure.radius(0.5 * (len(upper[0]) + len(lower[0])))

    def both(one: _Layer, two: _Layer) -> tuple[float, float]:
        return measure(one, two) / radius, measure(one, two, centre=True) / radius

    def within(part: list[_Layer]) -> Float:
        pairs = [(p, q) for p, q in zip(part, part[lag:], strict=False) if len(p) and len(q)]
        return np.array([both(p, q) for p, q in pairs[:REACH]], np.float64).reshape(-1, 2).T

    return distance_features(np.array(both(upper[0], lower[0])), within(upper), within(lower))


def _published(look: Look, upper: list[_Layer], lower: list[_Layer], measure: _Measure) -> Float:
    a, b = ([layer for layer in part if len(layer)] for part in (upper, lower))
    areas = np.array([len(layer) for layer in [*a[::-1], *b]], np.float64)
    within = [np.array([measure(p, q) for p, q in pairwise(part)]) for part in (a, b)]
    if look.a > look.b:
        within, areas = within[::-1], areas[::-1]
    return paper_features(measure(a[0], b[0]), within[0], within[1], areas)


def _thinned(one: Points, two: Points, most: int) -> tuple[Points, Points]:
    """Every s-th row and column of two masks, for the least s that leaves few enough voxels."""
    step = math.isqrt((max(len(one), len(two)) - 1) // most) + 1
    if step == 1:
        return one, two
    parts = []
    for points in (one, two):
        kept = points[(points % step == 0).all(axis=1)]
        parts.append(kept if len(kept) else points[:1])
    return parts[0], parts[1]
