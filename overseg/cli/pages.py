"""What plans, volumes and verifications look like to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from overseg.cli.text import facts, number, size, span, steps, table, warning_lines
from overseg.errors import command_line

if TYPE_CHECKING:
    from overseg.pipeline.verify import Verification

_DAMAGED = "The volume is not what the plan says: something else wrote to it, or it is damaged."
_HALF = {"applying": "applied", "undoing": "undone"}
_NEXT = {
    "planned": (("write it into the volume", "apply"),),
    "applying": (("go on", "apply"), ("go back", "undo")),
    "applied": (("prove that only these voxels changed", "verify"), ("undo", "undo")),
    "undoing": (("go on", "undo"),),
    "undone": (("write it into the volume again", "apply"),),
}


def numbers(said: Mapping[str, Any], planned: bool) -> list[str]:
    """A plan in numbers: what will be done (`planned`), or what was."""
    seconds = said.get("seconds") or {}
    peak = said.get("peak_rss_bytes")
    rows = [
        ("cells", said.get("cells"), ""),
        ("candidates", said.get("candidates"), _stages(said.get("decided_by_stage"))),
        ("to merge" if planned else "merged", said.get("merged"), ""),
        (
            "gaps to fill in one label" if planned else "gaps filled in one label",
            said.get("filled") or None,
            "",
        ),
        ("kept apart", said.get("kept"), ""),
        ("to review", said.get("review"), "left alone" if said.get("review") else ""),
        ("unusual", said.get("unusual"), "more so than 95% of the examples the model learned from"),
        ("touching, not judged", said.get("touching_not_judged"), ""),
        ("touching, filtered out", _share(said.get("filtration_rate")), "of those judged"),
        ("voxels to fill" if planned else "voxels filled", said.get("voxels_filled"), ""),
        ("write units", said.get("units_total"), _units(said, planned)),
        ("time", span(sum(seconds.values())), _steps(seconds)),
        ("memory", size(peak) if peak else None, "largest process"),
    ]
    return [
        *warning_lines(said.get("warnings") or ()),
        f"volume  {said.get('volume')}",
        f"plan    {said.get('plan')}  ({str(said.get('plan_hash'))[:12]})",
        "",
        *table(rows),
    ]


def _share(part: float | None) -> str | None:
    return None if part is None else f"{100 * part:.1f}%"


def following(phase: str, place: object, partial: bool = False) -> list[str]:
    """What can be done with a plan in this phase; of a `partial` one nothing is begun unasked."""
    asked = ("--allow-partial",) if partial and phase in ("planned", "undone") else ()
    return steps(
        *(
            (purpose, command_line(name, *(asked if name == "apply" else ()), place))
            for purpose, name in _NEXT[phase]
        )
    )


def plan(said: Mapping[str, Any]) -> list[str]:
    """A plan: its numbers, the reasons, the doubtful ones first, and what to do next."""
    phase = str(said["phase"])
    to_come = phase in ("planned", "undone")
    cost = said["cost"]
    return [
        *numbers({**said, "units_rewritten": None}, to_come),
        "",
        f"phase: {phase}",
        *(_measured(kind, facts) for kind, facts in said["measured"].items()),
        *_listed("decided", table((reason, count, "") for reason, count in said["decisions"].items())),
        *_listed("merges, the least certain first", _examples(said["merges"])),
        *_listed("gaps filled in one label, the least certain first", _examples(said["fills"])),
        *_listed("to review, left alone", _examples(said["reviews"])),
        *_listed("what moved the decisions", _indented([said["explained"]] if said["explained"] else [])),
        *_listed("labels lost in merges and fills", _indented([said["ids_lost"]])),
        *_listed("settings", facts(_as_typed(said["settings"]), 2)),
        *_listed(
            "cost of writing",
            [
                f"  {number(cost['write_units_to_rewrite'])} write units, "
                f"{size(cost['decoded_bytes'])} decoded, about {span(cost['estimated_seconds'])}"
            ],
        ),
        *following(phase, said["plan"], bool(said.get("unread"))),
    ]


def _examples(found: list[dict[str, str | None]]) -> list[str]:
    """Candidates in a line each, and what moved the decision in the next."""
    lines = []
    for each in found:
        lines += [f"  {each['candidate']}", *([f"      {each['why']}"] if each["why"] else [])]
    return lines


def _measured(kind: str, facts: Mapping[str, Any]) -> str:
    """What the card tells of tissue that the model had not seen, or what to expect in this volume."""
    if kind == "volume":
        return _expected(facts)
    what, told = ("splits" if kind == "gap" else "cuts"), []
    if "recall" in facts:
        joined, at = f"{100 * facts['recall']:.0f} of 100 {what} joined", facts["threshold"]
        told.append(f"{joined} at a threshold of {at:g}")
    if "false_merges_per_1000_cells" in facts:
        told.append(f"{facts['false_merges_per_1000_cells']:.1f} false merges per 1,000 cells")
    if "calibration_error" in facts:
        told.append(f"probabilities off by {facts['calibration_error']:.3f} on average")
    return (
        f"model for {'gaps' if kind == 'gap' else 'contacts'}, on tissue it had not seen: {', '.join(told)}"
    )


def _expected(facts: Mapping[str, Any]) -> str:
    told = []
    if "own_gaps" in facts:
        share = 100 * facts["own_gaps_closed"] / facts["own_gaps"]
        told.append(f"of {facts['own_gaps']:,} gaps made in its own cells {share:.1f}% would be closed")
    if "expected_precision" in facts:
        low, high = (100 * end for end in facts["expected_precision_interval"])
        right = f"{100 * facts['expected_precision']:.1f}% of the merges across gaps are right"
        told.append(f"{right} (95%: {low:.1f} to {high:.1f})")
    return f"expected in this volume: {', '.join(told)}"


def why(said: Mapping[str, Any]) -> list[str]:
    """All about some candidates: the decision, and what moved it, the strongest first."""
    lines = [f"plan    {said['plan']}"]
    lines += [f"label {old} becomes {new}" for old, new in said["becomes"].items()]
    for each in said["why"]:
        lines += ["", *_reasons(each, said["times"] > 1)]
    return lines


_KINDS = {"hole": "gap within one label", "touch": "contact", "split": "gap between two labels"}
_BY = {
    "moments": "the tables alone",
    "bounds": "the tables and bounds of distances",
    "full": "earth mover's distances",
    "paper": "the published method",
    "contacts": "the tables of contacts",
    "across": "a look across the contact",
}


def _reasons(each: Mapping[str, Any], timed: bool) -> list[str]:
    """One candidate."""
    who = f"{each['a']}" if each["kind"] == "hole" else f"{each['a']} and {each['b']}"
    where = f"layers {each['z']} and {each['z'] + each['gap'] + 1}"
    where = f"about layer {each['z']}" if each["kind"] == "touch" else where
    at = f", time {each['t']}" if timed else ""
    unusual = each["unusual"]
    rows: list[tuple[str, Any, str]] = [
        ("decision", each["decision"], each["reason"]),
        ("p", f"{each['p']:.3f}", f"that both are one cell, by {_BY[each['stage']]}"),
        (
            "unusual",
            None if unusual is None else f"{unusual:.3f}",
            "share of the model's examples that are less unusual",
        ),
    ]
    lines = [f"{who}: {_KINDS[each['kind']]}, {where}{at}", *table(rows)]
    lines += [f"  {each['note']}"] if each["note"] else []
    lines += ["  what moved it, in log-odds: + towards one cell, - towards two"] if each["pushes"] else []
    for push in each["pushes"]:
        unseen = "; beyond all examples" if push["unseen"] else ""
        lines.append(f"    {push['push']:+6.2f}  {push['words']}; {push['verdict']}{unseen}")
    return lines


def _as_typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with ids and ranges as the command line takes them."""
    ranges = settings["region"]
    return {
        **settings,
        "background": " ".join(map(str, settings["background"])),
        "region": ranges and ",".join(f"{start}:{stop}" for start, stop in ranges),
    }


