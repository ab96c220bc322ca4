"""Which faces may belong to one cell: the candidate rule of docs/architecture.md, section 4.

All comparisons are between integers and treat both directions of z alike, so that no chunk border, order of
rows or flip of the volume can change which candidates there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from overseg.kernels.reduce import Columns
from overseg.kernels.scan import scan_array
from overseg.kernels.tables import Bool, Candidates, Int, LayerTable

__all__ = ["find_candidates", "scan_array", "touching_not_judged"]

#: A face ends a label when less than 1/20 of it goes on, and what remains is below 1/4 of it.
_GOES_ON = 20
#: Noise is below 1/4 of the smaller face, too.
_REMAINS = 4


@dataclass(frozen=True)
class _Facts:
    """The layer table with what the rule asks for often.

    Attributes
    ----------
    first, last, largest : ndarray of int64, shape (m,)
        First and last layer of each label, and the area of its largest layer.
    usable : ndarray of bool, shape (m,)
        May be a candidate.
    member, keys : ndarray of int64, shape (n,)
        Label of each row as a position in `layers.labels`, and label and layer in one number.
    span : int
        Layers are below this.
    end, start : ndarray of int8, shape (lags + 1, n)
        Whether the row is a face when so many lags below (above) it are looked at: -1 if not, 1 if that
        passes over slivers, else 0.
    """

    layers: LayerTable
    first: Int
    last: Int
    largest: Int
    usable: Bool
    member: Int
    keys: Int
    span: int
    end: npt.NDArray[np.int8]
    start: npt.NDArray[np.int8]

    @classmethod
    def of(cls, layers: LayerTable, excluded: npt.NDArray[np.uint64]) -> _Facts:
        start = layers.start
        span = int(layers.z.max(initial=0)) + 1
        member = np.repeat(np.arange(len(layers.labels)), np.diff(start))
        return cls(
            layers,
            first=layers.z[start[:-1]],
            last=layers.z[start[1:] - 1],
            largest=np.maximum.reduceat(layers.area, start[:-1]) if len(layers.labels) else layers.area,
            usable=~layers.too_large & ~np.isin(layers.labels, excluded),
            member=member,
            keys=member * span + layers.z,
            span=span,
            end=_ends(layers, member, +1),
            start=_ends(layers, member, -1),
        )

    @property
    def ends(self) -> Bool:
        """Rows that are end faces at some lag."""
        return np.asarray((self.end >= 0).any(axis=0), bool)

    @property
    def starts(self) -> Bool:
        """Rows that are start faces at some lag."""
        return np.asarray((self.start >= 0).any(axis=0), bool)

    def row(self, member: Int, z: Int) -> Int:
        """Rows of the labels in these layers; -1 where a label is not in its layer."""
        if not len(self.keys):
            return np.full(len(member), -1, np.int64)
        key = member * self.span + z
        at = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        return np.where((z >= 0) & (z < self.span) & (self.keys[at] == key), at, -1)

    def area(self, member: Int, z: Int) -> Int:
        """Areas of the labels in these layers, 0 where a label is not in its layer."""
        row = self.row(member, z)
        return np.where(row >= 0, self.layers.area[row], 0) if len(self.keys) else row


@dataclass(frozen=True)
class _Rows:
    """Candidates in the making; a and b as positions in the table's labels."""

    a: Int
    b: Int
    z: Int
    gap: Int
    overlap: Int
    sliver: Bool

    def take(self, which: Int | Bool) -> _Rows:
        return _Rows(
            self.a[which],
            self.b[which],
            self.z[which],
            self.gap[which],
            self.overlap[which],
            self.sliver[which],
        )

    def plus(self, other: _Rows) -> _Rows:
        return _Rows(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in self.__annotations__))

    def in_order(self) -> _Rows:
        """Sorted by (a, b, z, gap), each key once."""
        order = np.lexsort([self.gap, self.z, self.b, self.a])
        rows = self.take(order)
        same = np.zeros(len(order), bool)
        same[1:] = (np.diff(rows.a) == 0) & (np.diff(rows.b) == 0)
        same[1:] &= (np.diff(rows.z) == 0) & (np.diff(rows.gap) == 0)
        return rows.take(~same)


