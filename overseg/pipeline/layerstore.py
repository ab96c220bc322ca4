"""Layer tables on disk, in parts by a hash of the label: who needs some labels reads the rows of those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from overseg.kernels.hashing import drawn
from overseg.kernels.sums import in_32_bits
from overseg.kernels.tables import BACKGROUND_LIKE, TOO_LARGE, Bool, Int, Labels, LabelTable, LayerTable
from overseg.pipeline.scantables import partition_of
from overseg.pipeline.sections import Sections

Rows = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_OF_LABEL = ("label", "start", "rows", "voxels", "largest", "first", "last", "corner_y", "corner_x", "flags")
_OF_ROW = ("z", "area", "sy", "sx", "syy", "sxx", "syx", "y0", "y1", "x0", "x1")


@dataclass(frozen=True)
class LayerStore:
    """Every label in every layer of one time point. Small, and good on any machine that sees the folder.

    Attributes
    ----------
    folder : str
        Where the parts are.
    name : str
        Their files' first name.
    parts : int
    partitions : int
        Of the labels in the scan's files; a part holds one or several.
    lags : int
        Layers back that overlaps are known for: the widest gap and one.
    """

    folder: str
    name: str
    parts: int
    partitions: int
    lags: int

    def path(self, part: int, kind: str = "part") -> Path:
        """File of one part."""
        return Path(self.folder) / f"{self.name}-{part}.{kind}"

    def partitions_of(self, part: int) -> range:
        """Partitions of the scan's files that a part holds."""
        first, after = (-(-each * self.partitions // self.parts) for each in (part, part + 1))
        return range(first, after)

    def part_of(self, labels: Labels) -> Int:
        """Part of each label."""
        return partition_of(labels, self.partitions) * self.parts // self.partitions

    def facts(self, labels: Labels) -> LabelTable:
        """What is known of these labels; see `overseg.kernels.tables.Layers`."""
        names = np.unique(labels)
        known = dict(zip(_OF_LABEL, self._known(names).T, strict=True))
        return LabelTable(names, known["voxels"], known["largest"], known["first"], known["last"])

    def take(self, labels: Labels) -> LayerTable:
        """The rows of these labels; see `overseg.kernels.tables.Layers`."""
        names = np.unique(labels)
        known = dict(zip(_OF_LABEL, self._known(names).T, strict=True))
        start = np.append(0, np.cumsum(known["rows"]))
        found = np.empty((start[-1], len(_OF_ROW) + self.lags), np.int64)
        for part, mine in self._by_part(names):
            counts = known["rows"][mine]
            inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            rows = self._open(part)["rows"]
            found[np.repeat(start[mine], counts) + inside] = rows[
                np.repeat(known["start"][mine], counts) + inside
            ]
        columns = np.ascontiguousarray(found.T)
        return LayerTable(
            label=np.repeat(names, known["rows"]),
            **dict(zip(_OF_ROW, columns[: len(_OF_ROW)], strict=True)),
            back=np.ascontiguousarray(found[:, len(_OF_ROW) :]),
            labels=names,
            start=start,
            corner_y=known["corner_y"],
            corner_x=known["corner_x"],
            too_large=known["flags"] & TOO_LARGE > 0,
        )

    def sizes(self) -> Int:
        """Voxels of every label that may be a cell; see `overseg.kernels.tables.Layers`."""
        parts = [table[_OF_LABEL.index("voxels")][~flag] for table, flag in self._flagged(TOO_LARGE)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def some(self, wanted: int) -> Labels:
        """About so many labels that may be cells; see `overseg.kernels.tables.Layers`."""
        barred = TOO_LARGE | BACKGROUND_LIKE
        total = sum(int((~flags).sum()) for _, flags in self._flagged(barred))
        names = [np.zeros(0, np.uint64)]
        for table, flags in self._flagged(barred):
            voxels, largest, rows = (table[_OF_LABEL.index(name)] for name in ("voxels", "largest", "rows"))
            names.append(table[0][~flags & drawn(voxels, largest, rows, total, wanted)].view(np.uint64))
        return np.sort(np.concatenate(names))

    def flagged(self, flag: int) -> Labels:
        """Labels of which this is known, sorted."""
        parts = [table[0][flags].view(np.uint64) for table, flags in self._flagged(flag)]
        return np.sort(np.concatenate([np.zeros(0, np.uint64), *parts]))

    def _flagged(self, flag: int) -> Iterator[tuple[Int, Bool]]:
        for part in range(self.parts):
            table = self._open(part)["labels"]
            yield table, table[_OF_LABEL.index("flags")] & flag > 0

    def _known(self, names: Labels) -> Int:
        """The label table's columns for sorted labels, as (labels, columns)."""
        found = np.empty((len(names), len(_OF_LABEL)), np.int64)
        for file, mine, places in self.found(names):
            found[mine] = file["labels"][:, places].T
        return found

    def found(self, names: Labels) -> Iterator[tuple[Sections, Int, Int]]:
        """Where sorted labels are kept, part by part.

        Yields
        ------
        Sections
            The part's file.
        ndarray of int64, shape (n,)
            Which of the labels it holds.
        ndarray of int64, shape (n,)
            Their places among all labels of the part.
        """
        for part, mine in self._by_part(names):
            file = self._open(part)
            yield file, mine, np.searchsorted(file["labels"][0].view(np.uint64), names[mine])

    def _by_part(self, names: Labels) -> Iterator[tuple[int, Int]]:
        where = self.part_of(names)
        order = np.argsort(where, kind="stable")
        ends = np.cumsum(np.bincount(where, minlength=self.parts))
        for part in np.unique(where).tolist():
            yield part, order[ends[part - 1] if part else 0 : ends[part]]

    def _open(self, part: int) -> Sections:
        # Opened anew each time: pages of a mapped file count as this process's memory while it is mapped.
        return Sections(self.path(part))


def stored(layers: LayerTable, rows: Int, flags: Int) -> dict[str, Rows]:
    """A part's layer table as the arrays that `LayerStore` reads.

    Parameters
    ----------
    layers : LayerTable
        All rows of the part's labels.
    rows : ndarray of int64, shape (n, columns)
        The same, row by row, but for the labels.
    flags : ndarray of int64, shape (m,)
        Bits that are known of each label; `TOO_LARGE` is added here.

    Returns
    -------
    dict of ndarray
        ``labels`` (int64, column by column) and ``rows`` (row by row, so that a label's lie together; int32
        where all numbers fit).
    """
    facts = layers.facts(layers.labels)
    known = {
        "label": layers.labels.view(np.int64),
        "start": layers.start[:-1],
        "rows": np.diff(layers.start),
        "flags": flags | TOO_LARGE * layers.too_large,
    }
    columns = [known[name] if name in known else _of(facts, layers, name) for name in _OF_LABEL]
    return {"labels": np.stack(columns), "rows": in_32_bits(rows)}


def _of(facts: LabelTable, layers: LayerTable, name: str) -> Int:
    values: Int = getattr(facts if hasattr(facts, name) else layers, name)
    return values