def volume(said: Mapping[str, Any]) -> list[str]:
    """A volume: what it holds, what looks odd, what was done to it, what a plan would cost."""
    unit = f" {said['unit']}" if said["unit"] else ""
    form = f"Zarr {said['zarr_format']}" + (
        f", OME-Zarr {said['ome_version']}" if said["ome_version"] else ""
    )
    cost = said["cost"]
    per_task = size(cost["memory_of_a_scan_task_bytes"])
    facts_of_it = {
        "format": f"{form}, axes {' '.join(said['axes'])}, {said['dtype']}",
        "shape": f"{number(said['shape'])}, {said['voxels']:,} voxels, {size(said['bytes'])}",
        "times": said["n_times"] if said["n_times"] > 1 else None,
        "voxel size": number(said["voxel_size"])
        + unit
        + ("" if said["voxel_size_known"] else " (not known)"),
        "write units": f"{said['units']:,} of {size(said['unit_bytes'])} decoded",
        "labels": said["labels"],
        "a plan takes": f"about {span(cost['estimated_seconds_to_plan'])} with workers: {cost['workers']}, "
        f"{per_task} each",
    }
    return [
        *warning_lines(said["warnings"]),
        f"volume  {said['location']}",
        "",
        *facts(facts_of_it, 2),
        *_listed("levels", [_level(level) for level in said["levels"]]),
        *_listed("plans, the last one last", _indented(said["plans"])),
        *steps(("find split cells, changing nothing", command_line("plan", said["location"]))),
    ]


