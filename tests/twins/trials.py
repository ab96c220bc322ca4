"""One small broken volume, corrected by real processes to which things happen; and what must be true after.

For tests/faults and benchmarks/faults. A command runs as a process of its own with two workers, on tasks so
small that every step has several. Where it is comes from the log in the plan folder.
"""

from __future__ import annotations

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

SHAPE, CHUNKS = (40, 160, 160), (4, 16, 16)
LIMIT = 180.0  # seconds in which a command that nothing happens to must be done
WORKER_STEPS = {"scan": ("scan",), "score": ("score", "distances", "fill"), "apply": ("check", "write")}

_PROGRAM = """
import json, sys
from overseg.pipeline import distances, fills, firststage, scantask, work
scantask._LEAST, scantask._SIDE, work._BATCH_UNITS = 1 << 14, 32, 6
fills._BATCH_WORK = 1 << 20
import overseg
from overseg.errors import OversegError
verb, target, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
try:
    said = getattr(overseg, verb)(target, **options)
    print(json.dumps({"hash": said.hash}))
except OversegError as error:
    print(json.dumps({"error": type(error).__name__, "what": error.what, "where": error.where,
                      "remedy": error.remedy}))
    sys.exit(1)
"""


@dataclass
class Ending:
    """How a command ended.

    Attributes
    ----------
    code : int
    said : dict
        The plan's hash, or the error.
    stderr : str
    seconds : float
        From the start.
    """

    code: int
    said: dict[str, Any]
    stderr: str
    seconds: float


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

    def wait_for(self, there: Callable[[], bool]) -> bool:
        """Whether it came to that while the command ran."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and self.process.poll() is None:
            if there():
                return True
            time.sleep(0.005)
        return False

    def in_step(self, names: tuple[str, ...], least: int = 1) -> bool:
        """Wait until some units of one of these steps are done, and some are not."""

        def there() -> bool:
            name, done, total = self.step()
            return name in names and least <= done < total

        return self.wait_for(there)

    def workers(self) -> list[psutil.Process]:
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
            return [each for each in family if "overseg.cluster.worker" in " ".join(each.cmdline())]
        except psutil.Error:
            return []

    def kill(self, number: int = signal.SIGKILL) -> bool:
        """Kill the driver alone; whether it was still at it."""
        alive = self.process.poll() is None
        if alive:
            self.process.send_signal(number)
        self.process.communicate()
        return alive

    def end(self) -> Ending:
        out, err = self.process.communicate(timeout=LIMIT)
        lines = out.strip().splitlines()
        said = json.loads(lines[-1]) if lines else {}
        return Ending(self.process.returncode, said, err, time.monotonic() - self.began)


class Subject:
    """The volume, and what an undisturbed run makes of it.

    Parameters
    ----------
    folder : Path
        An empty folder.
    seed : int
        Of moments and victims.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        tissue = generate_tissue(SHAPE, n_cells=400, seed=4)
        broken, _ = simulate_splits(tissue, rate=0.5, seed=4)
        array = zarr.create_array(str(folder / "sound.zarr"), shape=SHAPE, chunks=CHUNKS, dtype="u4")
        array[:] = broken
        self.before = broken.astype(np.uint32)
        self.after, plan = overseg.correct(self.before, emd="all")
        self.hash = plan.hash
        self.files = _files(folder / "sound.zarr")
        self._count = 0

    def fresh(self, within: Path | None = None) -> Path:
        """A copy of the volume in a folder of its own."""
        self._count += 1
        home = (within or self.folder) / f"trial-{self._count}"
        home.mkdir()
        shutil.copytree(self.folder / "sound.zarr", home / "v.zarr")
        return home / "v.zarr"

    def start(
        self, verb: str, target: Path, *, prefix: tuple[str, ...] = (), workers: int = 2, **options: Any
    ) -> Run:
        """Begin a command; options are those of the Python function."""
        if verb in ("plan", "correct"):
            options = {"emd": "all", **options}
        if "scheduler" not in options:
            options = {"workers": workers, "memory": "512MiB", **options}
        words = [*prefix, sys.executable, "-c", _PROGRAM, verb, str(target), json.dumps(options)]
        place = target if target.suffix == ".overseg" else target.parent / "v.overseg"
        log = place / "run" / "events.jsonl"
        behind = log.stat().st_size if log.exists() else 0
        tests = str(Path(__file__).resolve().parents[1])
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(tests).parent), *sys.path])}
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
        )
        return Run(process, place, behind=behind)

    def run(self, verb: str, target: Path, **options: Any) -> Ending:
        """A command that nothing happens to; it must succeed."""
        ending = self.start(verb, target, **options).end()
        if ending.code:
            raise AssertionError(f"{verb}: {ending.said} {ending.stderr}")
        return ending

    def check_corrected(self, volume: Path, found: str) -> None:
        """The hash and every voxel are those of an undisturbed run; undone, every byte is the original."""
        if found != self.hash:
            raise AssertionError(f"the plan is {found}, undisturbed it is {self.hash}")
        np.testing.assert_array_equal(zarr.open_array(str(volume), mode="r")[:], self.after)
        place = volume.parent / "v.overseg"
        proof = overseg.verify(place, workers=1)
        if not proof.ok:
            raise AssertionError(str(proof.problems))
        overseg.undo(place, workers=1)
        self.check_original(volume)

    def check_original(self, volume: Path) -> None:
        """Every voxel and metadata file is as it was, and no lock or torn file is left."""
        np.testing.assert_array_equal(zarr.open_array(str(volume), mode="r")[:], self.before)
        now = _files(volume)
        if now.keys() != self.files.keys() or now["zarr.json"] != self.files["zarr.json"]:
            raise AssertionError(f"files differ: {sorted(now.keys() ^ self.files.keys())}")
        if open_volume(volume).files.list(".overseg/lock"):
            raise AssertionError("a lock was left")


def _files(volume: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(volume)): path for path in volume.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".overseg/")}


def finish(subject: Subject, volume: Path) -> None:
    """Run `correct` to its end, and compare."""
    ending = subject.run("correct", volume)
    subject.check_corrected(volume, ending.said["hash"])
    shutil.rmtree(volume.parent)
