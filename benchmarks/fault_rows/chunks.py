"""One damaged chunk among thousands: named, whoever is near it left alone, and nothing written unasked."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy.ndimage import maximum_filter

import overseg
from benchmarks.fault_rows import Row, timed
from overseg.errors import PlanError
from overseg.measure import generate_tissue, simulate_splits

SHAPE, CHUNKS = (40, 160, 160), (4, 8, 8)
_REACH = 3  # max_gap + 1


def rows(seed: int, seconds: float) -> list[dict[str, Any]]:
    """Chunks at random, garbled, cut short or emptied, for so many seconds."""
    return [one_damaged(seed, seconds).plain()]


def one_damaged(seed: int, seconds: float, times: int = 20) -> Row:
    """Plan, `correct`, `apply` with and without leave, `verify`, `undo`, and the chunk restored."""
    chance = random.Random(seed)
    tissue = generate_tissue(SHAPE, n_cells=400, seed=4)
    broken = simulate_splits(tissue, rate=0.5, seed=4)[0].astype(np.uint32)
    with timed("one corrupt chunk among thousands") as row, tempfile.TemporaryDirectory() as folder:
        zarr.create_array(f"{folder}/sound.zarr", data=broken, chunks=CHUNKS)
        whole = overseg.plan(f"{folder}/sound.zarr", workers=1).hash
        chunks = sorted(path for path in Path(folder, "sound.zarr", "c").rglob("*") if path.is_file())
        left_alone, begin = 0, time.monotonic()
        while row.times < times and time.monotonic() - begin < seconds:
            home = Path(folder, str(row.times))
            home.mkdir()
            shutil.copytree(f"{folder}/sound.zarr", home / "v.zarr")
            torn = home / "v.zarr" / chance.choice(chunks).relative_to(f"{folder}/sound.zarr")
            left_alone += _trial(home, torn, chance, broken, whole)
            row.times += 1
            row.landed += 1
            shutil.rmtree(home)
    row.result = (
        f"named among {len(chunks):,}; all {left_alone} candidates of labels within {_REACH} voxels kept as "
        "`unread`; `plan` exits 1, `correct` and `apply` write nothing, `apply --allow-partial` leaves these "
        "labels as they are, `undo` is exact, and with the chunk restored the plan is the whole one"
    )
    return row


def _trial(home: Path, torn: Path, chance: random.Random, broken: np.ndarray, whole: str) -> int:
    sound, volume = torn.read_bytes(), home / "v.zarr"
    torn.write_bytes(chance.choice([b"", sound[:-5], bytes(len(sound)), b"\xff\x00" * len(sound)]))
    before = {path: path.read_bytes() for path in volume.rglob("*") if path.is_file()}
    said = subprocess.run(
        [sys.executable, "-m", "overseg", "plan", str(volume), "--workers", "1"],
        capture_output=True,
        text=True,
    )
    key = str(torn.relative_to(volume))
    _must(said.returncode == 1 and key in said.stdout, said.stdout + said.stderr)
    plan = overseg.load(home / "v.overseg")
    near = _near(broken, [int(at) for at in key.split("/")[1:]])
    rows = plan.candidates.to_pylist()
    mine = [each for each in rows if {each["a"], each["b"]} & near]
    _must(all((each["decision"], each["reason"]) == ("keep", "unread") for each in mine), str(mine))
    _must(not any(e["reason"] == "unread" for e in rows if not {e["a"], e["b"]} & near), "others")
    for run, target in ((overseg.correct, volume), (overseg.apply, plan)):
        try:
            run(target, workers=1)
            raise AssertionError(f"{run.__name__} went on")
        except PlanError as error:
            _must("--allow-partial" in str(error), str(error))
    _must(before == {path: path.read_bytes() for path in volume.rglob("*") if path.is_file()}, "written")
    overseg.apply(plan, allow_partial=True, workers=1)
    _must(overseg.verify(plan, workers=1).ok, "verify")
    torn.write_bytes(sound)
    now = zarr.open_array(str(volume), mode="r")[:]
    hers = np.isin(broken, list(near))
    _must(
        bool((now[hers] == broken[hers]).all() and not np.isin(now[~hers], list(near)).any()), "labels near"
    )
    overseg.undo(plan, workers=1)
    _must(bool((zarr.open_array(str(volume), mode="r")[:] == broken).all()), "undo")
    _must(overseg.plan(volume, workers=1).hash == whole, "restored")
    return len(mine)


def _near(broken: np.ndarray, place: list[int]) -> set[int]:
    """The plain truth: labels within reach of a chunk, which itself cannot be seen."""
    inside = np.zeros(broken.shape, bool)
    inside[tuple(slice(at * n, at * n + n) for at, n in zip(place, CHUNKS, strict=True))] = True
    grown = maximum_filter(inside, size=2 * _REACH + 1)
    return set(np.unique(broken[grown & ~inside]).tolist()) - {0}


def _must(held: bool, what: str) -> None:
    if not held:
        raise AssertionError(what)
