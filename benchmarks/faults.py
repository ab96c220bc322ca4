"""Runs that die, and what is left of them: benchmarks/faults.md and faults.json. Run with ``make faults``.

``python -m benchmarks.faults`` does all; ``python -m benchmarks.faults kills storage`` does these parts and
keeps what the file has of the others. A part is a module of `benchmarks.fault_rows`; one may say with
``lacking()`` what it needs and does not find here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import platform
from pathlib import Path
from typing import Any

import psutil

from benchmarks import fault_rows

HERE = Path(__file__).resolve().parent
SEED = 2026
#: Seconds after which a part begins no further trial; all of them take about 80 minutes.
SECONDS = {"kills": 1800, "scheduler": 450, "storage": 600, "drivers": 200, "pyramid": 300}
_OTHERS = 250


def parts() -> list[str]:
    """Names of all parts: those above in order, then any other module that is there."""
    found = [each.name for each in pkgutil.iter_modules(fault_rows.__path__)]
    return [name for name in SECONDS if name in found] + sorted(set(found) - SECONDS.keys())


def main() -> None:
    """Run parts, and write page and figures after each; a wrong voxel or answer ends it with an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts())}; all when none is named")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--share", type=float, default=1.0, help="of the seconds that parts have")
    parser.add_argument("--page", action="store_true", help="only write the page from the figures")
    given = parser.parse_args()
    facts = read()
    for name in [] if given.page else given.parts or parts():
        module = importlib.import_module(f"{fault_rows.__name__}.{name}")
        lacking = getattr(module, "lacking", lambda: "")()
        if lacking and not given.parts:
            print(f"{name}: not done, kept as it was: {lacking}", flush=True)
            continue
        found: dict[str, dict[str, Any]] = {}
        before = {row["fault"]: row for row in facts.get(name, {}).get("rows", [])}
        for row in module.rows(given.seed, given.share * SECONDS.get(name, _OTHERS)):
            row["command"] = row.get("command") or f"python -m benchmarks.faults {name}"
            found[row["fault"]] = row  # those still to come stay as they were, should it end here
            known = {"seed": given.seed, "machine": machine(), "rows": [*(before | found).values()]}
            write(facts | {name: known})
        facts[name] = {"seed": given.seed, "machine": machine(), "rows": [*found.values()]}
    write(facts)


def machine() -> str:
    """Where the figures were made."""
    gib = psutil.virtual_memory().total / 2**30
    return (
        f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} processors, {gib:.0f} GiB, "
        f"Python {platform.python_version()}"
    )


def read() -> dict[str, Any]:
    """Figures by part, as they are on disk."""
    path = HERE / "faults.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return {name: part for name, part in found.items() if name in parts() and isinstance(part, dict)}


def write(facts: dict[str, Any]) -> None:
    """Figures and page."""
    names = parts()
    ordered = {name: facts[name] for name in sorted(facts, key=lambda name: (names.index(name), name))}
    (HERE / "faults.json").write_text(json.dumps(ordered, indent=2) + "\n")
    (HERE / "faults.md").write_text(page(ordered))


def page(facts: dict[str, Any]) -> str:
    """The page, from the figures alone."""
    lines = [
        f"| {row['fault']} | {row['times']} | {row['landed']} | {row['wrong']} | {row['result']} "
        f"| {row['seconds']} | `{row['command']}` |"
        for part in facts.values()
        for row in part["rows"]
    ]
    machines = sorted({part["machine"] for part in facts.values()})
    rows = [row for part in facts.values() for row in part["rows"]]
    return _PAGE.format(
        rows="\n".join(lines),
        machines="; ".join(machines),
        landed=sum(row["landed"] for row in rows),
        wrong=sum(row["wrong"] for row in rows),
        seeds=", ".join(sorted({str(part["seed"]) for part in facts.values()})),
    )


_PAGE = """# Faults

`make faults` starts the program in processes of its own, does something to it while it works, and compares
what is left with what an undisturbed run makes of the same volume: the plan's hash, every voxel, `overseg
verify`, and after `overseg undo` every file of the volume to the byte. No lock and no half-written file may
be left. The first thing that is wrong ends the run with an error. Each row names the command that makes it.

| fault | tried | met a run at work | wrong | result | seconds | command |
|---|---|---|---|---|---|---|
{rows}

In all {landed} faults met a run at work; {wrong} volumes or answers were wrong. "Tried" counts also what came
too late. Moments and victims come from the seed {seeds}; but when a process reaches a step is its own affair,
so that no two runs are the same.

The volume is generated tissue with simulated splits, 40 x 160 x 160 voxels in 1,000 chunks, on which the
program works with two workers, where a row says nothing else. Its tasks are cut far smaller than usual
(`tests/twins/trials.py`), so that every step has dozens. Ways of storage, of jobs and of object stores are in
`benchmarks/fault_rows/`.

SIGKILL is not a power cut: data that the operating system has taken but not yet put on the disk survive the
first and not the second. The journal is synced before every write; chunks are not synced by the store. After
a power cut the digests tell which units are neither old nor new, and `apply` stops and names them.

{machines}.
"""


if __name__ == "__main__":
    main()
