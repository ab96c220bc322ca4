"""Show: what a plan or a volume is, what will happen, and what it costs. Nothing is changed."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overseg.errors import InputError
from overseg.model.explain import sentence
from overseg.pipeline import places
from overseg.pipeline.why import Why, whys
from overseg.settings import build

if TYPE_CHECKING:
    import pyarrow as pa

    from overseg.volume import Volume

_EXAMPLES = 10

#: Voxels per second that one usual core scans, and reads and writes. For estimates only.
_SCAN_RATE = 30e6
_WRITE_RATE = 60e6


def show(
    target: Any,
    *,
    why: Sequence[int] = (),
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What a plan will do or did, or what a volume holds and what looks odd about it.

    Parameters
    ----------
    target : str, Path, Plan, zarr.Array or zarr.Group
        A plan, or a volume; a volume is read once.
    why : sequence of int
        One label, or two: all about its, or their, candidates in the plan, and nothing else.
    progress : callable, optional
        Called as ``progress(step, done, total)``.
    **options
        Fields of `overseg.settings.Settings` and `overseg.settings.RunSettings`.

    Returns
    -------
    dict
        Plain JSON values.

    Raises
    ------
    InputError
        If the target is neither a plan nor a label volume, or there is no such candidate.
    """
    from overseg.pipeline.result import Plan

    if isinstance(target, Plan) or (isinstance(target, str | Path) and places.is_plan(target)):
        folder = target.path if isinstance(target, Plan) else Path(target)
        return _why(folder, why) if why else _plan(folder)
    if why:
        raise InputError(
            "only a plan can say why", where=str(target), remedy="give the plan folder, NAME.overseg"
        )
    return _volume(target, options, progress)


def _plan(folder: Path) -> dict[str, Any]:
    from overseg.pipeline.lifecycle import load

    made = load(folder)
    said = made.summary()
    data = made.data
    bytes_of_unit = np.prod(data.volume["levels"][0]["unit_shape"]) * np.dtype(data.volume["dtype"]).itemsize
    touched = int(data.units.touched.sum())
    runs = int(data.merges.old.size)
    table = data.candidates
    examples = {decision: _first(table, decision) for decision in ("merge", "fill", "review")}
    told = whys(data, folder, [row for rows in examples.values() for row in rows])
    explained = any(why.pushes for why in told)
    note = told[0].note if told else None
    lines = {
        decision: [_example(told.pop(0), explained) for _ in rows] for decision, rows in examples.items()
    }
    return {
        "warnings": said.pop("warnings"),
        **{name: value for name, value in said.items() if name not in ("ids_lost", "peak_rss_bytes")},
        "ids_lost": _some(said["ids_lost"]),
        "settings": data.settings,
        "decisions": _reasons(table),
        "measured": dict(data.measured),
        "merges": lines["merge"] + _more(table, "merge"),
        "fills": lines["fill"] + _more(table, "fill"),
        "reviews": lines["review"] + _more(table, "review"),
        "explained": note,
        "labels_renamed": runs,
        "cost": {
            "write_units_to_rewrite": touched,
            "decoded_bytes": int(touched * bytes_of_unit),
            "estimated_seconds": round(touched * float(bytes_of_unit) / _WRITE_RATE / 4, 1),
        },
    }


def _some(labels: list[int]) -> str:
    """A few labels and how many more there are."""
    named = ", ".join(map(str, labels[:_EXAMPLES])) or "none"
    more = len(labels) - _EXAMPLES
    return f"{named}, and {more} more" if more > 0 else named


def _reasons(table: pa.Table) -> dict[str, int]:
    pairs = zip(table["decision"].to_pylist(), table["reason"].to_pylist(), strict=True)
    counted = Counter(f"{decision}: {reason}" for decision, reason in pairs)
    return dict(counted.most_common())


