"""The contact graph on disk: every label with all its contacts, in the same parts as the layers.

A contact was counted under its smaller label. `graph_task` brings each to its larger label's part as well, so
that whoever wants the neighbourhood of some labels reads the rows of those.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from overseg.kernels.bodies import Neighbours, Triple, areas_of, mirrored
from overseg.kernels.groups import Groups, grouped, joined_contacts
from overseg.kernels.reduce import CONTACT_COLUMNS
from overseg.kernels.solids import Solids, Touches
from overseg.kernels.tables import BACKGROUND_LIKE, TOO_LARGE, Bool, Int, Labels
from overseg.pipeline.layerstore import LayerStore
from overseg.pipeline.sections import Sections, write_sections
from overseg.pipeline.solidstore import SolidStore

#: A contact is a candidate from this part of the smaller surface on. In trials 0.6% of all cuts were below,
#: all of them corners where pieces of a cell in three barely met, and a quarter of all contacts.
LEAST_PART = 50


@dataclass(frozen=True)
class Graph:
    """Solids and contacts of one time point. Small, and good on any machine that sees the folder.

    All methods raise `PlanError` if a part is damaged.

    Attributes
    ----------
    layers : LayerStore
        Of the same time point.
    groups : Groups
        Labels that were merged before: the graph is that of the merged cells.
    fills : Solids
        Voxels that were added to them.
    """

    layers: LayerStore
    groups: Groups = field(default_factory=Groups.none)
    fills: Solids = field(default_factory=lambda: Solids.of(np.zeros((0, Solids.COLUMNS), np.int64)))

    @property
    def mark(self) -> str:
        """Of the merges and fills that were given; the same for the same ones."""
        parts = (self.groups.old, self.groups.new, self.fills.matrix)
        return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in parts)).hexdigest()

    def of_part(self, part: int) -> Touches:
        """All contacts of the cells that are named after a label of this part, sorted by (a, b)."""
        label = Sections(self.layers.path(part, "graph"))["label"].view(np.uint64)
        cells = np.setdiff1d(np.unique(label), self.groups.old)
        named = np.unique(self.groups.new)
        cells = np.union1d(cells, named[self.layers.part_of(named) == part])
        rows = self._contacts(self.groups.members(cells))
        return joined_contacts(Touches.of(rows), self.groups)

    def around(self, labels: Labels) -> Neighbours:
        """Some cells with all their contacts, and who is on the other side.

        Parameters
        ----------
        labels : ndarray of uint64, shape (n,)
            Of merged cells the smallest.

        Returns
        -------
        Neighbours
        """
        names = self.groups.members(np.unique(labels))
        touches = Touches.of(self._contacts(names))
        everyone = self.groups.members(self.groups.root(np.union1d(names, touches.b)))
        start = np.append(np.searchsorted(touches.a, everyone), len(touches))
        return grouped(
            Neighbours(SolidStore(self.layers).solids(everyone), start, touches), self.groups, self.fills
        )

    def cells(self, labels: Labels) -> Solids:
        """Some cells after the merges, sorted; their surfaces include what lies within a merged cell."""
        everyone = self.groups.members(np.unique(labels))
        none = Touches.of(np.zeros((0, len(CONTACT_COLUMNS)), np.int64))
        start = np.zeros(len(everyone) + 1, np.int64)
        alone = Neighbours(SolidStore(self.layers).solids(everyone), start, none)
        return grouped(alone, self.groups, self.fills).solids

    def _contacts(self, names: Labels) -> Int:
        """Contacts of sorted labels, sorted by (a, b)."""
        where = self.layers.part_of(names)
        found = [np.zeros((0, len(CONTACT_COLUMNS)), np.int64)]
        for part in np.unique(where).tolist():
            file = Sections(self.layers.path(part, "graph"))
            label = file["label"].view(np.uint64)
            mine = names[where == part]
            first, after = np.searchsorted(label, mine), np.searchsorted(label, mine, side="right")
            size = after - first
            inside = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
            found.append(file["rows"][np.repeat(first, size) + inside])
        rows = np.concatenate(found)
        return rows[np.lexsort((rows[:, 1].view(np.uint64), rows[:, 0].view(np.uint64)))]


def graph_task(layers: LayerStore, part: int, mark: str) -> dict[str, Any]:
    """Bring the contacts of one part's labels together; a unit of work that may be run again.

    Returns
    -------
    dict
        ``path, mark``.
    """
    own = Sections(layers.path(part)).checked("contacts")
    others = [_with(Sections(layers.path(other)), part) for other in range(layers.parts) if other != part]
    both = mirrored(Touches.of(np.concatenate([own, *others])))
    rows = both.take(layers.part_of(both.a) == part).matrix
    path = layers.path(part, "graph")
    write_sections(path, {"rows": rows, "label": np.ascontiguousarray(rows[:, 0])})
    return {"path": str(path), "mark": mark}


def _with(file: Sections, part: int) -> Int:
    """Contacts of another part's labels with those of this part."""
    first, after = file["contact_offsets"][part : part + 2].tolist()
    rows: Int = file["contacts"][first:after].copy()
    return rows


def candidates_among(touches: Touches, solids: Solids, voxel_size: Triple, slight: bool = False) -> Bool:
    """Which contacts may lie within one cell: large enough, and between two labels that may be cells.

    Parameters
    ----------
    touches : Touches
    solids : Solids
        Holds both labels of all contacts.
    voxel_size : tuple of float
        (z, y, x).
    slight : bool
        Also those that are a small part of either surface.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    one, two = solids.index(touches.a), solids.index(touches.b)
    surface, area = areas_of(solids.faces, voxel_size), areas_of(touches.faces, voxel_size)
    barred = (solids.flags & (TOO_LARGE | BACKGROUND_LIKE)) > 0
    enough = LEAST_PART * area >= np.minimum(surface[one], surface[two])
    return np.asarray((enough | slight) & ~barred[one] & ~barred[two], bool)
