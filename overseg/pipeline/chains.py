"""Labels that lie wholly inside a gap: small ones are noise, larger ones turn a candidate into links."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overseg.kernels.faces import REMAINS
from overseg.kernels.tables import Bool, Candidates, Int, Labels
from overseg.pipeline.contacts import A_LAST, B_FIRST, CANDIDATE, SLIVER, Contacts, is_link, joined


def resolve(contacts: Contacts, max_gap: int) -> tuple[Candidates, int]:
    """Candidates among contacts, with chains followed and noise named.

    Parameters
    ----------
    contacts : Contacts
        Of all labels, holes among them, in any order.
    max_gap : int
        Layers that may be missing.

    Returns
    -------
    Candidates
        Sorted by (a, b, z, gap).
    int
        How many of them are links between a label that ends and one that starts right below it.
    """
    links = _Links.of(contacts.take(is_link(contacts)).in_order())
    rows = contacts.take(contacts.has(CANDIDATE)).in_order()
    names = np.unique(np.concatenate([rows.a, links.rows.a, rows.b, links.rows.b]))
    noisy = np.zeros(len(names), bool)

    def is_noisy(labels: Labels) -> Bool:
        return np.asarray(noisy[np.searchsorted(names, labels)], bool)

    owner, above, _ = links.between(rows)
    small = _is_noise(rows, links.rows, owner, above)
    noisy[np.searchsorted(names, links.rows.b[above[small]])] = True
    rows = rows.take(~is_noisy(rows.a) & ~is_noisy(rows.b))
    kept = []
    # Links are shorter than what they replace: one sweep from the widest gap down meets each row once.
    for gap in range(max_gap, -1, -1):
        rows = rows.in_order()
        now = rows.take(rows.gap == gap)
        owner, above, below = links.between(now)
        chain = ~is_noisy(links.rows.b[above])
        broken = np.zeros(len(now), bool)
        broken[owner[chain]] = True
        kept.append(now.take(~broken))
        rows = joined([rows.take(rows.gap < gap), links.rows.take(np.union1d(above[chain], below[chain]))])
    found = joined(kept).in_order()
    owner, above, _ = links.between(found)
    small = is_noisy(links.rows.b[above]) & _is_noise(found, links.rows, owner, above)
    absorbed: dict[int, list[int]] = {}
    for who, label in zip(owner[small].tolist(), links.rows.b[above[small]].tolist(), strict=True):
        absorbed.setdefault(who, []).append(label)
    flat = (found.gap == 0) & found.has(A_LAST | B_FIRST)
    return _finished(found, absorbed), int(flat.sum())


def _is_noise(rows: Contacts, links: Contacts, owner: Int, above: Int) -> Bool:
    """Whether the label below a link is small beside the faces of the row that it lies in."""
    face = np.minimum(rows.area_a, rows.area_b)
    return np.asarray(REMAINS * links.largest_b[above] < face[owner], bool)


@dataclass(frozen=True)
class _Links:
    """Contacts of which one label may lie in a gap, met at its first or last layer.

    Attributes
    ----------
    rows : Contacts
        In order. Contacts of stacked labels among them are all there are, but for what slivers of the other
        label add.
    names : ndarray of uint64
        Their labels, sorted.
    span : int
        Their layers are below this.
    lower : ndarray of int64
        Lower faces that a label's last layer meets, as keys, sorted.
    down, leaving : ndarray of int64
        Rows that come down on a label's first layer, ordered by `leaving`, the upper face's key.
    up, arriving : ndarray of int64
        Rows that leave a label's last layer, ordered by `arriving`: that label and the lower face in one
        number.
    """

    rows: Contacts
    names: Labels
    span: int
    lower: Int
    down: Int
    leaving: Int
    up: Int
    arriving: Int

    @classmethod
    def of(cls, rows: Contacts) -> _Links:
        names, below = np.unique(np.concatenate([rows.a, rows.b])), rows.z + rows.gap + 1
        span = int(below.max(initial=0)) + 1
        down, up = np.flatnonzero(rows.has(B_FIRST)), np.flatnonzero(rows.has(A_LAST))
        a, b = np.searchsorted(names, rows.a), np.searchsorted(names, rows.b)
        leaving = (a * span + rows.z)[down]
        lower, place = np.unique((b * span + below)[up], return_inverse=True)
        arriving = a[up] * len(lower) + place
        by_face, by_label = np.argsort(leaving, kind="stable"), np.argsort(arriving, kind="stable")
        ordered = down[by_face], leaving[by_face], up[by_label], arriving[by_label]
        return cls(rows, names, span, lower, *ordered)

    def between(self, rows: Contacts) -> tuple[Int, Int, Int]:
        """Labels that lie wholly inside the gap of a row and face both of its faces.

        Returns
        -------
        tuple of ndarray of int64, shape (n,)
            The row, the link above the label and the link below it.
        """
        # Every row meets the links that leave its upper face ...
        face, end = self._key(rows.a, rows.z), rows.z + rows.gap + 1
        low, high = np.searchsorted(self.leaving, face), np.searchsorted(self.leaving, face, side="right")
        owner = np.repeat(np.arange(len(face)), high - low)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
        above = self.down[low[owner] + offset]
        fits = self.rows.last_b[above] < end[owner]
        above, owner = above[fits], owner[fits]
        # ... and of the labels below these, those from which a link reaches its lower face.
        place = _position(self.lower, self._key(rows.b, end))[owner]
        label = np.searchsorted(self.names, self.rows.b[above])
        at = _position(self.arriving, np.where(place >= 0, label * len(self.lower) + place, -1))
        met = at >= 0
        return owner[met], above[met], self.up[at[met]]

    def _key(self, labels: Labels, z: Int) -> Int:
        """Label and layer in one number; -1 where no link has such a face."""
        at = _position(self.names, labels)
        return np.where((at >= 0) & (z < self.span), at * self.span + z, -1)


def _position(values: Int | Labels, wanted: Int | Labels) -> Int:
    """Where the wanted are among sorted values; -1 where they are not."""
    at = np.searchsorted(values, wanted)
    known = at < len(values)
    known[known] = values[at[known]] == wanted[known]
    return np.where(known, at, -1)


def _finished(rows: Contacts, noise: dict[int, list[int]]) -> Candidates:
    return Candidates(
        a=rows.a,
        b=rows.b,
        z=rows.z,
        gap=rows.gap,
        overlap=np.minimum(rows.overlap, np.minimum(rows.area_a, rows.area_b)),
        area_a=rows.area_a,
        area_b=rows.area_b,
        hole=rows.a == rows.b,
        sliver=rows.has(SLIVER),
        noise=tuple(tuple(sorted(noise.get(i, ()))) for i in range(len(rows))),
    )
