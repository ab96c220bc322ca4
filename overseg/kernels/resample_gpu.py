"""`reslice` and the measures of `crosscut` for many pairs at once, on a graphics card or on the CPU.

Distance fields are made on the processor; what is dense, sampling and sums over points, goes to the device in
batches. Numbers are those of the kernels but for the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from overseg.kernels.crosscut import FLAT, REACHES, Groove, groove_of
from overseg.kernels.resample import (
    CLOSED,
    Faces,
    Float,
    Labels,
    Sections,
    Size,
    grid_shape,
    pair_fields,
    plane_axes,
)

Tensor = Any
Place = tuple[float, float, float]

MEMORY = 2**31
"""Bytes on the device that a batch may take, unless told otherwise."""

POINT_BYTES = 256
"""What sampling a point takes at its peak."""

BUCKET = 1.25
"""Pairs in one batch differ in their radius by no more than this factor."""


@dataclass(frozen=True)
class Cut:
    """What `reslice` takes; see there."""

    box: Labels
    a: int
    b: int
    voxel_size: Size
    point: Place | Float
    normal: Place | Float
    depth: float
    radius: float
    goes_on: Faces = CLOSED

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, rows and columns of the result."""
        return grid_shape(self.depth, self.radius, min(self.voxel_size))


@dataclass(frozen=True)
class Measures:
    """What `areas`, `overlaps` and `groove` give for one pair."""

    areas: Float
    overlaps: Float
    groove: Groove


def reslice_on(device: str, cuts: Sequence[Cut], memory: int = MEMORY) -> list[Sections]:
    """Sections of many pairs, as of `overseg.kernels.resample.reslice`.

    Parameters
    ----------
    device : str
        Of torch: "cuda", "cpu".
    cuts : sequence of Cut
    memory : int
        Bytes that a batch may take on the device. A pair that alone takes more is a batch of its own.

    Returns
    -------
    list of Sections
        In the order given.

    Raises
    ------
    InputError
        As `reslice` does.
    """
    found: dict[int, Sections] = {}
    for numbers in _batches(cuts, memory):
        batch = [cuts[k] for k in numbers]
        inside, side, spacing = _sampled(batch, device)
        _, zeros = _crossings(inside, side)
        whole = inside.shape[2]
        for row, (k, cut) in enumerate(zip(numbers, batch, strict=True)):
            edge = (whole - cut.shape[1]) // 2
            own = row, slice(None), slice(edge, whole - edge), slice(edge, whole - edge)
            fields = inside[own].cpu().numpy(), side[own].cpu().numpy()
            found[k] = Sections(*fields, float(spacing[row]), float(zeros[row]))
    return [found[k] for k in range(len(cuts))]


def measures_on(device: str, cuts: Sequence[Cut], lag: int = 1, memory: int = MEMORY) -> list[Measures]:
    """Areas, overlaps and grooves of many pairs, without the sections leaving the device.

    Parameters
    ----------
    device, cuts, memory
        As for `reslice_on`, which also tells what is raised.
    lag : int
        As for `overseg.kernels.crosscut.overlaps`.

    Returns
    -------
    list of Measures
        In the order given.
    """
    found: dict[int, Measures] = {}
    for numbers in _batches(cuts, memory):
        inside, side, spacing = _sampled([cuts[k] for k in numbers], device)
        columns, zeros = _crossings(inside, side)
        radius = spacing * (columns / math.pi).sqrt()
        rims = [_rim(inside, side, spacing, reach * radius / spacing) for reach in REACHES]
        sums = _areas(inside, side, spacing), _overlaps(inside, spacing, lag), torch.stack(rims, 1)
        areas, overlaps, rim = (part.cpu().numpy() for part in sums)
        flat = zip(zeros.tolist(), spacing.tolist(), radius.tolist(), strict=True)
        for row, (k, numerals) in enumerate(zip(numbers, flat, strict=True)):
            found[k] = Measures(areas[row], overlaps[row], groove_of(areas[row, 0], *numerals, rim[row]))
    return [found[k] for k in range(len(cuts))]


