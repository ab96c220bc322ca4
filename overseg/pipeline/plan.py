"""Plan: the whole way from voxels to decisions, without changing any.

1. scan        every write unit is decoded once; tables of sums                     (units of work)
2. reconcile   the tables of a time point are added up                              (units of work)
3. candidates  faces that may belong to one cell                                    (units of work)
4. score       probabilities, in two stages                                         (units of work)
5. decide      merges, fills, reviews, keeps
6. fill        the voxels that restored masks take, settled between each other      (units of work)
7. plan        everything as values, with the hash that names it
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from overseg.cluster.limits import give_back
from overseg.cluster.receipts import file_is_there, read
from overseg.kernels.tables import Candidates
from overseg.pipeline import fills as filling
from overseg.pipeline import scan as scanning
from overseg.pipeline import seams as seaming
from overseg.pipeline.assemble import Judged, put_together
from overseg.pipeline.cut import Cut, in_order
from overseg.pipeline.decide import Guard, Verdicts, decide
from overseg.pipeline.device import choose
from overseg.pipeline.halves import halving
from overseg.pipeline.lazy import Limits
from overseg.pipeline.models import Models
from overseg.pipeline.parts import TimePoint, reconcile
from overseg.pipeline.plandata import Fills, PlanData, sort_fills
from overseg.pipeline.reconcile import Box
from overseg.pipeline.score import Scores, score
from overseg.pipeline.settle import Settled, settle
from overseg.pipeline.tilted import join_touching
from overseg.pipeline.unread import Unread, find_unread
from overseg.settings import Settings

if TYPE_CHECKING:
    from overseg.cluster import Executor
    from overseg.pipeline.distances import Device
    from overseg.volume import Volume

Progress = Callable[[str, int, int], None]

#: Voxels that one process scans in about the time that starting workers takes.
_WORTH_A_WORKER = 64_000_000


def make_plan(
    volume: Volume,
    settings: Settings,
    executor: Executor,
    place: str | Path,
    *,
    progress: Progress | None = None,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
) -> PlanData:
    """Find, judge and decide; what is worked out on the way is kept under ``place/run`` for a run cut short.

    Parameters
    ----------
    volume : Volume
        Only read.
    settings : Settings
    executor : Executor
        Runs the units of work.
    place : path
        The plan folder.
    progress : callable, optional
        Called as ``progress(step, done, total)``.
    device : {"auto", "cpu", "cuda"}
        Whether graphics cards help: ``auto`` with distances, ``cuda`` with the scan as well.

    Returns
    -------
    PlanData
        Not yet written to disk.

    Raises
    ------
    OversegError
        If the volume cannot be read, the model cannot be loaded, or the work does not fit the workers.
    """
    run = Path(place) / "run"
    models = Models.of(settings)
    card = choose(device, executor)
    clock = _Clock()
    with clock("scan"):
        scanned = scan_volume(volume, settings, executor, run, progress, device)
        box = box_of(volume, settings)
        volume, unread = find_unread(
            volume, scanned.unread, len(scanning.all_units(scanned.tasks)), settings.max_gap, box,
            settings.background, executor, progress,
        )  # fmt: skip
    judged = [
        _judge(t, scanned, volume, settings, models, unread, executor, run, clock, progress, card)
        for t in range(volume.n_times)
    ]
    with clock("fill"):
        settled = _fill(judged, volume, settings, box, unread, executor, run, progress)
    if models.touching is not None:
        with clock("touching"):
            for i, each in enumerate(judged):
                fills = fills_at(settled.fills, each.t)
                gone = settled.lost[settled.lost[:, 0] == each.t, 1]
                joined = join_touching(
                    each.found, each.verdicts, fills, gone, unread.at(each.t), volume, box, models.touching,
                    settings, executor, run, progress,
                )  # fmt: skip
                judged[i] = replace(each, joined=joined)
            settled = replace(settled, fills=_renamed(settled.fills, judged))
    with clock("plan"):
        files = scanned.files[: len(scanned.tasks)]
        return put_together(volume, settings, models, judged, settled, files, unread, clock.seconds)


def tasks_hint(volume: Volume, settings: Settings) -> int:
    """How many workers a volume is worth."""
    voxels = np.prod([stop - start for start, stop in box_of(volume, settings)], dtype=np.float64)
    return int(1 + volume.n_times * voxels // _WORTH_A_WORKER)


def box_of(volume: Volume, settings: Settings) -> Box:
    """Half-open voxel ranges (z, y, x) to work in."""
    z, y, x = volume.shape
    return settings.region or ((0, z), (0, y), (0, x))


@dataclass(frozen=True)
class Scanned:
    """What the scan left.

    Attributes
    ----------
    tasks : list of ScanTask
    files : list of Path
        Of all tasks, then of all seams.
    rows : int
        Of the layer tables of one time point, about.
    mark : str or None
        Of all units as they were read; None where the store cannot say.
    unread : dict of int to str
        Units that cannot be decoded, and why.
    """

    tasks: list[scanning.ScanTask]
    files: list[Path]
    rows: int
    mark: str | None
    unread: dict[int, str]


def scan_volume(
    volume: Volume,
    settings: Settings,
    executor: Executor,
    run: Path,
    progress: Progress | None,
    device: str = "cpu",
) -> Scanned:
    """Tables of every task and seam; what an earlier run left and still fits is not done again."""
    folder, receipts = run / "scan", run / "receipts"
    done = None if executor.shares else read(receipts, "scan")
    cut = Cut(volume, settings, executor.room, executor.workers, folder, done)

    def fits(name: str, receipt: Mapping[str, Any]) -> bool:
        return scanning.receipt_fits(volume, cut.tasks[name], receipt, str(folder))

    def arguments(task: scanning.ScanTask) -> tuple[Any, ...]:
        return (volume, task, str(folder), device)

    found, rows = {}, 0
    unread: dict[int, str] = {}
    scans = executor.run(
        "scan", scanning.scan_task, {name: arguments(task) for name, task in cut.tasks.items()}, receipts,
        progress, fits, halve=cut.halver(arguments), card=device == "cuda",
    )  # fmt: skip
    for name, receipt in scans:
        found[name] = receipt.get("stamp")
        unread |= dict(receipt.get("unread", ()))
        rows += receipt["rows"]
    tasks = in_order(cut.tasks.values())
    stamps = {task.name: found[task.name] for task in tasks}
    seams = seaming.plan_seams(tasks)
    marks = {seam.name: [stamps[seam.upper], stamps[seam.lower]] for seam in seams}

    def joins(name: str, receipt: Mapping[str, Any]) -> bool:
        return None not in marks[name] and receipt["marks"] == marks[name]

    joined = {seam.name: (seam, str(folder), marks[seam.name]) for seam in seams}
    for _ in executor.run("seam", _seam, joined, receipts, progress, joins):
        pass
    files = [folder / f"{name}.tables" for name in [*stamps, *joined]]
    whole = None if None in stamps.values() else json.dumps(list(stamps.values()))
    mark = None if whole is None else hashlib.sha256(whole.encode()).hexdigest()
    return Scanned(tasks, files, rows // volume.n_times, mark, unread)


def reconcile_volume(
    scanned: Scanned,
    t: int,
    volume: Volume,
    settings: Settings,
    executor: Executor,
    run: Path,
    progress: Progress | None,
) -> TimePoint:
    """Everything that the scan found at one time point."""
    return reconcile(
        scanned.files,
        t,
        settings.max_gap,
        box_of(volume, settings),
        volume.shape,
        rows=scanned.rows,
        mark=scanned.mark,
        executor=executor,
        run=run,
        rule=settings.preset or "default",
        contacts=settings.kind != "gap",
        progress=progress,
    )


def _seam(task: seaming.SeamTask, folder: str, marks: list[str | None]) -> dict[str, Any]:
    return {**seaming.seam_task(task, folder), "marks": marks}


def _judge(
    t: int,
    scanned: Scanned,
    volume: Volume,
    settings: Settings,
    models: Models,
    unread: Unread,
    executor: Executor,
    run: Path,
    clock: _Clock,
    progress: Progress | None,
    card: Device | None,
) -> Judged:
    """Reconcile, find, score and decide one time point."""
    with clock("reconcile"):
        found = reconcile_volume(scanned, t, volume, settings, executor, run, progress)
        model = models.gaps
        if model is None:
            return Judged(t, found, Candidates.none(), Scores.none(), Verdicts.none(), 0)
        among = found.search()
        candidates = among.candidates
    with clock("score"):
        scores = score(
            candidates,
            found.layers,
            volume.voxel_size,
            model,
            settings,
            volume=volume,
            t=t,
            fingerprint=found.fingerprint,
            executor=executor,
            run=run,
            progress=progress,
            device=card,
        )
    with clock("decide"):
        published = settings.preset == "paper"
        limits = Limits.of(model, settings)
        verdicts = decide(
            candidates,
            found.layers,
            scores.p,
            threshold=limits.threshold,
            review_from=limits.review_from,
            out_of_range=scores.out_of_range & (not published),
            cut=found.cut(),
            guard=None if published else Guard(),
            by_jaccard=published,
            unread=unread.at(t),
        )
    return Judged(t, found, candidates, scores, verdicts, among.touching)


def fills_at(fills: Fills, t: int) -> Fills:
    """Those of one time point."""
    here = fills.t == t
    return Fills(*(column[here] for column in vars(fills).values()))


def _renamed(fills: Fills, judged: list[Judged]) -> Fills:
    """Fills with the labels that their cells have in the end."""
    new = fills.new.copy()
    for each in judged:
        here = fills.t == each.t
        new[here] = each.groups.root(new[here])
    return sort_fills(replace(fills, new=new))


def _fill(
    judged: list[Judged],
    volume: Volume,
    settings: Settings,
    box: Box,
    unread: Unread,
    executor: Executor,
    run: Path,
    progress: Progress | None,
) -> Settled:
    """The voxels that restored masks take."""
    paths = _claims(judged, volume, settings, box, unread, executor, run, progress)
    layers = {each.t: each.found.layers for each in judged}
    return settle(paths, lambda t, labels: layers[t].facts(labels).voxels)


def _claims(
    judged: list[Judged],
    volume: Volume,
    settings: Settings,
    box: Box,
    unread: Unread,
    executor: Executor,
    run: Path,
    progress: Progress | None,
) -> list[str]:
    """Files of what the restored masks of all accepted candidates claim."""
    units = {}
    for each in judged if settings.fill != "none" else ():
        kept = tuple(unread.at(each.t).tolist())
        cut = [*each.found.cut().tolist(), *kept]
        wanted = filling.wanted_fills(each.candidates, each.verdicts, each.found.layers, cut)
        for batch in filling.fill_batches(volume, wanted):
            facts = [
                str(each.found.fingerprint),
                each.t,
                settings.background,
                settings.fill,
                settings.interpolation,
                box,
                [vars(one) for one in batch],
                *([sorted(unread.why), kept] if unread.why else []),
            ]
            name = f"t{each.t}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}"
            path = str(run / "fill" / f"{name}.claims")
            units[name] = (
                volume, batch, settings.background, settings.fill, path, each.t, box, settings.interpolation,
                kept,
            )  # fmt: skip
            need = filling.peak_bytes(volume, batch)
            executor.check_room(need, "restoring the largest mask", volume.location, ", or --fill none")
    done = executor.run(
        "fill", filling.fill_task, units, run / "receipts", progress, file_is_there, halve=halving(path=4)
    )
    return sorted(receipt["path"] for _, receipt in done)


class _Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            give_back()  # what one step let go of is no part of the next one's peak
            spent = time.perf_counter() - begin
            self.seconds[step] = round(self.seconds.get(step, 0.0) + spent, 4)
