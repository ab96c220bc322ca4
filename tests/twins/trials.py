"""One small broken volume, corrected by real processes to which things happen; and what must be true after.

For tests/faults and benchmarks/faults. A command is the real program in a process of its own, with two
workers, on tasks cut so small that every step has several. Where it is comes from the log in the plan folder.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr

import overseg
from overseg.cluster.events import parse
from overseg.measure import generate_tissue, simulate_splits
from overseg.volume import open_volume
from overseg.volume.files import is_leftover

SHAPE, SMALL, CHUNKS = (40, 160, 160), (24, 96, 96), (4, 16, 16)
LIMIT = 300.0  # seconds in which a command that nothing happens to must be done
_FIRST = 1200.0  # and the first of all, which may have kernels to compile
#: The published method measures every candidate, so that its score takes a while; ours knows most beforehand.
DEFAULT, PAPER = ("--emd", "all"), ("--preset", "paper", "--transport", "fast")
WORKERS = ("--workers", "2", "--memory", "512MiB")

#: The command line as it is, but for the size of its tasks.
_PROGRAM = """
from overseg.pipeline import distances, fills, firststage, scantask, work
scantask._LEAST, scantask._SIDE, work._BATCH_UNITS = 1 << 14, 32, 6
fills._BATCH_WORK, firststage._BATCH, distances._BATCH_ROWS = 1 << 20, 24, 3
from overseg.cli import main
main()
"""


@dataclass
class Ending:
    """How a command ended.

    Attributes
    ----------
    code : int
    said : dict
        Its summary, or ``what``, ``where`` and ``remedy`` of its error.
    stderr : str
    seconds : float
        From the start.
    """

    code: int
    said: dict[str, Any]
    stderr: str
    seconds: float

    def error(self) -> str:
        """The whole message of a command that ended with a clear error; anything else is raised."""
        clear = self.code == 1 and all(self.said.get(each) for each in ("what", "where", "remedy"))
        if not clear or "should not" in str(self.said["what"]) or "Traceback" in self.stderr:
            raise AssertionError(f"no clear error: {self}")
        return f"{self.said['what']}; {self.said['where']}; {self.said['remedy']}"


@dataclass
class Run:
    """A command under way."""

    process: subprocess.Popen[str]
    place: Path
    began: float = field(default_factory=time.monotonic)
    behind: int = 0

    def events(self) -> list[dict[str, Any]]:
        """The log since this command began."""
        try:
            with (self.place / "run" / "events.jsonl").open("rb") as file:
                file.seek(self.behind)
                return parse(file.read())
        except FileNotFoundError:
            return []

    def step(self) -> tuple[str, int, int]:
        """The step that runs, how many of its units are done, and how many it has."""
        name, done, total = "", 0, 0
        for event in self.events():
            if event["event"] == "step":
                name, done, total = event["step"], event["done"], event["total"]
            elif event["event"] == "done" and event["step"] == name:
                done += 1
        return name, done, total

    def deaths(self) -> int:
        """Workers that died under a unit, as the driver has it."""
        return sum(event["event"] == "died" for event in self.events())

    def wait_for(self, there: Callable[[], bool]) -> bool:
        """Whether it came to that while the command ran."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and self.process.poll() is None:
            if there():
                return True
            time.sleep(0.005)
        return False

    def in_step(self, names: tuple[str, ...], least: float = 0.0) -> bool:
        """Wait until at least one unit and this share of one of these steps are done, and some are not."""

        def there() -> bool:
            name, done, total = self.step()
            return name in names and max(1.0, least * total) <= done < total

        return self.wait_for(there)

    def workers(self) -> list[psutil.Process]:
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
            return [each for each in family if "overseg.cluster.worker" in " ".join(each.cmdline())]
        except psutil.Error:
            return []

    def family(self) -> list[int]:
        """Numbers of the driver and its workers."""
        return [self.process.pid, *(each.pid for each in self.workers())]

    def kill(self, group: bool = False) -> bool:
        """Kill the driver alone, or all its processes; whether it was still at it."""
        alive = self.process.poll() is None
        if alive and group:
            os.killpg(self.process.pid, signal.SIGKILL)
        elif alive:
            self.process.kill()
        self.process.communicate()
        return alive

    def end(self, limit: float = LIMIT) -> Ending:
        """How it ended. Raises ``TimeoutExpired``."""
        try:
            out, err = self.process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self.kill(group=True)
            raise
        lines = out.strip().splitlines()
        said = json.loads(lines[-1]) if lines else {}
        return Ending(self.process.returncode, said.get("error", said), err, time.monotonic() - self.began)


