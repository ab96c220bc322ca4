"""Certified brackets of many earth mover's distances at once, on a graphics card or on the CPU.

The exact solver of `overseg.kernels.transport` goes from vertex to vertex of one problem; here thousands of
problems take the same dense steps together. None of them is solved exactly. What comes back is a lower and an
upper bound of each distance, which hold whatever the iterations did: the lower one is the value of potentials
made feasible, the upper one the cost of a plan made feasible, both in double precision.

A problem goes through levels as in `overseg.kernels.levels`: blocks of voxels first, their potentials then
carried to smaller blocks. A level of blocks brackets the distance between the voxels too: potentials extended
as a function of slope one are feasible everywhere, and by Jensen's inequality the mean distance between the
voxels of two blocks is at most the root of the mean square one. So a problem too large for its voxels to be
paired still has the bracket of its blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from overseg.errors import InputError
from overseg.kernels.levels import gathered, residual

Points = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Tensor = Any

MEMORY = 2**31
"""Bytes on the device that a batch may take, unless told otherwise."""

MATRICES = 10
"""Matrices in single precision, or their like, that a batch holds at its peak."""

MOST_ENTRIES = 2**24
"""Pairs of points of a level; a larger one is left out, and the level before it has the last word."""

SIDES = (32, 16, 8, 4, 2, 1)
"""Of blocks, level by level."""

LEAST_ENTRIES = 1024
"""Pairs of blocks, about, that make a level worth while."""

BUCKET = 1.7
"""Problems in one batch differ in the number of their points by no more than this factor."""

BLOCKS_TOLERANCE = 2.0
"""Between blocks, so many times the tolerance will do: what blocks leave open is more."""

EVERY = 40
"""Iterations from one certificate to the next."""

RELAXATION, PRIMAL_WEIGHT = 1.8, 2.0
"""Both tuned on layers of plant cells; half the weight takes a quarter more iterations."""

SCALINGS = 3
"""Turns of scaling rows and columns before a plan is rounded."""

FAR, TINY, SLACK = 1e6, 1e-100, 1e-9
"""Cost of padding, in lengths of a problem; least divisor of a mass; relative rounding allowed for."""


@dataclass
class Problem:
    """What is left of a pair of masks without shared mass, and what is known of its distance by now.

    `source` and `sink` have the rows y, x, mass, as of `residual`; `share` is the part of all mass.
    `length`, half the root mean square distance from the common centre, is the unit of the iterations. `low`
    and `high` are bounds as if the mass that is left were one. `coarse` has the rows y, x, potential of the
    sources of the level before; at first it is a point at infinity.
    """

    source: Points
    sink: Points
    share: float
    length: float = 1.0
    low: float = 0.0
    high: float = 0.0
    coarse: Float = field(default_factory=lambda: np.full((3, 1), -np.inf))


Level = tuple[Problem, Float, Float]
"""A problem, and its sources and sinks as blocks: rows y, x, mass (of sum one), mean square about (y, x)."""


@dataclass
class Batch:
    """Problems of a level side by side, padded with points without mass; first axis: problem.

    `source` and `sink` are in double precision, as in `Level`; so are the bounds `dual` and `primal` between
    blocks, `high` between voxels and the `potential` of the sources to which `dual` belongs. The state of
    the iterations is in single precision. Costs and the potentials u, v are kept multiplied by `rate`.
    """

    source: Tensor
    sink: Tensor
    give: Tensor
    take: Tensor
    per_source: Tensor
    per_sink: Tensor
    rate: Tensor
    cost: Tensor
    plan: Tensor
    newest: Tensor
    u: Tensor
    v: Tensor
    rows: Tensor
    columns: Tensor
    dual: Tensor
    primal: Tensor
    high: Tensor
    potential: Tensor

    def only(self, chosen: Tensor) -> Batch:
        """The problems with these numbers."""
        return Batch(*(getattr(self, part.name)[chosen] for part in fields(self)))


# ------------------------------------------------------------------ problems and levels


def brackets(
    pairs: Sequence[tuple[Points, Points]],
    size: tuple[float, float],
    device: str,
    memory: int = MEMORY,
    *,
    tolerance: float = 0.005,
    iterations: int = 800,
) -> tuple[Float, Float]:
    """Bounds low <= W1 <= high of the earth mover's distance (Euclidean cost) of each pair of masks.

    Parameters
    ----------
    pairs : sequence of pairs of ndarray of int64, shape (n, 2)
        Different voxels (y, x) of two masks in any order; each mask is a uniform probability measure.
    size : tuple of float
        Voxel size (y, x).
    device : str
        Of torch: "cuda", "cpu".
    memory : int
        Bytes that the dense matrices may take on the device at a time. A problem that alone would take
        more is solved between blocks of voxels only.
    tolerance : float
        Width of a bracket, relative to its upper bound, at which a problem is left alone.
    iterations : int
        The most per level. Few brackets are still wider after the default; 0 leaves the bounds that need
        no iteration: distance of the centroids, and mass that moves times the diagonal of its box.

    Returns
    -------
    low, high : ndarray of float64, shape (pairs,)
        In the unit of the voxel size. The bounds are certain up to rounding, for which 1e-9 is allowed;
        their last bits, and within the tolerance their values, depend on the device and on which problems
        share a batch. Both are 0 for equal masks.

    Raises
    ------
    InputError
        If a mask is empty.

    Notes
    -----
    Primal-dual hybrid gradient (Chambolle & Pock, J. Math. Imaging Vis. 40:120, 2011), over-relaxed and
    preconditioned (Pock & Chambolle, ICCV 2011): the constraints are row and column sums, so the inverse of
    their Gram matrix is as cheap as its diagonal and allows dual steps twice as long. The balance of both
    step sizes is that of a primal weight (Applegate et al., "PDLP", NeurIPS 2021), known beforehand from the
    number of points and the extent. Plans are rounded as by Altschuler, Weed & Rigollet (NeurIPS 2017) after
    some turns of scaling to the masses.
    """
    lengths = np.array(size, np.float64)
    problems = [_problem(a, b, lengths, k) for k, (a, b) in enumerate(pairs)]
    for h in SIDES:
        left = (p for p in problems if p.high - p.low > tolerance * p.high)
        worth = (p for p in left if h == 1 or p.source[0].size * p.sink[0].size >= LEAST_ENTRIES * h**4)
        levels = [(p, _blocks(p.source, h, lengths), _blocks(p.sink, h, lengths)) for p in worth]
        for group in _groups(levels, memory):
            dual, high, potential = _solved(_batch(group, device, memory), tolerance, iterations, h > 1)
            # That blocks are near says nothing of their voxels: there the potentials count, at the voxels.
            low = _carry(group, potential, lengths, memory) if h > 1 else dual
            for (problem, _, _), below, above in zip(group, low.tolist(), high.tolist(), strict=True):
                problem.low, problem.high = max(problem.low, below), min(problem.high, above)
    share, low, high = (np.array([getattr(p, name) for p in problems]) for name in ("share", "low", "high"))
    return share * low * (1 - SLACK), share * high * (1 + SLACK)


def _problem(points_a: Points, points_b: Points, size: Float, number: int) -> Problem:
    if not len(points_a) or not len(points_b):
        raise InputError(
            "the distance to an empty mask is not defined",
            where=f"pair {number}, masks of {len(points_a)} and {len(points_b)} voxels",
            remedy="leave out layers in which the cell has no voxel",
        )
    a, b = (np.ascontiguousarray(points, np.int64) for points in (points_a, points_b))
    sy, sx, supply, ty, tx, demand, whole = residual(a, b)
    problem = Problem(np.stack([sy, sx, supply]), np.stack([ty, tx, demand]), float(supply.sum() / whole))
    if supply.size:
        s, t = np.stack([sy, sx], 1) * size, np.stack([ty, tx], 1) * size
        give, take = supply / supply.sum(), demand / demand.sum()
        s_centre, t_centre = give @ s, take @ t
        middle = (s_centre + t_centre) / 2
        square = give @ ((s - middle) ** 2).sum(1) + take @ ((t - middle) ** 2).sum(1)
        problem.length = math.sqrt(square / 2) / 2
        both = np.concatenate([s, t])
        problem.low, problem.high = math.dist(s_centre, t_centre), math.dist(both.min(0), both.max(0))
    return problem


def _blocks(side: Points, h: int, size: Float) -> Float:
    y, x, mass, square = gathered(*side, h, size)
    return np.stack([y, x, mass / mass.sum(), square])


def _groups(levels: list[Level], memory: int) -> Iterator[list[Level]]:
    """Batches of problems of like size, each within the memory; those too large on their own left out."""
    buckets: dict[tuple[int, int], list[Level]] = {}
    for level in levels:
        ns, nt = level[1].shape[1], level[2].shape[1]
        if _bytes([level]) <= memory and ns * nt <= MOST_ENTRIES:
            bucket = math.ceil(math.log(ns, BUCKET)), math.ceil(math.log(nt, BUCKET))
            buckets.setdefault(bucket, []).append(level)
    for group in buckets.values():
        step = max(1, memory * len(group) // _bytes(group))
        yield from (group[k : k + step] for k in range(0, len(group), step))


def _bytes(group: list[Level]) -> int:
    """What a batch takes on the device: matrices (the fours: what is kept per point) or voxels."""
    ns = max(source.shape[1] for _, source, _ in group)
    nt = max(sink.shape[1] for _, _, sink in group)
    voxels = max(p.source.shape[1] + p.sink.shape[1] for p, _, _ in group)
    most: int = max((ns + 4) * (nt + 4), voxels)
    return 4 * MATRICES * len(group) * most


# ------------------------------------------------------------------ batches


def _padded(parts: Sequence[Float], device: str, value: float = 0.0) -> Tensor:
    out = np.full((len(parts), len(parts[0]), max(part.shape[1] for part in parts)), value)
    for row, part in zip(out, parts, strict=True):
        row[:, : part.shape[1]] = part
    return torch.from_numpy(out).to(device)


def _distances(p: Tensor, q: Tensor) -> Tensor:
    # By differences, never by a product of matrices: near points would lose their digits.
    square = (p[:, 0, :, None] - q[:, 0, None, :]).square_()
    return square.add_((p[:, 1, :, None] - q[:, 1, None, :]).square_()).sqrt_()


def _batch(levels: list[Level], device: str, memory: int) -> Batch:
    source, sink = _padded([s for _, s, _ in levels], device), _padded([t for _, _, t in levels], device)
    real_source, real_sink = source[:, 2] > 0, sink[:, 2] > 0
    ns, nt = real_source.sum(1, keepdim=True).double(), real_sink.sum(1, keepdim=True).double()
    length = torch.tensor([[p.length] for p, _, _ in levels], dtype=torch.float64, device=device)
    rate = PRIMAL_WEIGHT / 2 / torch.sqrt((ns + nt) * ns * nt) / length
    coarse = _padded([p.coarse for p, _, _ in levels], device, -np.inf)
    u = torch.nan_to_num(-_extended(coarse, coarse[:, 2], source, memory), neginf=0.0)
    distance = _distances(source, sink)
    v = (distance - torch.where(real_source, u, -torch.inf)[:, :, None]).amin(1)
    distance.masked_fill_(~(real_source[:, :, None] & real_sink[:, None, :]), FAR * float(length.max()))
    cost = distance.mul_(rate[:, :, None]).float()
    give, take = source[:, 2].float(), sink[:, 2].float()
    zeros, unknown = torch.zeros_like, torch.full_like(rate[:, 0], torch.inf)
    given = source, sink, give, take, (1 / ns).float(), (1 / nt).float(), rate, cost
    state = zeros(cost), zeros(cost), (u * rate).float(), (v * rate).float(), zeros(give), zeros(take)
    return Batch(*given, *state, zeros(rate[:, 0]), unknown, unknown, u)


def _extended(p: Tensor, u: Tensor, q: Tensor, memory: int) -> Tensor:
    """At points q the largest function of slope one that is at most -u at the points p; some q at a time."""
    step = max(1, memory // (4 * MATRICES * u.numel()))
    parts = [q[:, :, k : k + step] for k in range(0, q.shape[2], step)]
    return torch.cat([_distances(p, part).sub_(u[:, :, None]).amin(1) for part in parts], 1)


def _carry(levels: list[Level], potential: Tensor, size: Float, memory: int) -> Tensor:
    """Potentials of blocks for the level to come, and the dual value when they are extended to all voxels."""
    device = str(potential.device)
    points = _padded([s for _, s, _ in levels], device)
    potential = torch.where(points[:, 2] > 0, potential, -torch.inf)
    for (problem, s, _), u in zip(levels, potential.cpu().numpy(), strict=True):
        problem.coarse = np.stack([s[0], s[1], u[: s.shape[1]]])
    sums = []
    for sides in ([p.source for p, _, _ in levels], [p.sink for p, _, _ in levels]):
        voxels = _padded([_blocks(side, 1, size) for side in sides], device)
        sums.append((voxels[:, 2] * _extended(points, potential, voxels, memory)).sum(1))
    return sums[1] - sums[0]


# ------------------------------------------------------------------ iterations


def _step(batch: Batch) -> None:
    """One iteration, in place: the plan against its costs, then the potentials against what is missing."""
    newest = torch.sub(batch.plan, batch.cost, out=batch.newest)
    newest.add_(batch.u[:, :, None]).add_(batch.v[:, None, :]).clamp_(min=0)
    rows, columns = newest.sum(2), newest.sum(1)
    lack_rows = batch.give - 2 * rows + batch.rows
    lack_columns = batch.take - 2 * columns + batch.columns
    # Exactly what the inverse of the Gram matrix of the constraints gives: a row's lack over the number of
    # columns, and the common part of rows and columns counted once.
    common = lack_rows.sum(1, keepdim=True) * (batch.per_source * batch.per_sink / 2)
    batch.u.add_(lack_rows.mul_(batch.per_sink).sub_(common), alpha=RELAXATION)
    batch.v.add_(lack_columns.mul_(batch.per_source).sub_(common), alpha=RELAXATION)
    batch.plan.lerp_(newest, RELAXATION)
    batch.rows.lerp_(rows, RELAXATION)
    batch.columns.lerp_(columns, RELAXATION)


def _certify(batch: Batch, blocks: bool) -> None:
    """Bounds from the state as it is, in double precision; keeps the best so far."""
    distance, give, take = _distances(batch.source, batch.sink), batch.source[:, 2], batch.sink[:, 2]
    # Potentials: each side's the largest that the other allows, so feasible whatever they were before. Only
    # differences count; taken from the largest, none cancels when all have grown.
    u = torch.where(give > 0, batch.u / batch.rate, -torch.inf)
    u = u - u.amax(1, keepdim=True)
    v = (distance - u[:, :, None]).amin(1)
    u = (distance - torch.where(take > 0, v, -torch.inf)[:, None, :]).amin(2)
    dual = (give * u).sum(1) + (take * v).sum(1)
    batch.potential = torch.where((dual > batch.dual)[:, None], u, batch.potential)
    batch.dual = torch.fmax(batch.dual, dual)
    plan = batch.newest.double()
    f, g, rest_rows, rest_columns = _rounded(plan, give, take)
    # What is still missing goes from all rows to all columns in proportion.
    missing = torch.minimum(rest_rows.sum(1), rest_columns.sum(1)).clamp_(min=TINY)

    def total() -> Tensor:
        sent = (rest_rows * _times(distance, rest_columns)).sum(1) / missing
        return (f * _times(plan * distance, g)).sum(1) + sent

    batch.primal = torch.fmin(batch.primal, total())
    if blocks:
        distance.square_().add_(batch.source[:, 3, :, None]).add_(batch.sink[:, 3, None, :]).sqrt_()
    batch.high = torch.fmin(batch.high, total()) if blocks else batch.primal


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.bmm(matrix, vector[:, :, None])[:, :, 0]


def _rounded(plan: Tensor, give: Tensor, take: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Factors of rows and columns with which no sum exceeds its mass, and the mass that then is missing."""
    g, back = torch.ones_like(take), plan.mT
    for _ in range(SCALINGS):
        f = give / _times(plan, g).clamp_(min=TINY)
        g = take / _times(back, f).clamp_(min=TINY)
    f = f * (give / (f * _times(plan, g)).clamp_(min=TINY)).clamp_(max=1)
    g = g * (take / (g * _times(back, f)).clamp_(min=TINY)).clamp_(max=1)
    return f, g, (give - f * _times(plan, g)).clamp_(min=0), (take - g * _times(back, f)).clamp_(min=0)


def _solved(batch: Batch, tolerance: float, iterations: int, blocks: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Lower bound between blocks, upper bound between voxels, potentials of the sources; of each problem.

    The host waits for the device once per certificate. Problems that are done ride along until they are the
    greater part of the batch.
    """
    found = batch.dual.clone(), batch.high.clone(), batch.potential.clone()
    enough = BLOCKS_TOLERANCE * tolerance if blocks else tolerance
    where = torch.arange(len(batch.dual), device=batch.dual.device)
    for _ in range(0, iterations, EVERY):
        for _ in range(EVERY):
            _step(batch)
        _certify(batch, blocks)
        for whole, part in zip(found, (batch.dual, batch.high, batch.potential), strict=True):
            whole[where] = part
        busy = torch.nonzero(~(batch.primal - batch.dual <= enough * batch.primal))[:, 0]
        if not len(busy):
            break
        if 2 * len(busy) <= len(where):
            batch, where = batch.only(busy), where[busy]
    return found
