"""Pairs of labels that face or touch each other, looked at from the upper's side, then from the lower's.

Either side needs the rows of its own labels alone, so that partitions of the labels can be worked on apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from overseg.kernels.faces import face_codes, is_face, passes_slivers, rows_at, rows_of_ends
from overseg.kernels.reduce import Columns
from overseg.kernels.tables import Bool, Int, Labels, LayerTable

Rule = Literal["default", "paper"]

#: What is known of a contact, as bits of `Contacts.flags`. Thin labels may lie in a gap.
A_LAST, A_THIN, B_FIRST, B_THIN = 1, 2, 4, 8
CANDIDATE, SLIVER, LOWEST = 16, 32, 64

_LABELS = frozenset({"a", "b", "label"})


class _Table:
    """A frozen dataclass of columns, which is a matrix of int64 on disk."""

    @property
    def matrix(self) -> Int:
        """Shape (rows, columns); labels above 2^63 keep their bits."""
        columns = [getattr(self, each.name).astype(np.int64, copy=False) for each in fields(self)]  # type: ignore[arg-type]
        return np.stack(columns, axis=1)

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]


def _columns(names: Sequence[str], matrices: Iterable[Int]) -> dict[str, Any]:
    none = np.zeros((0, len(names)), np.int64)
    whole = np.ascontiguousarray(np.concatenate([none, *matrices]).T)
    return {
        name: row.view(np.uint64) if name in _LABELS else row for name, row in zip(names, whole, strict=True)
    }


@dataclass(frozen=True)
class Contacts(_Table):
    """Columns (y, x) in which label a lies above label b, nothing of either between.

    Attributes
    ----------
    a, b : ndarray of uint64, shape (n,)
    z, gap, overlap : ndarray of int64, shape (n,)
        Layer of a, layers between, columns. Of stacked labels (gap 0) all contacts count, in whatever layer.
    area_a, area_b : ndarray of int64, shape (n,)
        Areas of the two masks; that of b is 0 until it was looked at.
    end : ndarray of int64, shape (n,)
        Code of a's mask as an end face, see `overseg.kernels.faces`.
    last_b, largest_b : ndarray of int64, shape (n,)
        Last layer of b and its largest area; 0 until it was looked at.
    flags : ndarray of int64, shape (n,)
        ``A_LAST``: layer z is a's last; ``A_THIN``: a may lie in a gap; the same of b. ``CANDIDATE``: both
        masks are faces at the lags of the gap; ``SLIVER``: by passing over slivers. ``LOWEST``: where two
        stacked labels touch for the last time.
    """

    a: Labels
    b: Labels
    z: Int
    gap: Int
    overlap: Int
    area_a: Int
    area_b: Int
    end: Int
    last_b: Int
    largest_b: Int
    flags: Int

    @classmethod
    def of(cls, *matrices: Int) -> Contacts:
        """From rows as `matrix` gives them, one after the other."""
        return cls(**_columns([each.name for each in fields(cls)], matrices))

    def take(self, which: Int | Bool | slice) -> Contacts:
        """Some of the rows."""
        return Contacts(*(getattr(self, each.name)[which] for each in fields(self)))

    def has(self, flags: int) -> Bool:
        """Rows with all of these flags."""
        return np.asarray((self.flags & flags) == flags, bool)

    def in_order(self) -> Contacts:
        """Sorted by (a, b, z, gap), the first of each key."""
        order = np.lexsort([self.gap, self.z, self.b, self.a])
        rows = self.take(order)
        same = np.zeros(len(order), bool)
        same[1:] = (rows.a[1:] == rows.a[:-1]) & (rows.b[1:] == rows.b[:-1])
        same[1:] &= (np.diff(rows.z) == 0) & (np.diff(rows.gap) == 0)
        return rows.take(~same)


def joined(parts: Iterable[Contacts]) -> Contacts:
    """The rows of several, one after the other."""
    return Contacts.of(*(part.matrix for part in parts))


@dataclass(frozen=True)
class Faces(_Table):
    """Start faces, at whatever lag, of labels that may be candidates; sorted by (label, z).

    Attributes
    ----------
    label : ndarray of uint64, shape (n,)
    z, area, code : ndarray of int64, shape (n,)
        Layer and area of the mask, and its code, see `overseg.kernels.faces`.
    first, last, largest : ndarray of int64, shape (n,)
        Of the label: its first and last layer, and the area of its largest layer.
    """

    label: Labels
    z: Int
    area: Int
    code: Int
    first: Int
    last: Int
    largest: Int

    @classmethod
    def of(cls, *matrices: Int) -> Faces:
        """From rows as `matrix` gives them, one after the other."""
        return cls(**_columns([each.name for each in fields(cls)], matrices))

    def find(self, labels: Labels, z: Int) -> Int:
        """Rows of the faces of labels in layers; -1 where there is none."""
        names, first = np.unique(self.label, return_index=True)
        return rows_at(names, np.append(first, len(self.label)), self.z, labels, z)


@dataclass(frozen=True)
class Sides:
    """What one partition of the labels has to say about contacts.

    Attributes
    ----------
    upper : Contacts
        Of its labels with whatever lies below them.
    holes : Contacts
        Candidates within one label, complete.
    faces : Faces
        To be met from above.
    """

    upper: Contacts
    holes: Contacts
    faces: Faces


def sides_of(
    layers: LayerTable, pairs: Columns, stacked: Columns, max_gap: int, rule: Rule, excluded: Labels
) -> Sides:
    """Look at the contacts of some labels, of which all rows are given; see `find_candidates`."""
    usable = ~layers.too_large & ~np.isin(layers.labels, excluded)
    ends, starts = face_codes(layers.start, layers.z, layers.area, layers.back)
    member = np.repeat(np.arange(len(layers.labels)), np.diff(layers.start))
    ends[~usable[member]] = starts[~usable[member]] = 0
    kept = np.flatnonzero(starts)
    facts = layers.facts(layers.labels)
    faces = Faces(
        layers.label[kept],
        layers.z[kept],
        layers.area[kept],
        starts[kept],
        *(values[member[kept]] for values in (facts.first, facts.last, facts.largest)),
    )
    upper = _upper(layers, ends, pairs, stacked)
    holes = upper.take(slice(0, 0)) if rule == "paper" else _holes(layers, ends, starts, max_gap)
    return Sides(upper, holes, faces)


def _upper(layers: LayerTable, ends: Int, pairs: Columns, stacked: Columns) -> Contacts:
    """Contacts of which a's mask is an end face at some lag."""
    lowest = _ended(layers, ends, stacked, ("z_max", "n"), LOWEST)
    highest = _ended(layers, ends, stacked, ("z_min", "n"), 0)
    return joined([_ended(layers, ends, pairs, ("z", "overlap"), 0), lowest, highest])