class Subject:
    """The volume, and what an undisturbed run makes of it.

    Parameters
    ----------
    folder : Path
        An empty folder.
    seed : int
        Of moments and victims.
    settings : tuple of str
        Of plans.
    shape : tuple of int
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        settings: tuple[str, ...] = DEFAULT,
        shape: tuple[int, int, int] = SHAPE,
    ) -> None:
        self.folder, self.random, self.settings, self.shape = folder, random.Random(seed), settings, shape
        tissue = generate_tissue(shape, n_cells=int(np.prod(shape)) // 2560, seed=4)
        broken, _ = simulate_splits(tissue, rate=0.5, seed=4)
        self.sound = folder / "sound.zarr"
        array = zarr.create_array(str(self.sound), shape=shape, chunks=CHUNKS, dtype="u4")
        array[:] = broken
        self.files = files_of(self.sound)
        self._count = 0
        volume = self.fresh()
        ending = self.run("correct", volume, limit=_FIRST)
        self.hash = str(ending.said["plan_hash"])
        self.seconds = ending.seconds
        self.after = zarr.open_array(str(volume), mode="r")[:]
        if ending.said["merged"] < 5 or np.array_equal(self.after, broken):
            raise AssertionError(f"too little to do: {ending.said}")
        self.check_corrected(volume, self.hash)

    def home(self) -> Path:
        """A new folder for one trial."""
        self._count += 1
        folder = self.folder / f"trial-{self._count}"
        folder.mkdir()
        return folder

    def fresh(self, within: Path | None = None) -> Path:
        """A copy of the volume in a folder of its own."""
        home = within or self.home()
        shutil.copytree(self.sound, home / "v.zarr")
        return home / "v.zarr"

    def start(
        self, verb: str, target: Path, *options: object, modes: bool = False, place: Path | None = None
    ) -> Run:
        """Begin a command.

        Parameters
        ----------
        verb : str
        target : Path
        *options
            Of the command line, beyond the subject's settings; two workers where they name
            no ``--scheduler`` and no ``--workers``.
        modes : bool
            File modes shall hold for it, also where this process is root's.
        place : Path, optional
            The plan folder, where it is not beside the volume.
        """
        words = [verb, str(target), *map(str, options), "--json"]
        words += self.settings if verb in ("plan", "correct") else ()
        if not {"--scheduler", "--workers"} & set(words):
            words += WORKERS
        if place is None:
            place = target if target.suffix == ".overseg" else target.parent / "v.overseg"
        log = place / "run" / "events.jsonl"
        behind = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
            preexec_fn=obey_modes if modes else None,
        )
        return Run(process, place, behind=behind)

    def plan(self, volume: Path, *options: object) -> Path:
        """A finished plan, found undisturbed."""
        self.run("plan", volume, *options, "--workers", 1)
        return volume.parent / "v.overseg"

    def run(self, verb: str, target: Path, *options: object, limit: float = LIMIT) -> Ending:
        """A command that nothing happens to; it must succeed."""
        ending = self.start(verb, target, *options).end(limit)
        if ending.code:
            raise AssertionError(f"{verb}: {ending.said} {ending.stderr}")
        return ending

    def check_hash(self, ending: Ending) -> None:
        """The command succeeded, and its plan is that of an undisturbed run."""
        if ending.code or ending.said["plan_hash"] != self.hash:
            raise AssertionError(f"undisturbed the plan is {self.hash}: {ending}")

    def check_corrected(self, volume: Path, found: str, place: Path | None = None) -> None:
        """Hash and voxels are those of an undisturbed run; undone, every byte is the original."""
        if found != self.hash:
            raise AssertionError(f"the plan is {found}, undisturbed it is {self.hash}")
        place = place or volume.parent / "v.overseg"
        np.testing.assert_array_equal(zarr.open_array(str(volume), mode="r")[:], self.after)
        check_clean(volume)
        found_odd = overseg.verify(place, workers=1).problems
        if found_odd:
            raise AssertionError(str(found_odd))
        overseg.undo(place, workers=1)
        self.check_original(volume)

    def check_original(self, volume: Path) -> None:
        """Every file of the volume is as it was, to the byte, and nothing else is there."""
        now = files_of(volume)
        if now != self.files:
            odd = [name for name in now.keys() | self.files.keys() if now.get(name) != self.files.get(name)]
            raise AssertionError(f"{len(odd)} files differ from the original: {sorted(odd)[:5]}")
        check_clean(volume)

    def finish(self, volume: Path, place: Path | None = None) -> None:
        """Run `correct` to its end, compare, and remove the trial."""
        out = () if place is None else ("--out", place)
        ending = self.run("correct", volume, *out)
        self.check_corrected(volume, ending.said["plan_hash"], place)
        shutil.rmtree(volume.parent)


def files_of(volume: Path) -> dict[str, bytes]:
    """Every file of a volume but overseg's own notes."""
    found = {str(path.relative_to(volume)): path for path in volume.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".overseg/")}


def check_clean(volume: Path) -> None:
    """No lock and no half-written file is left."""
    left = [str(path) for path in volume.rglob("*") if is_leftover(path.name)]
    left += open_volume(volume).files.list(".overseg/lock")
    if left:
        raise AssertionError(f"left behind: {left}")


def obey_modes() -> None:
    """Let file modes hold for this process once it has executed a program, also for root."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                raise OSError(ctypes.get_errno(), "cannot give up the right to ignore file modes")