def _first(table: pa.Table, decision: str) -> list[int]:
    """The first few candidates with this decision, the least certain ones first."""
    import pyarrow.compute as pc

    rows = pc.indices_nonzero(pc.equal(table["decision"], decision)).to_numpy().astype(np.int64)
    keys = [table[name].to_numpy()[rows] for name in ("b", "a", "z", "t", "p")]
    found: list[int] = rows[np.lexsort(keys)][:_EXAMPLES].tolist()
    return found


def _more(table: pa.Table, decision: str) -> list[dict[str, str | None]]:
    import pyarrow.compute as pc

    more = pc.sum(pc.equal(table["decision"], decision)).as_py() or 0
    more -= _EXAMPLES
    line = f"and {more:,} more, in plan/candidates.parquet"
    return [{"candidate": line, "why": None}] if more > 0 else []


def _example(why: Why, explained: bool) -> dict[str, str | None]:
    """A candidate in a line, and what moved the decision most."""
    who = f"{why.a}" if why.kind == "hole" else f"{why.a} and {why.b}"
    at = f"layers {why.z} and {why.z + why.gap + 1}"
    at = f"touching about layer {why.z}" if why.kind == "touch" else at
    rule = f": {why.reason}" if why.decision == "review" else ""
    text = sentence(why.pushes) or (why.note if explained else None)
    return {"candidate": f"{who}, {at}, p {why.p:.3f}{rule}", "why": text}


def _why(folder: Path, labels: Sequence[int]) -> dict[str, Any]:
    """All that is known of some candidates."""
    from overseg.pipeline.lifecycle import load

    if len(labels) > 2:
        raise InputError(
            f"--why takes one label or two, not {len(labels)}", where=str(folder), remedy="ask for each pair"
        )
    made = load(folder)
    merges = made.data.merges
    becomes = {
        int(old): int(new) for old, new in zip(merges.old, merges.new, strict=True) if int(old) in labels
    }
    told = made.why(*labels)
    return {
        "plan": str(folder),
        "becomes": becomes,
        "times": made.data.volume.get("times", 1),
        "why": [
            {**vars(why), "pushes": [{**vars(push), "verdict": push.verdict} for push in why.pushes]}
            for why in told
        ],
    }


def _volume(
    target: Any, options: dict[str, Any], progress: Callable[[str, int, int], None] | None
) -> dict[str, Any]:
    from overseg.cluster import open_executor
    from overseg.pipeline.health import warnings_of
    from overseg.pipeline.plan import reconcile_volume, scan_volume, tasks_hint
    from overseg.pipeline.scan import predicted_peak
    from overseg.volume import describe, open_volume

    settings, run = build(**options)
    volume = open_volume(target, label=settings.label, voxel_size=settings.voxel_size)
    settings = settings.model_copy(update={"max_gap": min(settings.max_gap, max(1, volume.shape[0] - 1))})
    warnings, labels = [], 0
    if volume.shape[0] > 1:
        hint = tasks_hint(volume, settings)
        with (
            tempfile.TemporaryDirectory(prefix="overseg-") as folder,
            open_executor(run, tasks_hint=hint) as executor,
        ):
            scanned = scan_volume(volume, settings, executor, Path(folder), progress)
            memory = max(map(predicted_peak, scanned.tasks))
            for t in range(volume.n_times):
                found = reconcile_volume(scanned, t, volume, settings, executor, Path(folder), progress)
                labels += found.labels
                warnings += warnings_of(found.health)
            workers = executor.workers
    else:
        warnings.append("The volume has one layer: there is nothing above or below to merge.")
        memory, workers = 0, 1
    warnings += volume.warnings()
    facts = describe(volume)
    return {
        "warnings": warnings,
        **facts,
        "labels": labels,
        "plans": _past(volume),
        "cost": {
            "workers": workers,
            "estimated_seconds_to_plan": round(facts["voxels"] / _SCAN_RATE / workers, 1),
            "memory_of_a_scan_task_bytes": memory,
        },
    }


def _past(volume: Volume) -> list[str]:
    from overseg.volume.state import read_state

    return [f"{entry.phase}: {entry.place}" for entry in read_state(volume).plans]