def _ended(layers: LayerTable, ends: Int, table: Columns, names: tuple[str, str], flags: int) -> Contacts:
    """Those of some contacts of which a's mask is an end face; names of their layers and overlaps."""
    kept, row = rows_of_ends(layers.labels, layers.start, layers.z, ends, table["a"], table[names[0]])
    if names[0] == "z_min":
        # Labels that touch once are known already.
        again = table["z_min"][kept] != table["z_max"][kept]
        kept, row = kept[again], row[again]
    a, b, z, overlap = (table[name][kept] for name in ("a", "b", *names))
    none = np.zeros(len(kept), np.int64)
    gap = table["gap"][kept] if "gap" in table else none
    at = np.searchsorted(layers.start, row, side="right") - 1
    last = layers.z[layers.start[at + 1] - 1]
    thin = last - layers.z[layers.start[at]] + 1 < layers.lags
    known = flags | A_LAST * (last == z) | A_THIN * thin
    return Contacts(a, b, z, gap, overlap, layers.area[row], none, ends[row], none, none, known)


def _holes(layers: LayerTable, ends: Int, starts: Int, max_gap: int) -> Contacts:
    """Gaps between two layers of one label."""
    found = []
    for gap in range(1, max_gap + 1):
        overlap = layers.back[:, gap]
        lower = np.flatnonzero((overlap > 0) & is_face(starts, gap))
        label, z = layers.label[lower], layers.z[lower] - gap - 1
        row = rows_at(layers.labels, layers.start, layers.z, label, z)
        met = is_face(ends[row], gap)
        lower, row, label, z = lower[met], row[met], label[met], z[met]
        sliver = passes_slivers(ends[row], gap) | passes_slivers(starts[lower], gap)
        none = np.zeros(len(row), np.int64)
        found.append(
            Contacts(
                label, label, z, none + gap, overlap[lower], layers.area[row], layers.area[lower], ends[row],
                none, none, CANDIDATE | SLIVER * sliver,
            )
        )  # fmt: skip
    return joined(found)


def meet(upper: Contacts, faces: Faces, lags: int, rule: Rule) -> tuple[Contacts, int]:
    """Contacts that come down on a start face: those that may be candidates or links of a chain.

    Parameters
    ----------
    upper : Contacts
        As seen from the upper label.
    faces : Faces
        Of the lower labels, at least.
    lags : int
        Layers that faces are looked at for: the widest gap and one.
    rule : {"default", "paper"}

    Returns
    -------
    Contacts
    int
        Pairs of labels of which one ends right above the start of the other.
    """
    row = faces.find(upper.b, upper.z + upper.gap + 1)
    kept = np.flatnonzero(row >= 0)
    rows, row = upper.take(kept), row[kept]
    code, last, first = faces.code[row], faces.last[row], faces.first[row]
    flags = rows.flags | B_FIRST * (first == rows.z + rows.gap + 1) | B_THIN * (last - first + 1 < lags)
    rows = replace(rows, area_b=faces.area[row], last_b=last, largest_b=faces.largest[row], flags=flags)
    flat = rows.has(A_LAST | B_FIRST | LOWEST)
    if rule == "paper":
        wanted = rows.has(A_LAST | B_FIRST) & (rows.gap == 1)
        chosen = rows.take(wanted)
        return replace(chosen, flags=np.full(len(chosen), CANDIDATE)), int(flat.sum())
    lag = rows.gap + 1
    faced = (rows.gap > 0) & is_face(rows.end, lag) & is_face(code, lag)
    sliver = faced & (passes_slivers(rows.end, lag) | passes_slivers(code, lag))
    rows = replace(rows, flags=flags | CANDIDATE * faced | SLIVER * sliver)
    return rows.take(faced | is_link(rows)), int(flat.sum())


def is_link(rows: Contacts) -> Bool:
    """Contacts of a label that may lie in a gap, at its first or last layer."""
    return rows.has(A_LAST | A_THIN) | rows.has(B_FIRST | B_THIN)
