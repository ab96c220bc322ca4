"""SIGKILL while a plan is applied to an OME-Zarr pyramid and undone: voxels of all levels and metadata."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from twins.kills import SHAPE, Blow, Patient

from benchmarks.fault_rows import Clock, timed

COMMAND = "python -m benchmarks.faults pyramid"
_PATTERN = (("group", 3), ("driver", 3), ("worker", 1), ("group", 2), ("worker", 1), ("driver", 2))


def rows(seed: int, seconds: float) -> list[dict[str, Any]]:
    """Until fifty kills of `apply` have landed, or the time is over."""
    trials = 0
    blows: list[Blow] = []
    with (
        timed("SIGKILL of group, driver or worker on a pyramid; undo killed too", COMMAND) as row,
        tempfile.TemporaryDirectory() as folder,
    ):
        patient = Patient(Path(folder), seed)
        go_on = Clock(seconds).left()
        units = sum(patient.volume.grid(level).n for level in range(3))
        while row.landed < 50 and go_on():
            blows += patient.trial(*_PATTERN[trials % len(_PATTERN)])
            trials += 1
            row.times = len(blows)
            row.landed = sum(blow.landed for blow in blows)
    who = Counter(blow.who for blow in blows if blow.landed)
    shares = sorted(blow.done for blow in blows if blow.landed and blow.who != "undo")
    told = ", ".join(f"{count} {name}" for name, count in who.most_common())
    row.result = (
        f"applied and undone after all: every voxel, attribute and metadata file right ({told}; {trials} "
        f"volumes of {SHAPE} voxels in {units} write units; with {100 * shares[0]:.0f} to "
        f"{100 * shares[-1]:.0f}% of the journal written)"
    )
    return [row.plain()]
