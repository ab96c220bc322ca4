"""Reconcile one time point, a part of the labels at a time, so that no process ever holds all of them.

Two steps of units. `part_task` adds up what the scan's files say of its labels, and leaves what others may
ask about them; `meet_task` joins the contacts that come down on its labels. What is left is small: contacts
that may be candidates or links of a chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overseg.kernels.reduce import views_of
from overseg.kernels.solids import solids_of
from overseg.kernels.tables import BACKGROUND_LIKE, CUT, Int, Labels
from overseg.pipeline.candidates import Found
from overseg.pipeline.chains import resolve
from overseg.pipeline.contacts import Contacts, Faces, Rule, joined, meet, sides_of
from overseg.pipeline.health import Health, examine
from overseg.pipeline.layerstore import LayerStore, stored
from overseg.pipeline.reconcile import Box, from_rows
from overseg.pipeline.scantables import JUDGED, ScanFile, added_rows, columns_of
from overseg.pipeline.sections import Sections, write_sections, write_whole

if TYPE_CHECKING:
    from overseg.cluster import Executor

Progress = Callable[[str, int, int], None]

#: Rows of a layer table that a unit merges at a time: some 150 MB of work.
_ROWS = 1 << 18


@dataclass(frozen=True)
class Job:
    """One time point to be reconciled.

    Attributes
    ----------
    files : str
        JSON list of the scan's files.
    t : int
        Time point.
    layers : LayerStore
        What is made.
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.
    shape : tuple of int
        Of the volume, (z, y, x).
    rule : {"default", "paper"}
        See `overseg.pipeline.candidates.find_candidates`.
    contacts : bool
        Whether the scan counted contacts.
    """

    files: str
    t: int
    layers: LayerStore
    box: Box
    shape: tuple[int, int, int]
    rule: Rule
    contacts: bool = False


@dataclass(frozen=True)
class TimePoint:
    """One time point of a volume, reconciled.

    Attributes
    ----------
    t : int
    layers : LayerStore
        Every label in every layer.
    health : Health
        What looks wrong; names the labels that are like background and never candidates.
    fingerprint : int
        128-bit sum of hashes of all rows; does not depend on layout, integer type or order.
    flat : int
        Pairs of labels of which one ends right above the start of the other.
    """

    t: int
    layers: LayerStore
    health: Health
    fingerprint: int
    flat: int

    @property
    def labels(self) -> int:
        """How many there are."""
        return self.health.labels

    def cut(self) -> Labels:
        """Labels that meet a face of the region inside the volume: part of them may not have been seen."""
        return self.layers.flagged(CUT)

    def search(self) -> Found:
        """The candidates among all contacts."""
        files = (Sections(self.layers.path(part, "met")) for part in range(self.layers.parts))
        contacts = Contacts.of(*(file.checked("contacts") for file in files))
        candidates, judged = resolve(contacts, self.layers.lags - 1)
        return Found(candidates, self.flat - judged)


def reconcile(
    paths: Sequence[Path],
    t: int,
    max_gap: int,
    box: Box,
    shape: tuple[int, int, int],
    *,
    rows: int,
    mark: str | None,
    executor: Executor,
    run: Path,
    rule: Rule = "default",
    contacts: bool = False,
    progress: Progress | None = None,
) -> TimePoint:
    """Everything that is known of one time point.

    Parameters
    ----------
    paths : sequence of path
        Files of all scan and seam tasks.
    t : int
        Time point.
    max_gap : int
        As in the scan.
    box : tuple of tuple of int
        Half-open voxel ranges (z, y, x) that were scanned.
    shape : tuple of int
        Of the volume, (z, y, x).
    rows : int
        Of the layer tables in the files, about: how many parts there should be. It shows in no result.
    mark : str or None
        Of what the files hold. What an earlier run left is used where it is the same; None: never.
    executor : Executor
    run : Path
        Folder for what is worked out on the way.
    rule : {"default", "paper"}
        How candidates are found.
    contacts : bool
        Whether the scan counted contacts; they are found with `overseg.pipeline.solidstore.SolidStore`.
    progress : callable, optional
        Called as ``progress(step, done, total)``.

    Returns
    -------
    TimePoint

    Raises
    ------
    PlanError
        If a file is missing or damaged.
    StorageError
        If the folder cannot be written.
    """
    folder = run / "tables"
    partitions = ScanFile(paths[0], max_gap + 1).partitions
    parts = min(partitions, max(1, -(-rows // _ROWS)))
    layers = LayerStore(str(folder), f"t{t}", parts, partitions, max_gap + 1)
    listed = json.dumps([str(path) for path in paths]).encode()
    files = folder / f"files-{hashlib.sha256(listed).hexdigest()[:16]}.json"
    write_whole(files, listed)
    job = Job(str(files), t, layers, box, shape, rule, contacts)
    facts = [mark, files.name, parts, box, shape, rule, *(["contacts"] if contacts else [])]
    made = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def fits(_: str, receipt: Mapping[str, Any]) -> bool:
        return mark is not None and receipt["mark"] == made and Path(receipt["path"]).exists()

    def each(step: str, task: Callable[..., dict[str, Any]]) -> Iterator[dict[str, Any]]:
        units = {f"{layers.name}-{part}": (job, part, made) for part in range(parts)}
        for _, receipt in executor.run(step, task, units, run / "receipts", progress, fits):
            yield receipt

    done = list(each("reconcile", part_task))
    flat = sum(receipt["flat"] for receipt in each("candidates", meet_task))
    fingerprint = sum(int(receipt["fingerprint"], 16) for receipt in done) % 2**128
    return TimePoint(t, layers, Health.together(receipt["health"] for receipt in done), fingerprint, flat)


def part_task(job: Job, part: int, mark: str) -> dict[str, Any]:
    """Add up the tables of one part of the labels; a unit of work that may be run again.

    Returns
    -------
    dict
        ``path, mark, fingerprint, health``.
    """
    layers, partitions = job.layers, job.layers.partitions_of(part)
    files = [ScanFile(path, layers.lags) for path in json.loads(Path(job.files).read_bytes())]

    def added(table: str) -> Int:
        return added_rows(files, job.t, table, layers.lags, partitions)

    tables = [added(table) for table in JUDGED]
    found = from_rows(tables, job.t, job.box, job.shape)
    barred = found.background_like
    sides = sides_of(found.layers, found.pairs, found.stacked, layers.lags - 1, job.rule, barred)
    where = layers.part_of(sides.upper.b)
    order = np.argsort(where, kind="stable")
    flags = BACKGROUND_LIKE * np.isin(found.layers.labels, barred) | CUT * np.isin(
        found.layers.labels, found.cut
    )
    path = layers.path(part)
    arrays = {
        **stored(found.layers, tables[0][:, 1:], flags),
        "upper": sides.upper.take(order).matrix,
        "offsets": np.append(0, np.cumsum(np.bincount(where, minlength=layers.parts))),
        "holes": sides.holes.matrix,
        "faces": sides.faces.matrix,
    }
    if job.contacts:
        surfaces = views_of(added("surfaces"), columns_of("surfaces", layers.lags))
        rows = added("contacts")
        other = layers.part_of(rows[:, 1].view(np.uint64))
        arrays |= {
            "contacts": rows[np.argsort(other, kind="stable")],
            "contact_offsets": np.append(0, np.cumsum(np.bincount(other, minlength=layers.parts))),
            "solids": solids_of(found.layers, surfaces, flags).matrix,
        }
    write_sections(path, arrays)
    return {
        "path": str(path),
        "mark": mark,
        "fingerprint": f"{found.fingerprint:032x}",
        "health": examine(found).plain(),
    }


def meet_task(job: Job, part: int, mark: str) -> dict[str, Any]:
    """Join the contacts that come down on one part of the labels; a unit of work that may be run again.

    Returns
    -------
    dict
        ``path, mark, flat``.
    """
    layers, own = job.layers, Sections(job.layers.path(part))
    upper = Contacts.of(*(_upper(Sections(layers.path(other)), part) for other in range(layers.parts)))
    contacts, flat = meet(upper, Faces.of(own.checked("faces")), layers.lags, job.rule)
    path = layers.path(part, "met")
    write_sections(path, {"contacts": joined([contacts, Contacts.of(own.checked("holes"))]).matrix})
    return {"path": str(path), "mark": mark, "flat": flat}


def _upper(file: Sections, part: int) -> Int:
    """Contacts of another part's labels with those of this part, as a matrix."""
    first, after = file["offsets"][part : part + 2].tolist()
    rows: Int = file["upper"][first:after].copy()
    return rows
