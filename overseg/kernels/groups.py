"""Merged labels as one: their solids and contacts are sums of their members'."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overseg.kernels.bodies import Neighbours
from overseg.kernels.reduce import CONTACT_COLUMNS
from overseg.kernels.solids import Solids, Touches
from overseg.kernels.sums import KEY, SUM, add_up
from overseg.kernels.tables import Int, Labels


@dataclass(frozen=True)
class Groups:
    """Which labels became which.

    Attributes
    ----------
    old, new : ndarray of uint64, shape (k,)
        Labels that changed, sorted by `old`; `new` is the smallest label of the group and no `old`.
    """

    old: Labels
    new: Labels

    @classmethod
    def none(cls) -> Groups:
        """No label changed."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint64))

    def root(self, labels: Labels) -> Labels:
        """The label that each of `labels` has now."""
        if not len(self.old):
            return labels.copy()
        at = np.minimum(np.searchsorted(self.old, labels), len(self.old) - 1)
        return np.where(self.old[at] == labels, self.new[at], labels)

    def members(self, roots: Labels) -> Labels:
        """All labels that became one of these, and these."""
        return np.union1d(np.unique(roots), self.old[np.isin(self.new, roots)])


def grouped(around: Neighbours, groups: Groups, fills: Solids | None = None) -> Neighbours:
    """The neighbourhood after the merges.

    Parameters
    ----------
    around : Neighbours
        If it holds contacts of one member of a group, then of all.
    groups : Groups
    fills : Solids, optional
        Voxels that were added to groups.

    Returns
    -------
    Neighbours
        A neighbour of which not all members are in `around` is as large as those that are.
    """
    touches, inner = _joined_touches(around.touches, groups)
    parts = [around.solids]
    if fills is not None:
        parts.append(fills.take(np.isin(fills.label, groups.root(around.solids.label))))
    everything = Solids.of(np.concatenate([part.matrix for part in parts]))
    solids = _joined_solids(everything, groups, around.touches.take(inner))
    start = np.searchsorted(touches.a, solids.label)
    return Neighbours(solids, np.append(start, len(touches)), touches)


def joined_contacts(touches: Touches, groups: Groups) -> Touches:
    """Contacts seen from both sides, after the merges; those within a group are gone."""
    return _joined_touches(touches, groups)[0]


def run_sums(label: Labels, z: Int, y: Int, x0: Int, x1: Int) -> Solids:
    """Runs of voxels as solid bodies, one for each label; no faces are counted.

    Parameters
    ----------
    label : ndarray of uint64, shape (n,)
    z, y, x0, x1 : ndarray of int64, shape (n,)
        Layer, row and half-open range along x of each run.

    Returns
    -------
    Solids
    """
    n = x1 - x0
    sx = (x0 + x1 - 1) * n // 2
    sxx = _squares_below(x1) - _squares_below(x0)
    sums = np.stack([z * n, y * n, sx, z * z * n, y * y * n, sxx, z * y * n, z * sx, y * sx], axis=1)
    box = np.stack([z, z + 1, y, y + 1, x0, x1], axis=1)
    none = np.zeros((len(n), 3), np.int64)
    no_touches = Touches.of(np.zeros((0, len(CONTACT_COLUMNS)), np.int64))
    runs = Solids(label, n, box, sums, none, none, np.zeros(len(n), np.int64))
    return _joined_solids(runs, Groups.none(), no_touches)


def _squares_below(n: Int) -> Int:
    """0² + 1² + .. + (n - 1)²."""
    squares: Int = (n - 1) * n * (2 * n - 1) // 6
    return squares


def _joined_touches(touches: Touches, groups: Groups) -> tuple[Touches, Int]:
    """Contacts after the merges, and which were within one group."""
    a, b = groups.root(touches.a), groups.root(touches.b)
    named = Touches(a, b, touches.faces, touches.signed, touches.sums)
    rows = named.take(a != b).matrix
    order = np.lexsort((rows[:, 1].view(np.uint64), rows[:, 0].view(np.uint64)))
    ways = [KEY, KEY, *[SUM] * (len(CONTACT_COLUMNS) - 2)]
    return Touches.of(add_up(np.ascontiguousarray(rows[order]), 2, ways)), np.flatnonzero(a == b)


def _joined_solids(solids: Solids, groups: Groups, inner: Touches) -> Solids:
    names, where = np.unique(groups.root(solids.label), return_inverse=True)
    order = np.argsort(where, kind="stable")
    first = np.searchsorted(where[order], np.arange(len(names)))

    def added(values: Int) -> Int:
        found: Int = np.add.reduceat(values[order], first) if len(names) else values
        return found

    faces = added(solids.faces)
    # Each contact within a group comes twice, once from either side: both lie inside now.
    np.subtract.at(faces, np.searchsorted(names, groups.root(inner.a)), inner.faces)
    box = np.empty((len(names), 6), np.int64)
    for side in range(6):
        how = np.maximum if side % 2 else np.minimum
        box[:, side] = how.reduceat(solids.box[order, side], first) if len(names) else 0
    flags = np.bitwise_or.reduceat(solids.flags[order], first) if len(names) else solids.flags
    return Solids(names, added(solids.n), box, added(solids.sums), faces, added(solids.bare), flags)
