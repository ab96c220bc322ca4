"""Transportation problems between weighted points of the plane, solved exactly by a network simplex.

All that decides anything is in integers: masses are int64, and costs are Euclidean lengths in units of a
tiny part of the largest one, so that potentials and reduced costs are exact, no tolerance is needed, and the
least of a row is found by vector instructions without `fastmath`. The value returned is the sum of flow times
length in floats; that costs were cut to integers moves it by less than 1e-12 of the largest length.

Every basis is made non-degenerate by the classical perturbation (each source has a little more mass, the last
sink takes it all), so every pivot lowers the cost and the method cannot go round in circles. Arcs are priced
from a short list of promising ones; only when that is exhausted are all arcs looked at, row by row and never
stored, so memory grows with the number of points and not with that of their pairs.

Nodes are the sources 0 .. ns - 1, then the sinks. Potentials of sinks carry a minus, so that an arc's reduced
cost is ``cost - pi[source] + pi[sink]`` and a part of the tree is shifted by adding one number.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from overseg.kernels.tree import ORDER, PARENT, pivot, plant

Float = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Index = npt.NDArray[np.uint32]
Arcs = tuple[Index, Index, Whole]

COST_BITS = 61
"""Potentials stay below 2^61: the largest cost is that over the number of nodes."""

MOST_PER_SOURCE = 64
"""Arcs that a source brings to the short list at first."""

WINDOW = 2048
"""Arcs that are priced before the best of them enter."""

NEAR_BEST = 4
"""An arc enters while its reduced cost is at least the best one's over this."""

_kernel = numba.njit(cache=True, nogil=True)


@_kernel  # type: ignore[untyped-decorator]
def perturbation(sources: int) -> int:
    """Power of two by which masses are multiplied; above twice the number of sources."""
    factor = 1
    while factor <= 2 * sources:
        factor *= 2
    return factor


@_kernel  # type: ignore[untyped-decorator]
def cost_scale(sy: Float, sx: Float, ty: Float, tx: Float) -> float:
    """Units of integer cost in one of length: a power of two, so that it rounds nothing by itself."""
    height = max(sy.max(), ty.max()) - min(sy.min(), ty.min())
    width = max(sx.max(), tx.max()) - min(sx.min(), tx.min())
    _, nodes = math.frexp(float(sy.size + ty.size))
    _, reach = math.frexp(math.hypot(height, width))
    return math.ldexp(1.0, COST_BITS - nodes - reach)


# ------------------------------------------------------------------ pricing


@_kernel  # type: ignore[untyped-decorator]
def price(y: float, x: float, ty: Float, tx: Float, scale: float, v: Whole, row: Whole) -> np.int64:
    """Costs of one source plus the sinks' potentials, into `row`; returns the least."""
    for j in range(ty.size):
        dy = ty[j] - y
        dx = tx[j] - x
        row[j] = np.int64(math.sqrt(dy * dy + dx * dx) * scale) + v[j]
    least: np.int64 = row[0]
    for j in range(ty.size):
        least = min(least, row[j])
    return least


@_kernel  # type: ignore[untyped-decorator]
def within(row: Whole, least: int, slack: int, most: int) -> int:
    """The largest of slack, slack / 2, slack / 4, ... that no more than `most` of a row lie within."""
    while slack > 0:
        n = 0
        for j in range(row.size):
            n += row[j] - least <= slack
        if n <= most:
            break
        slack //= 2
    return slack


@_kernel  # type: ignore[untyped-decorator]
def short_list(
    sy: Float, sx: Float, ty: Float, tx: Float, scale: float, v: Whole, slack: int
) -> tuple[Index, Index, Whole, Whole]:
    """Arcs whose reduced cost is small under the sinks' potentials: sources, sinks, costs, reduced costs."""
    ns, nt = sy.size, ty.size
    row = np.empty(nt, np.int64)
    most = min(nt, MOST_PER_SOURCE)
    source, sink = np.empty(ns * most, np.uint32), np.empty(ns * most, np.uint32)
    cost, reduced = np.empty(ns * most, np.int64), np.empty(ns * most, np.int64)
    n = 0
    for i in range(ns):
        least = price(sy[i], sx[i], ty, tx, scale, v, row)
        end, reach = n + most, within(row, least, slack, most)
        for j in range(nt):
            if row[j] - least <= reach and n < end:
                source[n], sink[n] = i, ns + j
                cost[n], reduced[n] = row[j] - v[j], row[j] - least
                n += 1
    return source[:n].copy(), sink[:n].copy(), cost[:n].copy(), reduced[:n].copy()


