"""Which faces may belong to one cell: the candidate rule of docs/architecture.md, section 4.

All comparisons are between integers and treat both directions of z alike, so that no chunk border, order of
rows or flip of the volume can change which candidates there are.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """The layer table with what the rule asks for often."""

    layers: LayerTable
    first: Int
    last: Int
    largest: Int
    usable: Bool
    keys: Int
    span: int

    @classmethod
    def of(cls, layers: LayerTable, excluded: npt.NDArray[np.uint64]) -> _Facts:
        start = layers.start
        if not len(layers.labels):
            empty = np.zeros(0, np.int64)
            return cls(layers, empty, empty, empty, np.zeros(0, bool), empty, 1)
        span = int(layers.z.max()) + 1
        member = np.repeat(np.arange(len(layers.labels)), np.diff(start))
        return cls(
            layers,
            first=layers.z[start[:-1]],
            last=layers.z[start[1:] - 1],
            largest=np.maximum.reduceat(layers.area, start[:-1]),
            usable=~layers.too_large & ~np.isin(layers.labels, excluded),
            keys=member * span + layers.z,
            span=span,
        )

    def area(self, member: Int, z: Int) -> Int:
        return self._value(self.layers.area, member, z)

    def back(self, member: Int, z: Int, lag: int) -> Int:
        return self._value(self.layers.back[:, lag - 1], member, z)

    def _value(self, column: Int, member: Int, z: Int) -> Int:
        """Values of the rows (label, z), 0 where the label is not in that layer."""
        key = member * self.span + z
        at = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        there = (z >= 0) & (z < self.span) & (self.keys[at] == key)
        return np.where(there, column[at], 0)


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
    barred = np.asarray(excluded, np.uint64).reshape(-1)
    facts = _Facts.of(layers, barred)
    if not len(layers.labels):
        return _finished(facts, _no_rows(), {})
    if rule == "paper":
        return _finished(facts, _paper(facts, _splits(facts, pairs)), {})
    rows = _faces(facts, _splits(facts, pairs).plus(_holes(facts, max_gap)))
    return _with_chains(facts, rows.in_order(), _links(facts, pairs, stacked), max_gap)


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


def _splits(facts: _Facts, pairs: Columns) -> _Rows:
    a, b = facts.layers.index(pairs["a"]), facts.layers.index(pairs["b"])
    z, gap, overlap = (pairs[name].astype(np.int64) for name in ("z", "gap", "overlap"))
    rows = _Rows(a, b, z, gap, overlap, np.zeros(len(a), bool))
    return rows.take(facts.usable[a] & facts.usable[b])


def _holes(facts: _Facts, max_gap: int) -> _Rows:
    rows = _no_rows()
    member = np.repeat(np.arange(len(facts.layers.labels)), np.diff(facts.layers.start))
    for gap in range(1, max_gap + 1):
        overlap = facts.layers.back[:, gap]
        at = np.flatnonzero((overlap > 0) & facts.usable[member])
        who, z = member[at], facts.layers.z[at] - gap - 1
        rows = rows.plus(_Rows(who, who, z, np.full(len(at), gap), overlap[at], np.zeros(len(at), bool)))
    return rows


def _faces(facts: _Facts, rows: _Rows) -> _Rows:
    """The rows of which a's layer is an end face and b's a start face."""
    end, end_sliver = _end_face(facts, rows, rows.a, rows.z, +1)
    start, start_sliver = _end_face(facts, rows, rows.b, rows.z + rows.gap + 1, -1)
    return _Rows(rows.a, rows.b, rows.z, rows.gap, rows.overlap, end_sliver | start_sliver).take(end & start)


def _end_face(facts: _Facts, rows: _Rows, member: Int, z: Int, step: int) -> tuple[Bool, Bool]:
    """Whether each label ends at its face, looking along `step`, and whether that passes over slivers.

    Nowhere may more than a sliver remain. Without slivers nothing goes on at any lag; with them, nothing goes
    on beyond the last one, and at least one layer lies there.
    """
    area = facts.area(member, z)
    ends = area > 0
    slivers = np.zeros(len(z), np.int64)
    lags = np.where(rows.a == rows.b, rows.gap, rows.gap + 1)
    for lag in range(1, facts.layers.back.shape[1] + 1):
        asked = lag <= lags
        ends &= ~asked | (_REMAINS * facts.area(member, z + step * lag) < area)
        later = np.maximum(z, z + step * lag)
        goes_on = _GOES_ON * facts.back(member, later, lag) >= area
        slivers = np.where(asked & goes_on, lag, slivers)
    return ends & (slivers < lags), slivers > 0


def _paper(facts: _Facts, rows: _Rows) -> _Rows:
    wanted = (rows.gap == 1) & (facts.last[rows.a] == rows.z) & (facts.first[rows.b] == rows.z + 2)
    return rows.take(wanted).in_order()


def _links(facts: _Facts, pairs: Columns, stacked: Columns) -> _Rows:
    """Facing layers of any two labels of which one is thin, touching ones too: what may lie in a gap."""
    touching: Columns = {"a": stacked["a"], "b": stacked["b"], "overlap": stacked["n"]}
    rows = _splits(facts, pairs)
    zero = np.zeros(len(stacked["a"]), np.int64)
    for z in ("z_min", "z_max"):
        rows = rows.plus(_splits(facts, touching | {"z": stacked[z], "gap": zero}))
    # A link meets the thin label at its first or last layer; there the contacts of stacked rows are all of
    # them, but for what slivers of the other label add.
    thin = facts.last - facts.first + 1 < facts.layers.back.shape[1]
    a_thin = thin[rows.a] & (facts.last[rows.a] == rows.z)
    b_thin = thin[rows.b] & (facts.first[rows.b] == rows.z + rows.gap + 1)
    return rows.take(a_thin | b_thin).in_order()


def _with_chains(facts: _Facts, rows: _Rows, links: _Rows, max_gap: int) -> Candidates:
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
        rows = rows.take(rows.gap < gap).plus(links.take(above[chain])).plus(links.take(below[chain]))
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


def _between(facts: _Facts, rows: _Rows, links: _Rows) -> tuple[Int, Int, Int, Int]:
    """Labels that lie wholly inside the gap of a row and face both of its faces.

    Returns
    -------
    tuple of ndarray of int64, shape (n,)
        The label, the row, the link above the label and the link below it.
    """
    down = np.flatnonzero(facts.first[links.b] == links.z + links.gap + 1)
    up = np.flatnonzero(facts.last[links.a] == links.z)
    # Every row meets the links that leave its upper face ...
    order = np.lexsort([links.z[down], links.a[down]])
    down = down[order]
    leaving = links.a[down] * facts.span + links.z[down]
    face = rows.a * facts.span + rows.z
    low, high = np.searchsorted(leaving, face), np.searchsorted(leaving, face, side="right")
    owner = np.repeat(np.arange(len(face)), high - low)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
    above = down[low[owner] + offset]
    label = links.b[above]
    fits = facts.last[label] < rows.z[owner] + rows.gap[owner] + 1
    above, owner, label = above[fits], owner[fits], label[fits]
    # ... and of these labels, those from which a link reaches its lower face.
    arriving = np.stack([links.a[up], links.b[up], links.z[up] + links.gap[up] + 1], axis=1)
    wanted = np.stack([label, rows.b[owner], rows.z[owner] + rows.gap[owner] + 1], axis=1)
    table = {tuple(key): i for key, i in zip(arriving.tolist(), up.tolist(), strict=True)}
    below = np.array([table.get(tuple(key), -1) for key in wanted.tolist()], np.int64)
    met = below >= 0
    return label[met], owner[met], above[met], below[met]


def _finished(facts: _Facts, rows: _Rows, noise: dict[int, list[int]]) -> Candidates:
    labels = facts.layers.labels
    if len(labels):
        area_a, area_b = facts.area(rows.a, rows.z), facts.area(rows.b, rows.z + rows.gap + 1)
    else:
        area_a = area_b = rows.z
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