def find_candidates(
    layers: LayerTable,
    pairs: Columns,
    stacked: Columns,
    max_gap: int,
    rule: Literal["default", "paper"] = "default",
    excluded: npt.ArrayLike = (),
) -> Candidates:
    """Pairs of faces across one to `max_gap` missing layers, and the links of chains.

    Parameters
    ----------
    layers : LayerTable
        Every label in every layer.
    pairs, stacked : dict of ndarray
        Facing and touching labels, merged over all tasks.
    max_gap : int
        Layers that may be missing.
    rule : {"default", "paper"}
        The faces of section 4, or the globally last layer of a and first of b with one layer missing, as
        published (arXiv 2502.01890).
    excluded : array_like of uint64
        Labels that are never candidates, such as an unmarked background.

    Returns
    -------
    Candidates
        Sorted by (a, b, z, gap).
    """
    facts = _Facts.of(layers, np.asarray(excluded, np.uint64).reshape(-1))
    facing = _facing(facts, pairs)
    if rule == "paper":
        return _finished(facts, _paper(facts, facing), {})
    rows = _faces(facts, facing).plus(_holes(facts, max_gap))
    touching: Columns = {"a": stacked["a"], "b": stacked["b"], "overlap": stacked["n"]}
    touching["gap"] = np.zeros(len(stacked["n"]), np.int64)
    contacts = [_facing(facts, touching | {"z": stacked[z]}) for z in ("z_min", "z_max")]
    links = _Links.of(facts, facing.plus(contacts[0]).plus(contacts[1]))
    return _with_chains(facts, rows.in_order(), links, max_gap)


def touching_not_judged(
    layers: LayerTable, stacked: Columns, candidates: Candidates, excluded: npt.ArrayLike = ()
) -> int:
    """How many labels end right above the start of another: flat splits or cells, which nobody judged.

    Parameters
    ----------
    layers : LayerTable
        Every label in every layer.
    stacked : dict of ndarray
        Touching labels.
    candidates : Candidates
        Links of chains among them are judged, so they do not count.
    excluded : array_like of uint64
        Labels that are never candidates.

    Returns
    -------
    int
    """
    if not len(layers.labels):
        return 0
    facts = _Facts.of(layers, np.asarray(excluded, np.uint64).reshape(-1))
    a, b = layers.index(stacked["a"]), layers.index(stacked["b"])
    flat = facts.usable[a] & facts.usable[b]
    flat &= (facts.last[a] == stacked["z_max"]) & (facts.first[b] == stacked["z_max"] + 1)
    m = len(layers.labels)
    zero = candidates.gap == 0
    judged = layers.index(candidates.a[zero]) * m + layers.index(candidates.b[zero])
    return int((flat & ~np.isin(a * m + b, judged)).sum())


def _no_rows() -> _Rows:
    none = np.zeros(0, np.int64)
    return _Rows(none, none, none, none, none, np.zeros(0, bool))


def _ends(layers: LayerTable, member: Int, step: int) -> npt.NDArray[np.int8]:
    """Where labels end, looking along `step`; see `_Facts`.

    Nowhere may more than a sliver remain. Without slivers nothing goes on at any lag; with them, nothing goes
    on beyond the last one, and at least one layer lies there.
    """
    n, lags = layers.back.shape
    ends = np.full((lags + 1, n), -1, np.int8)
    face = np.ones(n, bool)
    slivers = np.zeros(n, np.int8)
    for lag in range(1, lags + 1):
        remains, goes_on = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for distance in range(1, min(lag, n - 1) + 1):
            # Rows of a label lie together in order of z: the one `lag` layers on is at most `lag` rows away.
            above, below = slice(None, n - distance), slice(distance, None)
            met = (member[above] == member[below]) & (layers.z[below] - layers.z[above] == lag)
            here, there = (above, below) if step > 0 else (below, above)
            remains[here][met] = layers.area[there][met]
            goes_on[here][met] = layers.back[below, lag - 1][met]
        face &= _REMAINS * remains < layers.area
        slivers[_GOES_ON * goes_on >= layers.area] = lag
        ends[lag, face & (slivers < lag)] = 0
        ends[lag, face & (slivers < lag) & (slivers > 0)] = 1
    return ends


