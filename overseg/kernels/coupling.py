"""The cheapest way to carry the mass of one closed curve onto another: a transport simplex in integers.

Two outlines that face each other are nearly matched by going round both at once. The simplex starts from the
best such round and is left with a few exchanges, where a general solver would have to find the round first.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]

# Columns of a tree, one row for each node: the sources, then the goals; -1 is nobody.
_PARENT, _FLOW, _DEPTH, _CHILD, _AFTER, _BEFORE = range(6)


def coupling(cost: Int) -> tuple[Int, Int, Int]:
    """Optimal transport between the points of two closed curves, each of uniform mass.

    Every source gives m units and every goal takes n. The basis is a spanning tree kept with parents, depths
    and children; supplies are perturbed by less than half a unit (Orden, Management Science 2, 1956), so that
    no basis is degenerate and every exchange lowers the cost. Equal costs give equal ways.

    Parameters
    ----------
    cost : ndarray of int64, shape (n, m)
        Costs from each point of one curve, in order along it, to each of the other; below 2**53.

    Returns
    -------
    source, goal, units : ndarray of int64, shape (k,)
        What is carried from where to where, at least one unit each; at most n + m - 1 ways.
    """
    ways: tuple[Int, Int, Int] = solve(np.ascontiguousarray(cost, np.int64))
    return ways


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def solve(cost: Int) -> tuple[Int, Int, Int]:
    """`coupling` for compiled callers."""
    n, m = cost.shape
    tree = _round(n, m, _turn(cost))
    root = n // 2  # half way round, so that little hangs below any way
    _hang(tree, root, -1, np.int64(0), 0)
    price = np.zeros(n + m, np.int64)
    _spread(tree, root, cost, price)
    row = 0
    while True:
        i, j, row = _cheaper(cost, price, row)
        if i < 0:
            return _ways(tree, n, m)  # type: ignore[no-any-return]
        _exchange(tree, i, n + j, cost, price)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _turn(cost: Int) -> int:
    # The goal at which to start, for the cheapest round, as a quarter of the sources see it.
    n, m = cost.shape
    total = np.zeros(m, np.int64)
    for i in range(0, n, 4):
        ahead = i * m // n
        for turn in range(m - ahead):
            total[turn] += cost[i, turn + ahead]
        for turn in range(m - ahead, m):
            total[turn] += cost[i, turn + ahead - m]
    return int(total.argmin())


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _round(n: int, m: int, turn: int) -> Int:
    # Go round both curves and carry what there is; source 0 is the root.
    tree = np.full((n + m, 6), -1)
    tree[0, _FLOW] = tree[0, _DEPTH] = 0
    part = 2 * n + 2
    left, wanted = m * part + 1, n * part
    i, j, goal_is_new = 0, 0, True
    for _ in range(n + m - 1):
        goal = n + (turn + j) % m
        if goal_is_new and j == m - 1:
            wanted += n
        node, up = (goal, i) if goal_is_new else (i, goal)
        units = min(left, wanted)
        tree[node, _FLOW] = units
        tree[node, _PARENT] = up
        _attach(tree, node, up)
        left, wanted = left - units, wanted - units
        goal_is_new = wanted == 0
        if goal_is_new:
            j, wanted = j + 1, n * part
        else:
            i, left = i + 1, m * part + 1
    return tree


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _attach(tree: Int, node: int, up: int) -> None:
    child = tree[up, _CHILD]
    tree[node, _AFTER], tree[node, _BEFORE] = child, -1
    if child >= 0:
        tree[child, _BEFORE] = node
    tree[up, _CHILD] = node


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _detach(tree: Int, node: int, up: int) -> None:
    before, after = tree[node, _BEFORE], tree[node, _AFTER]
    if before >= 0:
        tree[before, _AFTER] = after
    else:
        tree[up, _CHILD] = after
    if after >= 0:
        tree[after, _BEFORE] = before


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hang(tree: Int, node: int, up: int, carried: int, top: int) -> None:
    # Hang the tree below `top` up at `node`, under `up`: the ways between them turn round.
    while True:
        old, own = tree[node, _PARENT], tree[node, _FLOW]
        if old >= 0:
            _detach(tree, node, old)
        tree[node, _PARENT], tree[node, _FLOW] = up, carried
        if up >= 0:
            _attach(tree, node, up)
        if node == top:
            return
        node, up, carried = old, node, own


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _spread(tree: Int, top: int, cost: Int, price: Int) -> None:
    # Depths and prices from `top` down: the prices at both ends of a way add up to its cost.
    n = cost.shape[0]
    node = top
    while True:
        up = tree[node, _PARENT]
        if up >= 0:
            tree[node, _DEPTH] = tree[up, _DEPTH] + 1
            price[node] = (cost[node, up - n] if node < n else cost[up, node - n]) - price[up]
        else:
            tree[node, _DEPTH] = price[node] = 0
        if tree[node, _CHILD] >= 0:
            node = tree[node, _CHILD]
            continue
        while node != top and tree[node, _AFTER] < 0:
            node = tree[node, _PARENT]
        if node == top:
            return
        node = tree[node, _AFTER]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _cheaper(cost: Int, price: Int, row: int) -> tuple[int, int, int]:
    # The way that saves most in the next rows that hold one, and the row after; -1 where none saves anything.
    n, m = cost.shape
    block = max(1, 1000 // m)
    best, i, j = np.int64(0), -1, -1
    for k in range(n):
        least = np.int64(1 << 62)
        for column in range(m):
            least = min(least, cost[row, column] - price[n + column])
        if least - price[row] < best:
            best, i = least - price[row], row
        row = row + 1 if row + 1 < n else 0
        if (k + 1) % block == 0 and i >= 0:
            break
    if i >= 0:
        for column in range(m):
            if cost[i, column] - price[n + column] - price[i] == best:
                j = column
                break
    return i, j, row


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _exchange(tree: Int, i: int, j: int, cost: Int, price: Int) -> None:
    # Carry from source i to goal j what the ways on the other way round, through the tree, can spare.
    n = cost.shape[0]
    p, q = i, j
    leaving, end, units = -1, -1, np.int64(0)
    while p != q:  # ways lose upwards from sources on the side of i, and from goals on that of j
        if tree[p, _DEPTH] >= tree[q, _DEPTH]:
            if p < n and (leaving < 0 or tree[p, _FLOW] < units):
                leaving, end, units = p, i, tree[p, _FLOW]
            p = tree[p, _PARENT]
        else:
            if q >= n and (leaving < 0 or tree[q, _FLOW] < units):
                leaving, end, units = q, j, tree[q, _FLOW]
            q = tree[q, _PARENT]
    meeting, gain, node = p, -units, i
    while node != meeting:
        tree[node, _FLOW] += gain
        gain, node = -gain, tree[node, _PARENT]
    gain, node = -units, j
    while node != meeting:
        tree[node, _FLOW] += gain
        gain, node = -gain, tree[node, _PARENT]
    _hang(tree, end, i + j - end, units, leaving)
    _spread(tree, end, cost, price)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ways(tree: Int, n: int, m: int) -> tuple[Int, Int, Int]:
    # Undo the perturbation: every source gave a part too many, and the last goal took them all.
    ways = np.empty((n + m - 1, 3), np.int64)
    k = 0
    for node in range(n + m):
        up = tree[node, _PARENT]
        units = (tree[node, _FLOW] + n + 1) // (2 * n + 2)  # at most n parts too many or too few
        if up >= 0 and units > 0:
            ways[k, 0], ways[k, 1] = (node, up - n) if node < n else (up, node - n)
            ways[k, 2] = units
            k += 1
    return ways[:k, 0].copy(), ways[:k, 1].copy(), ways[:k, 2].copy()