@_kernel  # type: ignore[untyped-decorator]
def violated(sy: Float, sx: Float, ty: Float, tx: Float, scale: float, pi: Whole) -> Arcs:
    """Of each source the arc of least reduced cost among all, where that is below zero."""
    ns, nt = sy.size, ty.size
    v = pi[ns:]
    row = np.empty(nt, np.int64)
    source, sink, cost = np.empty(ns, np.uint32), np.empty(ns, np.uint32), np.empty(ns, np.int64)
    n = 0
    for i in range(ns):
        least = price(sy[i], sx[i], ty, tx, scale, v, row)
        if least < pi[i]:
            j = 0
            while row[j] > least:
                j += 1
            source[n], sink[n], cost[n] = i, ns + j, least - v[j]
            n += 1
    return source[:n], sink[:n], cost[:n]


# ------------------------------------------------------------------ start


@_kernel  # type: ignore[untyped-decorator]
def greedy(
    sy: Float,
    sx: Float,
    ty: Float,
    tx: Float,
    mass: Whole,
    source: Index,
    sink: Index,
    reduced: Whole,
    slack: int,
) -> tuple[Index, Index, Whole]:
    """A feasible tree: arcs of the short list from the best on, then the nearest sink that is left.

    Each arc empties a source or fills a sink, which takes no further arc: so there are no circles.
    """
    ns, n = sy.size, mass.size
    left = mass.copy()
    tail, head, flow = np.empty(n - 1, np.uint32), np.empty(n - 1, np.uint32), np.empty(n - 1, np.int64)
    k = 0
    low = -1
    for high in (0, slack // 16, slack // 4, slack):
        for e in range(source.size):
            i, j = source[e], sink[e]
            if low < reduced[e] <= high and left[i] > 0 and left[j] > 0:
                tail[k], head[k], flow[k] = i, j, min(left[i], left[j])
                left[i] -= flow[k]
                left[j] -= flow[k]
                k += 1
        low = high
    open_sinks = np.flatnonzero(left[ns:])
    for i in range(ns):
        while left[i] > 0:
            j = nearest(sy[i], sx[i], ty, tx, left[ns:], open_sinks)
            tail[k], head[k], flow[k] = i, ns + j, min(left[i], left[ns + j])
            left[i] -= flow[k]
            left[ns + j] -= flow[k]
            k += 1
    return tail, head, flow


@_kernel  # type: ignore[untyped-decorator]
def nearest(y: float, x: float, ty: Float, tx: Float, left: Whole, among: Whole) -> int:
    """The nearest sink that still takes mass."""
    best, found = np.inf, -1
    for j in among:
        if left[j] > 0:
            d = (ty[j] - y) ** 2 + (tx[j] - x) ** 2
            if d < best:
                best, found = d, j
    return found


# ------------------------------------------------------------------ simplex


@_kernel  # type: ignore[untyped-decorator]
def candidates(
    pi: Whole, source: Index, sink: Index, cost: Whole, at: int, end: int, picked: Whole
) -> tuple[int, np.int64]:
    """The best arc of each source if its reduced cost is below zero: how many, and the least cost."""
    found, least, e = 0, np.int64(0), at
    while e < end:
        i = source[e]
        u, low, best = pi[i], np.int64(0), -1
        while e < end and source[e] == i:
            reduced = cost[e] + pi[sink[e]] - u
            if reduced < low:
                low, best = reduced, e
            e += 1
        if best >= 0:
            picked[found] = best
            found += 1
            least = min(least, low)
    return found, least


@_kernel  # type: ignore[untyped-decorator]
def improve(tree: Index, flow: Whole, pi: Whole, rows: int, source: Index, sink: Index, cost: Whole) -> None:
    """Pivot until no arc of the list has a reduced cost below zero.

    Window by window the best arc of every source is picked; of these enter the ones that, when their turn
    comes, are still near to the best of all.
    """
    spare, picked = np.empty(pi.size, np.uint32), np.empty(WINDOW, np.int64)
    n, at, quiet = source.size, 0, 0
    while quiet < n:
        end = min(at + WINDOW, n)
        found, least = candidates(pi, source, sink, cost, at, end, picked)
        quiet = 0 if found > 0 else quiet + end - at
        for e in picked[:found]:
            reduced = cost[e] - pi[source[e]] + pi[sink[e]]
            if NEAR_BEST * reduced <= least:
                pivot(tree, flow, pi, rows, source[e], sink[e], reduced, spare)
        at = end if end < n else 0


@_kernel  # type: ignore[untyped-decorator]
def start(
    sy: Float,
    sx: Float,
    supply: Whole,
    ty: Float,
    tx: Float,
    demand: Whole,
    scale: float,
    v: Whole,
    slack: int,
) -> tuple[Index, Whole, Whole, Arcs]:
    """A feasible tree near the given potentials, its flows and own potentials, and the short list."""
    ns = sy.size
    factor = perturbation(ns)
    mass = np.concatenate((supply * factor + 1, demand * factor))
    mass[-1] += ns
    source, sink, cost, reduced = short_list(sy, sx, ty, tx, scale, v, slack)
    tail, head, carried = greedy(sy, sx, ty, tx, mass, source, sink, reduced, slack)
    of_tree = np.empty(tail.size, np.int64)
    for k in range(tail.size):
        i, j = tail[k], head[k] - ns
        dy, dx = ty[j] - sy[i], tx[j] - sx[i]
        of_tree[k] = np.int64(math.sqrt(dy * dy + dx * dx) * scale)
    tree, flow, pi = plant(mass.size, tail, head, carried, of_tree)
    return tree, flow, pi, (source, sink, cost)


@_kernel  # type: ignore[untyped-decorator]
def transport(
    sy: Float,
    sx: Float,
    supply: Whole,
    wide: Float,
    ty: Float,
    tx: Float,
    demand: Whole,
    spread: Float,
    guess: Float,
    slack: float,
) -> tuple[float, float, Float]:
    """Least total of mass times Euclidean length from sources to sinks.

    Parameters
    ----------
    sy, sx, ty, tx : ndarray of float64, shapes (ns,) and (nt,)
        Positions; no source is at the place of a sink.
    supply, demand : ndarray of int64, shapes (ns,) and (nt,)
        Positive masses of equal sums; that sum times four times ns stays below 2^62.
    wide, spread : ndarray of float64, shapes (ns,) and (nt,)
        Mean squares about the positions, where a point stands for many; else 0.
    guess : ndarray of float64, shape (nt,)
        Potentials of the sinks to start from: the nearer to the optimum, the faster. They change no answer
        but for ties and the last bits.
    slack : float
        Arcs whose reduced cost under `guess` is within this of their source's best are priced first.

    Returns
    -------
    total : float
    most : float
        Bound of what the same plan costs between all that the points stand for: by Jensen's inequality the
        mean distance is at most the root of the mean square one.
    potentials : ndarray of float64, shape (ns,)
        Of the sources: their distances to the potentials of the sinks are tight.
    """
    ns, factor = sy.size, perturbation(sy.size)
    scale = cost_scale(sy, sx, ty, tx)
    v = np.empty(ty.size, np.int64)
    for j in range(ty.size):
        v[j] = -np.int64(guess[j] * scale)
    tree, flow, pi, arcs = start(sy, sx, supply, ty, tx, demand, scale, v, np.int64(slack * scale))
    while True:
        improve(tree, flow, pi, ns, arcs[0], arcs[1], arcs[2])
        more = violated(sy, sx, ty, tx, scale, pi)
        if more[0].size == 0:
            break
        arcs = (
            np.concatenate((arcs[0], more[0])),
            np.concatenate((arcs[1], more[1])),
            np.concatenate((arcs[2], more[2])),
        )
    total = most = 0.0
    for at in range(1, flow.size):
        x = tree[ORDER, at]
        y = tree[PARENT, x]
        i, j = min(x, y), max(x, y) - ns
        dy, dx = ty[j] - sy[i], tx[j] - sx[i]
        moved, square = (flow[x] + factor // 2) // factor, dy * dy + dx * dx
        total += moved * math.sqrt(square)
        most += moved * math.sqrt(square + wide[i] + spread[j])
    return total, most, pi[:ns] / scale