def _facing(facts: _Facts, pairs: Columns) -> _Rows:
    """The pairs of usable labels of which a's layer is an end face and b's a start face, at some lag."""
    z, gap = pairs["z"].astype(np.int64), pairs["gap"].astype(np.int64)
    a = facts.layers.index(pairs["a"])
    row = facts.row(a, z)
    kept = np.flatnonzero(facts.usable[a] & facts.ends[row])
    a, z, gap = a[kept], z[kept], gap[kept]
    b = facts.layers.index(pairs["b"][kept])
    row = facts.row(b, z + gap + 1)
    rows = _Rows(a, b, z, gap, pairs["overlap"][kept].astype(np.int64), np.zeros(len(kept), bool))
    return rows.take(facts.usable[b] & facts.starts[row])


def _holes(facts: _Facts, max_gap: int) -> _Rows:
    """Gaps between two layers of one label."""
    rows = _no_rows()
    for gap in range(1, max_gap + 1):
        overlap = facts.layers.back[:, gap]
        lower = np.flatnonzero((overlap > 0) & facts.usable[facts.member] & (facts.start[gap] >= 0))
        who, z = facts.member[lower], facts.layers.z[lower] - gap - 1
        end, start = facts.end[gap, facts.row(who, z)], facts.start[gap, lower]
        found = _Rows(who, who, z, np.full(len(lower), gap), overlap[lower], (end > 0) | (start > 0))
        rows = rows.plus(found.take(end >= 0))
    return rows


def _faces(facts: _Facts, rows: _Rows) -> _Rows:
    """The rows of which both layers are faces at the lags of their gap."""
    rows = rows.take(rows.gap > 0)
    end = facts.end[rows.gap + 1, facts.row(rows.a, rows.z)]
    start = facts.start[rows.gap + 1, facts.row(rows.b, rows.z + rows.gap + 1)]
    return replace(rows, sliver=(end > 0) | (start > 0)).take((end >= 0) & (start >= 0))


def _paper(facts: _Facts, rows: _Rows) -> _Rows:
    wanted = (rows.gap == 1) & (facts.last[rows.a] == rows.z) & (facts.first[rows.b] == rows.z + 2)
    return rows.take(wanted).in_order()


@dataclass(frozen=True)
class _Links:
    """Rows of which one label may lie in a gap, met at its first or last layer: chains and noise.

    Attributes
    ----------
    rows : _Rows
        Contacts of stacked labels among them are all there are, but for what slivers of the other label add.
    down, leaving : ndarray of int64
        Rows with a thin lower label, ordered by `leaving`, the upper face's row of the layer table.
    up, arriving : ndarray of int64
        Rows with a thin upper label, ordered by `arriving`: that label and the lower face in one number.
    """

    rows: _Rows
    down: Int
    leaving: Int
    up: Int
    arriving: Int

    @classmethod
    def of(cls, facts: _Facts, rows: _Rows) -> _Links:
        thin = facts.last - facts.first + 1 < facts.layers.back.shape[1]
        a_thin = thin[rows.a] & (facts.last[rows.a] == rows.z)
        b_thin = thin[rows.b] & (facts.first[rows.b] == rows.z + rows.gap + 1)
        rows = rows.take(a_thin | b_thin).in_order()
        down = np.flatnonzero(facts.first[rows.b] == rows.z + rows.gap + 1)
        up = np.flatnonzero(facts.last[rows.a] == rows.z)
        leaving = facts.row(rows.a[down], rows.z[down])
        arriving = rows.a[up] * len(facts.keys) + facts.row(rows.b[up], rows.z[up] + rows.gap[up] + 1)
        by_face, by_label = np.argsort(leaving, kind="stable"), np.argsort(arriving, kind="stable")
        return cls(rows, down[by_face], leaving[by_face], up[by_label], arriving[by_label])


