"""Plan: the whole way from voxels to decisions, without changing any.

1. scan        every write unit is decoded once; tables of sums                     (units of work)
2. reconcile   the tables of a time point are added up
3. candidates  faces that may belong to one cell
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overseg.kernels.tables import Candidates
from overseg.model import load
from overseg.pipeline import fills as filling
from overseg.pipeline import scan as scanning
from overseg.pipeline.candidates import find_candidates, touching_not_judged
from overseg.pipeline.decide import Guard, Verdicts, decide
from overseg.pipeline.health import examine, warnings_of
from overseg.pipeline.plandata import Fills, Merges, PlanData, Units, compute_plan_hash
from overseg.pipeline.reconcile import Box, Reconciled, fingerprint_text, reconcile, touched_units
from overseg.pipeline.score import Scores, score
from overseg.pipeline.settle import Settled, settle
from overseg.settings import Settings, canonical

if TYPE_CHECKING:
    import pyarrow as pa

    from overseg.cluster import Executor
    from overseg.model import Model
    from overseg.volume import Volume

Progress = Callable[[str, int, int], None]

#: Voxels that one process scans in about the time that starting workers takes.
_WORTH_A_WORKER = 64_000_000
#: What a worker process takes before it does anything, in bytes.
_IDLE_BYTES = 300 << 20


@dataclass(frozen=True)
class _Judged:
    """One time point, up to the decisions."""

    t: int
    found: Reconciled
    candidates: Candidates
    scores: Scores
    verdicts: Verdicts
    touching: int


def make_plan(
    volume: Volume,
    settings: Settings,
    executor: Executor,
    place: str | Path,
    *,
    progress: Progress | None = None,
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
    model = load(settings.model_name)
    clock = _Clock()
    with clock("scan"):
        paths, tasks = scan_volume(volume, settings, executor, run, progress)
    box = box_of(volume, settings)
    judged = [
        _judge(t, paths, volume, settings, model, box, executor, run, clock, progress)
        for t in range(volume.n_times)
    ]
    print_of = fingerprint_text(each.found.fingerprint for each in judged)
    with clock("fill"):
        settled = _fill(judged, volume, settings, box, print_of, executor, run, progress)
    with clock("plan"):
        return _put_together(volume, settings, model, judged, settled, paths, tasks, print_of, clock)


def tasks_hint(volume: Volume, settings: Settings) -> int:
    """How many workers a volume is worth."""
    voxels = np.prod([stop - start for start, stop in box_of(volume, settings)], dtype=np.float64)
    return int(1 + volume.n_times * voxels // _WORTH_A_WORKER)


def box_of(volume: Volume, settings: Settings) -> Box:
    """Half-open voxel ranges (z, y, x) to work in."""
    z, y, x = volume.shape
    return settings.region or ((0, z), (0, y), (0, x))


def scan_volume(
    volume: Volume, settings: Settings, executor: Executor, run: Path, progress: Progress | None
) -> tuple[list[Path], list[scanning.ScanTask]]:
    """Tables of every task and seam; what an earlier run left and still fits is not done again."""
    folder, receipts = run / "scan", run / "receipts"
    memory = max(executor.memory - _IDLE_BYTES, executor.memory // 2)
    tasks = scanning.plan_scan(volume, settings, memory, executor.workers)
    by_name = {task.name: task for task in tasks}

    def fits(name: str, receipt: Mapping[str, Any]) -> bool:
        return scanning.receipt_fits(volume, by_name[name], receipt, str(folder))

    units = {task.name: (volume, task, str(folder)) for task in tasks}
    stamps = {
        name: receipt.get("stamp")
        for name, receipt in executor.run("scan", scanning.scan_task, units, receipts, progress, fits)
    }
    seams = scanning.plan_seams(tasks)
    marks = {seam.name: [stamps[seam.upper], stamps[seam.lower]] for seam in seams}

    def joins(name: str, receipt: Mapping[str, Any]) -> bool:
        return None not in marks[name] and receipt["marks"] == marks[name]

    joined = {seam.name: (seam, str(folder), marks[seam.name]) for seam in seams}
    for _ in executor.run("seam", _seam, joined, receipts, progress, joins):
        pass
    return [folder / f"{name}.parquet" for name in [*units, *joined]], tasks


def _seam(task: scanning.SeamTask, folder: str, marks: list[str | None]) -> dict[str, Any]:
    return {**scanning.seam_task(task, folder), "marks": marks}


def _judge(
    t: int,
    paths: list[Path],
    volume: Volume,
    settings: Settings,
    model: Model,
    box: Box,
    executor: Executor,
    run: Path,
    clock: _Clock,
    progress: Progress | None,
) -> _Judged:
    """Reconcile, find, score and decide one time point."""
    with clock("reconcile"):
        found = reconcile(paths, t, settings.max_gap, box, volume.shape)
        barred = found.background_like
        candidates = find_candidates(
            found.layers,
            found.pairs,
            found.stacked,
            settings.max_gap,
            rule=settings.preset or "default",
            excluded=barred,
        )
        touching = touching_not_judged(found.layers, found.stacked, candidates, barred)
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
        )
    with clock("decide"):
        published = settings.preset == "paper"
        threshold = model.threshold if settings.threshold is None else settings.threshold
        verdicts = decide(
            candidates,
            found.layers,
            scores.p,
            threshold=threshold,
            review_from=threshold if published else min(model.review_from, threshold),
            out_of_range=scores.out_of_range & (not published),
            cut=found.cut,
            guard=None if published else Guard(),
            by_jaccard=published,
        )
    return _Judged(t, found, candidates, scores, verdicts, touching)


def _fill(
    judged: list[_Judged],
    volume: Volume,
    settings: Settings,
    box: Box,
    print_of: str,
    executor: Executor,
    run: Path,
    progress: Progress | None,
) -> Settled:
    """The voxels that restored masks take."""
    units = {}
    for each in judged:
        wanted = filling.wanted_fills(each.candidates, each.verdicts, each.found.layers)
        for batch in filling.fill_batches(wanted):
            facts = [print_of, each.t, settings.background, settings.fill, [vars(one) for one in batch]]
            name = f"t{each.t}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}"
            path = str(run / "fill" / f"{name}.parquet")
            units[name] = (volume, batch, settings.background, settings.fill, path, each.t, box)
    if settings.fill == "none":
        units = {}
    done = dict(executor.run("fill", filling.fill_task, units, run / "receipts", progress, _is_there))
    labels = np.concatenate([each.found.layers.labels for each in judged])
    voxels = np.concatenate([each.found.summary.voxels for each in judged])
    times = np.concatenate([np.full(len(each.found.layers.labels), each.t) for each in judged])
    return settle([done[name]["path"] for name in units], labels, voxels, times)


def _is_there(_: str, receipt: Mapping[str, Any]) -> bool:
    return Path(receipt["path"]).exists()


def _put_together(
    volume: Volume,
    settings: Settings,
    model: Model,
    judged: list[_Judged],
    settled: Settled,
    paths: list[Path],
    tasks: list[scanning.ScanTask],
    print_of: str,
    clock: _Clock,
) -> PlanData:
    claims = settled.claims
    merges = _merges(judged)
    fills = Fills(claims.t, claims.z, claims.y, claims.x0, claims.x1, claims.new)
    scanned = paths[: len(tasks)]
    units = _units(volume, settings, scanned, merges, fills)
    table = _table(judged)
    plain = canonical(settings)
    return PlanData(
        hash=compute_plan_hash(
            plain, model.digest, volume.shape, volume.voxel_size, print_of, table, merges, fills
        ),
        settings=plain,
        model=model.digest,
        volume=_facts(volume, print_of),
        counts=_counts(judged, settled, units),
        seconds=clock.seconds,
        warnings=_warnings(volume, settings, judged, settled),
        candidates=table,
        merges=merges,
        fills=fills,
        units=units,
        partial=settings.region is not None,
    )


def _merges(judged: list[_Judged]) -> Merges:
    return Merges(
        np.concatenate([np.full(len(each.verdicts.old), each.t, np.int64) for each in judged]),
        np.concatenate([each.verdicts.old for each in judged]),
        np.concatenate([each.verdicts.new for each in judged]),
    )


def _units(volume: Volume, settings: Settings, paths: list[Path], merges: Merges, fills: Fills) -> Units:
    from overseg.pipeline.scantables import ScanFile

    digests: dict[int, bytes] = {}
    for path in paths:
        digests.update(ScanFile(path, settings.max_gap + 1).digests())
    numbers = np.array(sorted(digests), np.int64)
    changing = touched_units(volume.grid(0), paths, settings.max_gap, merges, fills)
    raw = b"".join(digests[number] for number in numbers.tolist())
    return Units(
        level=np.zeros(len(numbers), np.int64),
        unit=numbers,
        digest=np.frombuffer(raw, np.uint8).reshape(-1, 16),
        touched=np.isin(numbers, changing),
    )


def _table(judged: list[_Judged]) -> pa.Table:
    """All candidates with features, probability, decision and reason."""
    import pyarrow as pa

    parts = []
    for each in judged:
        c = each.candidates
        columns: dict[str, Any] = {
            "t": np.full(len(c), each.t, np.int64),
            **{name: getattr(c, name) for name in ("a", "b", "z", "gap", "overlap")},
            "kind": pa.array(np.where(c.hole, "hole", "split").tolist(), pa.string()),
            "area_a": c.area_a,
            "area_b": c.area_b,
            **each.scores.features,
            "p": each.scores.p,
            "stage": pa.array(each.scores.stage.tolist(), pa.string()),
            "decision": pa.array(each.verdicts.decision.tolist(), pa.string()),
            "reason": pa.array(each.verdicts.reason.tolist(), pa.string()),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts, promote_options="default")


def _facts(volume: Volume, print_of: str) -> dict[str, Any]:
    return {
        "location": volume.location,
        "name": volume.name,
        "axes": list(volume.axes),
        "shape": list(volume.shape),
        "times": volume.n_times,
        "dtype": str(volume.dtype),
        "voxel_size": list(volume.voxel_size),
        "fingerprint": print_of,
        "levels": [
            {"path": level.path, "shape": list(level.shape), "unit_shape": list(level.unit_shape)}
            for level in volume.levels
        ],
    }


def _counts(judged: list[_Judged], settled: Settled, units: Units) -> dict[str, Any]:
    decisions = np.concatenate([each.verdicts.decision for each in judged])
    stages = np.concatenate([each.scores.stage for each in judged])
    claims = settled.claims
    return {
        "cells": int(sum(len(each.found.layers.labels) for each in judged)),
        "candidates": len(decisions),
        "decided_by_stage": {str(name): int((stages == name).sum()) for name in np.unique(stages)},
        "merged": int((decisions == "merge").sum()),
        "filled": int((decisions == "fill").sum()),
        "kept": int((decisions == "keep").sum()),
        "review": int((decisions == "review").sum()),
        "touching_not_judged": sum(each.touching for each in judged),
        "voxels_filled": int((claims.x1 - claims.x0).sum()),
        "voxels_contested": int(settled.contested),
        "ids_lost": [int(label) for _, label in settled.lost.tolist()],
        "units_total": len(units.unit),
        "units_touched": int(units.touched.sum()),
    }


def _warnings(volume: Volume, settings: Settings, judged: list[_Judged], settled: Settled) -> list[str]:
    lines = []
    if not volume.voxel_size_known:
        lines.append("The voxel size is not known: 1 1 1 is assumed. Give it with --voxel-size Z Y X.")
    for each in judged:
        at = f"Time {each.t}: " if volume.n_times > 1 else ""
        labels = len(each.found.layers.labels)
        if labels < 2:
            held = "only background" if labels == 0 else "only one label"
            lines.append(f"{at}The volume holds {held}: there is nothing to merge.")
        lines += [f"{at}{line}" for line in warnings_of(examine(each.found))]
        strange = int(each.scores.out_of_range.sum())
        if strange > 20 and 2 * strange > len(each.candidates):
            lines.append(
                f"{at}{strange} of {len(each.candidates)} candidates lie far outside what the model was "
                "trained on: review them, or train a model on a few labelled stacks (overseg train)."
            )
    if len(settled.spared):
        lines.append(
            f"{len(settled.spared)} labels would have vanished under restored masks: nothing was taken there."
        )
    return lines


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
            spent = time.perf_counter() - begin
            self.seconds[step] = round(self.seconds.get(step, 0.0) + spent, 4)
