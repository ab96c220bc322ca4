"""Kill real processes while they write, and see what is left; for fault tests and benchmarks/faults.py."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from overseg.pipeline.undo import undo
from overseg.pipeline.verify import verify
from overseg.settings import RunSettings
from overseg.volume.state import read_state
from twins.writing import coarse, contents, edits, image, metadata, plan_for, tissue, truth

SHAPE = (40, 80, 80)
CHUNKS = (8, 8, 8)
_LIMIT = 120.0  # seconds in which a run that is not killed must be done

_APPLY = """
import sys
from overseg.cluster import open_executor
from overseg.pipeline.apply import apply
from overseg.settings import RunSettings
run = RunSettings(workers=int(sys.argv[2]), memory="1GiB")
with open_executor(run, tasks_hint=int(sys.argv[2])) as executor:
    apply(sys.argv[1], run, executor)
"""
_UNDO = """
import sys
from overseg.pipeline.undo import undo
from overseg.settings import RunSettings
undo(sys.argv[1], RunSettings())
"""


@dataclass(frozen=True)
class Blow:
    """One kill.

    Attributes
    ----------
    who : str
        ``group``, ``driver`` or ``worker``; ``undo`` for a kill while undoing.
    done : float
        Share of the journal that was written at that moment.
    landed : bool
        The run was still at it.
    """

    who: str
    done: float
    landed: bool


class Patient:
    """A pyramid of some 600 write units with a plan, killed and cured again and again.

    Parameters
    ----------
    folder : Path
        An empty folder.
    seed : int
        Of the moments and victims.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.path, self.plan = folder / "tissue.ome.zarr", folder / "tissue.overseg"
        data = tissue(SHAPE).astype(np.uint32)
        merges, fills = edits(SHAPE)
        self.volume = image(self.path, data, CHUNKS, 3)
        self.before, self.metadata = contents(self.volume), metadata(self.path)
        self.hash = plan_for(self.volume, self.plan, merges, fills).hash
        expected = truth(data, merges, fills)
        self.after = [expected[coarse(self.volume, level)] for level in range(3)]
        self._finish(self._start(_APPLY, 1))
        self.total = self._journal_bytes()
        self.check_applied()
        undo(self.plan, RunSettings())
        self.check_undone()

    def trial(self, who: str, kills: int) -> list[Blow]:
        """Apply under fire, compare; undo under fire, compare. Gives what was struck."""
        blows = []
        marks = sorted(self.random.uniform(0.02, 0.98) for _ in range(kills))
        start = self._journal_bytes()
        for mark in marks:
            blows.append(self._apply_and_strike(who, start, mark))
        self._finish(self._start(_APPLY, 2 if who != "group" else self.random.choice([1, 2])))
        self.check_applied()
        blows.append(self._undo_and_strike())
        undo(self.plan, RunSettings())
        self.check_undone()
        return blows

    def check_applied(self) -> None:
        """The voxels are those of an undisturbed run."""
        for level, (found, expected) in enumerate(zip(contents(self.volume), self.after, strict=True)):
            np.testing.assert_array_equal(found, expected, f"level {level}")
        verification = verify(self.plan)
        if not verification.ok or verification.phase != "applied":
            raise AssertionError(f"{verification.phase}: {verification.problems}")
        self._check_clean()

    def check_undone(self) -> None:
        """Voxels, attributes and metadata are those from before, and no torn file lies about."""
        for level, (found, expected) in enumerate(zip(contents(self.volume), self.before, strict=True)):
            np.testing.assert_array_equal(found, expected, f"level {level}")
        if metadata(self.path) != self.metadata:
            raise AssertionError("metadata files differ from those before the plan")
        self._check_clean()

    def _check_clean(self) -> None:
        cells = self.path / "labels" / "cells"
        left = [path for path in cells.rglob("*") if "partial" in path.name or "overseg-tmp" in path.name]
        if left or self.volume.files.list(".overseg/lock"):
            raise AssertionError(f"left behind: {left or 'a lock'}")

    def _start(self, program: str, workers: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", program, str(self.plan), str(workers)]
        return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        _, words = process.communicate(timeout=_LIMIT)
        if process.returncode:
            raise AssertionError(words.decode(errors="replace"))

    def _apply_and_strike(self, who: str, start: int, mark: float) -> Blow:
        process = self._start(_APPLY, 1 if who == "group" and self.random.random() < 0.5 else 2)
        end = time.monotonic() + _LIMIT
        done = 0.0
        while done < mark and process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
            done = (self._journal_bytes() - start) / self.total
        time.sleep(self.random.uniform(0, 0.02))
        landed = self._strike(process, who)
        return Blow(who, done, landed)

    def _undo_and_strike(self) -> Blow:
        process = self._start(_UNDO, 1)
        while process.poll() is None and read_state(self.volume).phase(self.hash) == "applied":
            time.sleep(0.001)
        time.sleep(self.random.uniform(0, 0.6))
        landed = self._strike(process, "group")
        return Blow("undo", 0.0, landed)

    def _strike(self, process: subprocess.Popen[bytes], who: str) -> bool:
        """Kill, and say whether there was anything left to kill."""
        landed = process.poll() is None
        if landed and who == "worker":
            family = psutil.Process(process.pid).children(recursive=True)
            if family:
                self.random.choice(family).kill()
            self._finish(process)  # it must get over that alone
        elif landed:
            os.killpg(process.pid, signal.SIGKILL) if who == "group" else process.kill()
        process.communicate(timeout=_LIMIT)
        return landed

    def _journal_bytes(self) -> int:
        total = 0
        for path in (self.plan / "run" / "journal").glob("*/*.journal"):
            total += path.stat().st_size
        return total
