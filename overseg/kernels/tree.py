"""The spanning tree of a network simplex, kept in an order in which those below a node follow it.

So a part of the tree is a range of that order: to shift its potentials is one loop, to hang it elsewhere one
rotation. Nodes below `rows` are sources, the others sinks; flow goes from sources to sinks.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]
Index = npt.NDArray[np.uint32]

PARENT, SIZE, PLACE, ORDER = range(4)
"""Rows of a tree: of each node its parent, how many nodes hang from it (with itself) and its place in an
order in which those below a node follow it; then the nodes in that order."""

_kernel = numba.njit(cache=True, nogil=True)


@_kernel  # type: ignore[untyped-decorator]
def plant(n: int, tail: Index, head: Index, flow: Whole, cost: Whole) -> tuple[Index, Whole, Whole]:
    """The tree of n - 1 arcs, the flow of each node's arc to its parent, and potentials."""
    first, arcs = np.zeros(n + 1, np.int64), np.empty(2 * (n - 1), np.int64)
    for k in range(n - 1):
        first[tail[k]] += 1
        first[head[k]] += 1
    first = np.cumsum(first)
    for k in range(n - 1):
        for x in (tail[k], head[k]):
            first[x] -= 1
            arcs[first[x]] = k
    tree = np.zeros((4, n), np.uint32)
    carried, pi = np.zeros(n, np.int64), np.zeros(n, np.int64)
    stack = np.zeros(n, np.int64)
    waiting = 1
    for at in range(n):
        waiting -= 1
        x = stack[waiting]
        tree[ORDER, at], tree[PLACE, x], tree[SIZE, x] = x, at, 1
        for e in range(first[x], first[x + 1]):
            k = arcs[e]
            y = tail[k] + head[k] - x
            if at == 0 or y != tree[PARENT, x]:
                pi[y] = pi[x] - cost[k] if y == head[k] else pi[x] + cost[k]
                carried[y], tree[PARENT, y] = flow[k], x
                stack[waiting] = y
                waiting += 1
    for at in range(n - 1, 0, -1):
        x = tree[ORDER, at]
        tree[SIZE, tree[PARENT, x]] += tree[SIZE, x]
    return tree, carried, pi


# ------------------------------------------------------------------ tree


@_kernel  # type: ignore[untyped-decorator]
def leaving_arc(tree: Index, flow: Whole, rows: int, source: int, sink: int) -> tuple[int, int, bool]:
    """Where the circle of an arc closes, the node below its arc of least flow, and if it is at the source."""
    x, y = source, sink
    least, leaving, at_source = np.int64(1) << 62, x, True
    while x != y:
        if tree[SIZE, x] < tree[SIZE, y]:
            if x < rows and flow[x] < least:
                least, leaving, at_source = flow[x], x, True
            x = tree[PARENT, x]
        else:
            if y >= rows and flow[y] < least:
                least, leaving, at_source = flow[y], y, False
            y = tree[PARENT, y]
    return x, leaving, at_source


@_kernel  # type: ignore[untyped-decorator]
def turned(tree: Index, flow: Whole, top: int, x: int, spare: Index) -> None:
    """Make x the root of the part below `top`; its new order goes to `spare`."""
    total = np.int64(tree[SIZE, top])
    low = high = np.int64(tree[PLACE, x])
    n, below, carried, above = 0, np.int64(0), flow[x], x
    while True:
        y = above
        whole = np.int64(tree[SIZE, y])
        start = np.int64(tree[PLACE, y])
        for k in range(start, low):
            spare[n] = tree[ORDER, k]
            n += 1
        for k in range(high, start + whole):
            spare[n] = tree[ORDER, k]
            n += 1
        low, high = start, start + whole
        above, kept = tree[PARENT, y], flow[y]
        flow[y], tree[SIZE, y], tree[PARENT, y] = carried, total - below, x
        x, carried, below = y, kept, whole
        if y == top:
            return


@_kernel  # type: ignore[untyped-decorator]
def settle(tree: Index, start: int, k: int, target: int, spare: Index) -> None:
    """Put k nodes, now in `spare`, before place `target`; they were at `start`."""
    if target <= start:
        for at in range(start - 1, target - 1, -1):
            x = tree[ORDER, at]
            tree[ORDER, at + k], tree[PLACE, x] = x, at + k
    else:
        for at in range(start + k, target):
            x = tree[ORDER, at]
            tree[ORDER, at - k], tree[PLACE, x] = x, at - k
        target -= k
    for at in range(k):
        x = spare[at]
        tree[ORDER, target + at], tree[PLACE, x] = x, target + at


@_kernel  # type: ignore[untyped-decorator]
def shift(tree: Index, pi: Whole, start: int, end: int, by: int) -> None:
    """Add to the potentials of a range of nodes, or take it from all others where they are fewer."""
    if 2 * (end - start) <= pi.size:
        for at in range(start, end):
            pi[tree[ORDER, at]] += by
    else:
        for at in range(start):
            pi[tree[ORDER, at]] -= by
        for at in range(end, pi.size):
            pi[tree[ORDER, at]] -= by


@_kernel  # type: ignore[untyped-decorator]
def pivot(
    tree: Index, flow: Whole, pi: Whole, rows: int, source: int, sink: int, reduced: int, spare: Index
) -> None:
    """Bring an arc from a source to a sink into the tree, for the one on its circle that is emptied first."""
    top, leaving, at_source = leaving_arc(tree, flow, rows, source, sink)
    least, k, start = flow[leaving], np.int64(tree[SIZE, leaving]), np.int64(tree[PLACE, leaving])
    inner, outer = (source, sink) if at_source else (sink, source)
    x = inner
    sign = least if at_source else -least
    while x != top:
        flow[x] += -sign if x < rows else sign
        x = tree[PARENT, x]
    x = tree[PARENT, leaving]
    while x != top:
        tree[SIZE, x] -= k
        x = tree[PARENT, x]
    x = outer
    while x != top:
        flow[x] += sign if x < rows else -sign
        tree[SIZE, x] += k
        x = tree[PARENT, x]
    shift(tree, pi, start, start + k, reduced if at_source else -reduced)
    target = np.int64(tree[PLACE, outer]) + 1
    turned(tree, flow, leaving, inner, spare)
    settle(tree, start, k, target, spare)
    tree[PARENT, inner], flow[inner] = outer, least
