"""Parts of a run from the command line: job arrays, one unit alone, following."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

import overseg
from overseg.cli.app import app
from overseg.measure import generate_tissue, simulate_splits


@pytest.fixture(scope="module")
def broken() -> np.ndarray:
    tissue = generate_tissue((16, 64, 64), n_cells=40, seed=4)
    return simulate_splits(tissue, rate=0.5, seed=4)[0].astype(np.uint16)


@pytest.fixture
def volume(broken: np.ndarray, tmp_path: Path) -> Path:
    zarr.create_array(str(tmp_path / "v.zarr"), data=broken, chunks=(8, 32, 32))
    return tmp_path / "v.zarr"


def run(*words: object) -> dict[str, object]:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def refused(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 1
    return done.stderr


def test_both_halves_as_arrays(broken: np.ndarray, volume: Path, tmp_path: Path) -> None:
    corrected, plan = overseg.correct(broken)
    common = ("plan", volume, "--out", tmp_path / "p.overseg")
    assert "begin with `overseg plan VOLUME --prepare N`" in refused(*common, "--task", 0)
    assert "begin with `overseg plan VOLUME --prepare N`" in refused(*common, "--finish")
    said = run(*common, "--prepare", 2)
    assert said["tasks"] == 2 and said["memory_bytes"] == 4 << 30
    place = str(said["plan"])
    assert "only one of" in refused(*common, "--prepare", 2, "--task", 0)
    assert "number the tasks of the array 0 to 1" in refused(*common, "--task", 2)
    assert "the same options" in refused(*common, "--task", 0, "--max-gap", 1)
    assert sum(int(str(run(*common, "--task", i)["units"])) for i in range(2)) == said["units"]
    assert run(*common, "--finish")["plan_hash"] == plan.hash
    assert "begin with `overseg apply PLAN --prepare N`" in refused("apply", place, "--finish")
    run("apply", place, "--prepare", 2)
    assert "--finish" in refused("apply", place)
    for i in range(2):
        run("apply", place, "--task", i)
    finished = CliRunner().invoke(app, ["apply", str(place), "--finish"])
    assert finished.exit_code == 0 and "all rewritten before" in finished.stdout
    np.testing.assert_array_equal(zarr.open_array(str(volume), mode="r")[:], corrected)
    assert run("apply", place, "--prepare", 2)["units"] == 0
    shown = CliRunner().invoke(app, ["show", "--follow", place])
    assert shown.exit_code == 0 and "apply: done" in shown.stderr


def test_more_tasks_than_units_are_told(volume: Path) -> None:
    said = CliRunner().invoke(app, ["plan", str(volume), "--prepare", "5000"])
    assert said.exit_code == 0 and "have nothing to do" in said.stdout
    said = CliRunner().invoke(app, ["plan", str(volume), "--prepare", "1"])
    assert said.exit_code == 0 and "have nothing to do" not in said.stdout


def test_wrong_places_are_named(volume: Path, tmp_path: Path) -> None:
    assert "no log of a run" in refused("show", "--follow", volume)
    assert "nothing was run in this folder" in refused("again", tmp_path, "scan/x")
    place = run("plan", volume)["plan"]
    assert "names no unit" in refused("again", place, "scan")
    assert "no unit of that name" in refused("again", place, "scan/nonsense")


def test_an_array_that_could_not_be_prepared_holds_nothing(volume: Path) -> None:
    place = run("plan", volume)["plan"]
    array = zarr.open_array(str(volume))
    before = array[:]
    array[:] = 0
    assert "changed since the plan was made" in refused("apply", place, "--prepare", 2)
    array[:] = before
    assert run("apply", place)["phase"] == "applied"


def test_arrays_go_by_the_folder_that_holds_the_journal(volume: Path, tmp_path: Path) -> None:
    place, copy = Path(str(run("plan", volume)["plan"])), tmp_path / "copy.overseg"
    shutil.copytree(place, copy)
    run("apply", place, "--prepare", 2)
    assert str(place) in refused("apply", copy, "--prepare", 2, "--break-lock")
    assert str(place) in refused("apply", copy, "--task", 0)
    run("apply", place, "--task", 0)
    run("apply", place, "--finish")


def test_arrays_find_a_volume_that_was_moved_and_miss_one_that_is_gone(volume: Path, tmp_path: Path) -> None:
    place = Path(str(run("plan", volume)["plan"]))
    run("apply", place, "--prepare", 1)
    (tmp_path / "new").mkdir()
    volume.rename(tmp_path / "new" / volume.name)
    for words in (("--task", 0), ("--prepare", 1)):
        assert "is not where it was" in refused("apply", place, *words)
    moved = place.rename(tmp_path / "new" / place.name)
    assert run("apply", moved, "--task", 0)["units"] == 1
    run("apply", moved, "--finish")


def test_a_plan_on_its_way_is_no_damage(volume: Path) -> None:
    place = run("plan", volume, "--out", volume.with_name("p q.overseg"))["plan"]
    run("apply", place, "--prepare", 2)
    run("apply", place, "--task", 0)
    done = CliRunner().invoke(app, ["verify", str(place)])
    assert done.exit_code == 1 and "half applied" in done.stdout and "damaged" not in done.stdout
    assert f"`overseg apply '{place}'` (of a job array, with --finish)" in done.stdout
    array = zarr.open_array(str(volume))
    array[-1, -1, -1] = 999 if array[-1, -1, -1] == 0 else 0
    assert "damaged" in CliRunner().invoke(app, ["verify", str(place)]).stdout


def test_commands_in_remedies_can_be_copied_where_paths_have_blanks(volume: Path) -> None:
    place = str(run("plan", volume, "--out", volume.with_name("Zellen (neu).overseg"))["plan"])
    run("apply", place, "--prepare", 1)
    assert f"`overseg apply '{place}' --finish`" in refused("undo", place)
    assert f"`overseg apply '{place}'`" in refused("plan", volume)


def test_the_memory_that_a_remedy_names_will_do(volume: Path) -> None:
    said = refused("plan", volume, "--prepare", 2, "--memory", "1MiB")
    least = re.search(r"--memory (\d+)MiB or more", said)
    assert least is not None and "jobs of [cluster]" in said
    below = f"{int(least[1]) - 1}MiB"
    assert "a worker has" in refused("plan", volume, "--prepare", 2, "--memory", below)
    assert run("plan", volume, "--prepare", 2, "--memory", f"{least[1]}MiB")["units"]