# ------------------------------------------------------------------ batches and sampling


def _batches(cuts: Sequence[Cut], memory: int) -> Iterator[list[int]]:
    """Numbers of pairs with as many layers and about as many rows, so many that they fit the memory."""
    buckets: dict[tuple[int, int], list[int]] = {}
    for k, cut in enumerate(cuts):
        layers, rows, _ = cut.shape
        buckets.setdefault((layers, math.ceil(math.log(rows, BUCKET))), []).append(k)
    for numbers in buckets.values():
        layers, rows = cuts[numbers[0]].shape[0], max(cuts[k].shape[1] for k in numbers)
        voxels = max(cuts[k].box.size for k in numbers)
        step = max(1, memory // (POINT_BYTES * layers * rows * rows + 8 * voxels))
        yield from (numbers[k : k + step] for k in range(0, len(numbers), step))


def _sampled(cuts: Sequence[Cut], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """`inside` and `side`, (pairs, layers, rows, columns), and the spacing of each pair.

    Rows and columns are those of the largest; outside a pair's own, nothing is inside.
    """
    fields = [pair_fields(c.box, c.a, c.b, c.voxel_size, c.goes_on) for c in cuts]
    flat = [torch.from_numpy(np.concatenate([f[k].ravel() for f in fields])).to(device) for k in range(2)]
    start = np.cumsum([0] + [c.box.size for c in cuts[:-1]])
    halves, half = [c.shape[1] // 2 for c in cuts], max(c.shape[1] // 2 for c in cuts)

    def column(values: Any, dtype: Any = torch.float64) -> Tensor:
        """One number for each pair, to go with its points."""
        return torch.as_tensor(np.array(values), dtype=dtype, device=device)[:, None, None, None]

    spacing = column([min(c.voxel_size) for c in cuts])
    across = torch.arange(-half, half + 1, device=device)
    i = torch.arange(cuts[0].shape[0], device=device)[:, None, None] - cuts[0].shape[0] // 2
    p, q, r = i * spacing, across[:, None] * spacing, across * spacing
    axes = np.array([plane_axes(c.normal) for c in cuts])
    places = []
    for k in range(3):
        n, u, v = (column(axes[:, row, k]) for row in range(3))
        places.append(column([c.point[k] for c in cuts]) + ((p * n + r * v) + q * u))
    shape = [column([c.box.shape[k] for c in cuts], torch.int64) for k in range(3)]
    size = [column([c.voxel_size[k] for c in cuts]) for k in range(3)]
    places = [place / s for place, s in zip(places, size, strict=True)]
    inside, side = _between(flat, column(start, torch.int64), shape, places)
    ends = [[column([c.goes_on[k][e] for c in cuts], torch.bool) for e in range(2)] for k in range(3)]
    inside = torch.minimum(inside, _wall(places, shape, size, ends))
    own = column(halves, torch.int64)
    inside.masked_fill_((across[:, None].abs() > own) | (across.abs() > own), -1e9)
    return inside.float(), side.float(), spacing[:, 0, 0, 0]


def _between(fields: list[Tensor], start: Tensor, shape: list[Tensor], places: list[Tensor]) -> list[Tensor]:
    """Trilinear values of fields that lie flat, end to end."""
    low, high, share = [], [], []
    for place, n in zip(places, shape, strict=True):
        place = torch.minimum(place.clamp(min=0), n - 1)
        low.append(place.long())
        high.append(torch.minimum(low[-1] + 1, n - 1))
        share.append(place - low[-1])
    out = [torch.zeros_like(places[0]) for _ in fields]
    for corner in range(8):
        index, weight = torch.zeros_like(low[0]), torch.ones_like(share[0])
        for k in range(3):
            far = corner >> k & 1
            index = index * shape[k] + (high[k] if far else low[k])
            weight = weight * (share[k] if far else 1 - share[k])
        index += start
        for value, field in zip(out, fields, strict=True):
            value += weight * field[index]
    return out


def _wall(
    places: list[Tensor], shape: list[Tensor], size: list[Tensor], goes_on: list[list[Tensor]]
) -> Tensor:
    beyond, near = torch.zeros_like(places[0]), torch.full_like(places[0], math.inf)
    for place, n, s, ends in zip(places, shape, size, goes_on, strict=True):
        for depth, open_end in ((place + 0.5) * s, ends[0]), ((n - 0.5 - place) * s, ends[1]):
            beyond += depth.clamp(max=0).square()
            near = torch.minimum(near, torch.where(open_end, math.inf, depth))
    return torch.where(beyond > 0, -beyond.sqrt(), near)


# ------------------------------------------------------------------ measures


def _soft(distance: Tensor, spacing: Tensor) -> Tensor:
    return (distance.double() / spacing[:, None, None, None] + 0.5).clamp(0, 1)


def _areas(inside: Tensor, side: Tensor, spacing: Tensor) -> Tensor:
    share = _soft(inside, spacing)
    both, of_a = share.sum((2, 3)), (share * _soft(side, spacing)).sum((2, 3))
    return torch.stack([both, of_a, both - of_a], 1) * spacing[:, None, None].square()


def _overlaps(inside: Tensor, spacing: Tensor, lag: int) -> Tensor:
    share, n = _soft(inside, spacing), max(inside.shape[1] - lag, 0)
    p, q = share[:, :n], share[:, lag : lag + n]
    common, either = torch.minimum(p, q).sum((2, 3)), torch.maximum(p, q).sum((2, 3))
    return torch.where(either > 0, common / either.clamp(min=1e-300), 0.0)


def _crossings(inside: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    n = inside.shape[1]
    this, following = side[:, :-1].double(), side[:, 1:].double()
    turns = (this > 0) != (following > 0)
    share = torch.where(turns, this / torch.where(turns, this - following, 1.0), 0.0)
    there = (1 - share) * inside[:, :-1] + share * inside[:, 1:] > 0
    sign = torch.where(turns & there, torch.where(this > 0, 1.0, -1.0), 0.0)
    layer = torch.arange(n - 1, device=inside.device)[:, None, None]
    net, total = sign.sum((1, 2, 3)), (sign * (layer + share)).sum((1, 2, 3))
    middle = torch.full_like(net, (n - 1) / 2)
    return net.clamp(min=0), torch.where(net > 0, (total / net.clamp(min=1)).clamp(0, n - 1), middle)


def _at(inside: Tensor, place: Tensor) -> Tensor:
    """`inside` between layers; `place` is (pairs, layers)."""
    n, pair = inside.shape[1], torch.arange(len(inside), device=inside.device)[:, None]
    place = place.clamp(0, n - 1)
    low = place.long().clamp(max=max(n - 2, 0))
    first, second = inside[pair, low].double(), inside[pair, (low + 1).clamp(max=n - 1)].double()
    return first + (place - low)[:, :, None, None] * (second - first)


def _rim(inside: Tensor, side: Tensor, spacing: Tensor, step: Tensor) -> Tensor:
    """Rows (weight, weighted sum, weight of what is not flat), as of `crosscut`."""
    n = inside.shape[1]
    layer, edge = torch.arange(n, device=inside.device), step.ceil()[:, None]
    own = ((layer >= edge) & (layer < n - edge))[:, :, None, None]
    space, here = spacing[:, None, None, None], inside.double()
    near = ((space - here.abs()) / space).clamp(min=0) * ((space - side.double().abs()) / space).clamp(min=0)
    near = torch.where(own, near, 0.0)
    bend = (_at(inside, layer - step[:, None]) + _at(inside, layer + step[:, None])) / 2 - here
    sums = near, near * bend, torch.where(bend > FLAT * space, near, 0.0)
    return torch.stack([part.sum((1, 2, 3)) for part in sums], 1)
