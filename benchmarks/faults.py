"""Fifty kills of `apply`: benchmarks/faults.md and faults.json. Run with ``make faults``."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from twins.kills import SHAPE, Blow, Patient  # noqa: E402

KILLS = 50
PATTERN = (("group", 3), ("driver", 3), ("worker", 1), ("group", 2), ("worker", 1), ("driver", 2))


def main() -> None:
    """Kill until fifty kills have landed; a single wrong voxel ends it with an error."""
    start = time.monotonic()
    blows: list[Blow] = []
    trials = 0
    with tempfile.TemporaryDirectory() as folder:
        patient = Patient(Path(folder), seed=2026)
        units = sum(patient.volume.grid(level).n for level in range(3))
        while len(_landed(blows)) < KILLS:
            who, kills = PATTERN[trials % len(PATTERN)]
            blows += patient.trial(who, kills)
            trials += 1
            print(f"{len(_landed(blows))} of {KILLS} kills, {time.monotonic() - start:.0f} s", flush=True)
    _write(blows, trials, units, time.monotonic() - start)


def _landed(blows: list[Blow]) -> list[Blow]:
    """Kills of `apply` that met a run at work."""
    return [blow for blow in blows if blow.landed and blow.who != "undo"]


def _write(blows: list[Blow], trials: int, units: int, seconds: float) -> None:
    landed = _landed(blows)
    who = Counter(blow.who for blow in landed)
    undos = sum(blow.landed for blow in blows if blow.who == "undo")
    shares = sorted(blow.done for blow in landed)
    tenths = Counter(min(int(10 * share), 9) for share in shares)
    facts = {
        "kills": len(landed),
        "by_victim": dict(who),
        "kills_of_undo": undos,
        "trials": trials,
        "volumes_damaged": 0,  # the first would have ended the run
        "shape": SHAPE,
        "write_units": units,
        "share_of_journal_written_at_kill": [round(share, 3) for share in shares],
        "seconds": round(seconds),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    (HERE / "faults.json").write_text(json.dumps(facts, indent=2) + "\n")
    rows = "\n".join(f"| {10 * i}-{10 * i + 10}% | {tenths[i]} |" for i in range(10))
    (HERE / "faults.md").write_text(_PAGE.format(rows=rows, undos=undos, who=who, **facts))


_PAGE = """# Killed in the act

`make faults` applies a plan to an OME-Zarr pyramid of {shape} voxels in {write_units} write units, and kills
the processes that do it with SIGKILL at random moments after the first write. Then `apply` is run again, with
no other help, and every voxel of every level is compared with what merges and fills say; `verify` is run;
the plan is undone (that too is killed on the way) and every voxel, attribute and metadata file is compared
with the original.

| | |
|---|---|
| kills of `apply` that landed | {kills} |
| of these: whole process group | {who[group]} |
| driver alone | {who[driver]} |
| a single worker | {who[worker]} |
| kills of `undo` that landed | {undos} |
| trials (apply to the end, undo to the end) | {trials} |
| volumes with a wrong voxel, attribute or metadata file | {volumes_damaged} |
| seconds | {seconds} |

How much of the journal was written when the kill came:

| share | kills |
|---|---|
{rows}

{machine}. SIGKILL is not a power cut: data that the operating system has taken but not yet put on the disk
survive the first and not the second. The journal is synced before every write; chunks are not synced by the
store. After a power cut the digests tell which units are neither old nor new, and `apply` stops and names
them.
"""


if __name__ == "__main__":
    main()