def _with_chains(facts: _Facts, rows: _Rows, links: _Links, max_gap: int) -> Candidates:
    """Labels wholly inside a gap: small ones are noise, larger ones turn a candidate into links."""
    inside, owner, _, _ = _between(facts, rows, links)
    small = _is_noise(facts, rows, inside, owner)
    noisy = np.zeros(len(facts.layers.labels), bool)
    noisy[inside[small]] = True

    rows = rows.take(~noisy[rows.a] & ~noisy[rows.b])
    kept = _no_rows()
    # Links are shorter than what they replace: one sweep from the widest gap down meets each row once.
    for gap in range(max_gap, -1, -1):
        rows = rows.in_order()
        now = rows.take(rows.gap == gap)
        inside, owner, above, below = _between(facts, now, links)
        chain = ~noisy[inside]
        broken = np.zeros(len(now.a), bool)
        broken[owner[chain]] = True
        kept = kept.plus(now.take(~broken))
        rows = rows.take(rows.gap < gap).plus(links.rows.take(np.union1d(above[chain], below[chain])))
    kept = kept.in_order()
    inside, owner, _, _ = _between(facts, kept, links)
    small = noisy[inside] & _is_noise(facts, kept, inside, owner)
    absorbed: dict[int, list[int]] = {}
    for who, label in zip(owner[small].tolist(), facts.layers.labels[inside[small]].tolist(), strict=True):
        absorbed.setdefault(who, []).append(label)
    return _finished(facts, kept, absorbed)


def _is_noise(facts: _Facts, rows: _Rows, inside: Int, owner: Int) -> Bool:
    face = np.minimum(facts.area(rows.a, rows.z), facts.area(rows.b, rows.z + rows.gap + 1))
    return _REMAINS * facts.largest[inside] < face[owner]


def _between(facts: _Facts, rows: _Rows, links: _Links) -> tuple[Int, Int, Int, Int]:
    """Labels that lie wholly inside the gap of a row and face both of its faces.

    Returns
    -------
    tuple of ndarray of int64, shape (n,)
        The label, the row, the link above the label and the link below it.
    """
    # Every row meets the links that leave its upper face ...
    face = facts.row(rows.a, rows.z)
    low, high = np.searchsorted(links.leaving, face), np.searchsorted(links.leaving, face, side="right")
    owner = np.repeat(np.arange(len(face)), high - low)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
    above = links.down[low[owner] + offset]
    label = links.rows.b[above]
    fits = facts.last[label] < rows.z[owner] + rows.gap[owner] + 1
    above, owner, label = above[fits], owner[fits], label[fits]
    # ... and of these labels, those from which a link reaches its lower face.
    lower = facts.row(rows.b, rows.z + rows.gap + 1)[owner]
    wanted = label * len(facts.keys) + lower
    at = np.searchsorted(links.arriving, wanted)
    met = at < len(links.arriving)
    met[met] = links.arriving[at[met]] == wanted[met]
    return label[met], owner[met], above[met], links.up[at[met]]


def _finished(facts: _Facts, rows: _Rows, noise: dict[int, list[int]]) -> Candidates:
    labels = facts.layers.labels
    area_a, area_b = facts.area(rows.a, rows.z), facts.area(rows.b, rows.z + rows.gap + 1)
    return Candidates(
        a=labels[rows.a],
        b=labels[rows.b],
        z=rows.z,
        gap=rows.gap,
        overlap=np.minimum(rows.overlap, np.minimum(area_a, area_b)),
        area_a=area_a,
        area_b=area_b,
        hole=rows.a == rows.b,
        sliver=rows.sliver,
        noise=tuple(tuple(sorted(noise.get(i, ()))) for i in range(len(rows.a))),
    )