def verification(folder: str, found: Verification) -> list[str]:
    """What was checked, each problem, and the verdict."""
    rows = [
        ("write units checked", found.units_checked, ""),
        ("changed by the plan", found.units_changed, ""),
        ("problems", found.n_problems, ""),
        ("not checked", len(found.unread) or None, "they could not be decoded when the plan was made"),
        ("time", span(found.seconds), ""),
    ]
    good = "Only listed voxels changed, each as planned." if found.units_changed else "Nothing is changed."
    return [
        f"volume  {found.location}",
        f"plan    {folder}  ({found.plan_hash[:12]}, {found.phase})",
        "",
        *table(rows),
        *_listed("problems", _indented([str(problem) for problem in found.problems])),
        *_listed("not checked", _indented(list(found.unread))),
        "",
        good if found.ok else _verdict(found),
    ]


def _verdict(found: Verification) -> str:
    """Nobody is to be frightened of a plan that is merely on its way."""
    if found.n_problems == 1 and found.phase in _HALF:
        return (
            f"The plan is half {_HALF[found.phase]}, so nothing is proven yet. So far nothing else is wrong."
        )
    return _DAMAGED


def _level(level: Mapping[str, Any]) -> str:
    shard = f", shards {number(level['shard'])}" if level["shard"] else ""
    codecs = ", ".join(map(str, level["codecs"])) or "not compressed"
    chunks = f"chunks {number(level['chunk'])}{shard}"
    return f"  {level['path'] or '.'}: {number(level['shape'])}, {chunks}, {codecs}"


def _listed(title: str, lines: list[str]) -> list[str]:
    return ["", title, *lines] if lines else []


def _indented(lines: list[str]) -> list[str]:
    return [f"  {text}" for text in lines]


def _stages(stages: Mapping[str, int] | None) -> str:
    if not stages:
        return ""
    return "decided by " + ", ".join(f"{name} {count:,}" for name, count in stages.items() if count)


def _units(said: Mapping[str, Any], planned: bool) -> str:
    rewritten, touched = said.get("units_rewritten"), said.get("units_touched")
    if planned or rewritten is None:
        return (
            "" if touched is None else f"{touched:,} to be rewritten" if planned else f"{touched:,} touched"
        )
    # By other runs, or the tasks of an array.
    return f"{rewritten:,} rewritten" if rewritten or not touched else "all rewritten before"


def _steps(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {span(taken)}" for name, taken in seconds.items() if taken >= 0.05)
