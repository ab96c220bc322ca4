"""Plan and apply as a job array: the same answer, whatever happens to the tasks; one unit alone; the cut."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

import overseg
from overseg import jobarray
from overseg.cluster import executor as executors
from overseg.cluster.failures import this_worker
from overseg.errors import InputError, LockedError, PlanError, ResourceError, TaskError
from overseg.measure import generate_tissue, simulate_splits
from overseg.pipeline import cut, scan, scantask, work
from overseg.pipeline import plan as plan_module
from overseg.pipeline.cut import Cut, halved
from overseg.pipeline.halves import halving, paths_in_order
from overseg.settings import Settings
from overseg.views.follow import follow
from overseg.volume import Volume, open_volume


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small tasks out of a small volume."""
    monkeypatch.setattr(scantask, "_LEAST", 1)
    monkeypatch.setattr(scantask, "_SIDE", 32)
    monkeypatch.setattr(work, "_BATCH_UNITS", 8)
    monkeypatch.setattr(executors, "_PAUSES", (0.0,))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, np.ndarray, np.ndarray]:
    """A broken volume, and hash and voxels of an undisturbed run in one go."""
    folder = tmp_path_factory.mktemp("calm")
    tissue = generate_tissue((24, 64, 64), n_cells=60, seed=4)
    broken, _ = simulate_splits(tissue, rate=0.5, seed=4)
    array = zarr.create_array(str(folder / "v.zarr"), shape=broken.shape, chunks=(4, 16, 16), dtype="u4")
    array[:] = broken
    corrected, plan = overseg.correct(broken.astype(np.uint32))
    assert plan.summary()["merged"] > 5
    return folder / "v.zarr", plan.hash, broken, corrected


@pytest.fixture
def volume(calm: tuple[Path, str, np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    shutil.copytree(calm[0], tmp_path / "v.zarr")
    return tmp_path / "v.zarr"


def voxels(path: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(str(path), mode="r")[:])


def planned(volume: Path, tasks: int) -> Path:
    place, array = jobarray.prepare_plan(volume, tasks, memory="2GiB")
    shares = [jobarray.plan_task(volume, task).units for task in range(tasks)]
    assert sum(shares) == array.units > 4 and len(set(shares)) <= 2
    return place


@pytest.mark.parametrize("tasks", [1, 3])
def test_an_array_gives_the_same_as_one_go(calm, volume: Path, tasks: int) -> None:
    place = planned(volume, tasks)
    plan = overseg.plan(volume)
    assert plan.hash == calm[1] and plan.path == place
    assert '"scan"' in (place / "run" / "events.jsonl").read_text()
    # Nothing was scanned again by the end.
    assert not (place / "run" / "receipts" / "scan.jsonl").exists()
    array = jobarray.prepare_apply(place, tasks)
    assert array.units > 4
    done = [jobarray.apply_task(place, task).units for task in range(tasks)]
    assert sum(done) == array.units
    assert overseg.apply(place, finish=True, workers=1).rewritten == 0
    np.testing.assert_array_equal(voxels(volume), calm[3])
    assert overseg.verify(place, workers=1).ok
    assert jobarray.prepare_apply(place, tasks).units == 0
    overseg.undo(place, workers=1)
    np.testing.assert_array_equal(voxels(volume), calm[2])


def test_tasks_that_never_ran_are_made_up_for(calm, volume: Path) -> None:
    place, _ = jobarray.prepare_plan(volume, 3, memory="2GiB")
    jobarray.plan_task(volume, 1)
    assert overseg.plan(volume).hash == calm[1]
    jobarray.prepare_apply(place, 3)
    jobarray.apply_task(place, 2)
    assert overseg.apply(place, finish=True, workers=1).rewritten > 0
    np.testing.assert_array_equal(voxels(volume), calm[3])
    assert not list((volume / ".overseg" / "lock").iterdir())


def test_the_volume_is_held_for_the_array_until_it_is_finished(calm, volume: Path) -> None:
    place = overseg.plan(volume).path
    jobarray.prepare_apply(place, 2)
    jobarray.apply_task(place, 0)
    for run in (overseg.apply, overseg.undo):
        with pytest.raises(LockedError, match="job array") as caught:
            run(place, workers=1)
        assert "--finish" in str(caught.value) and str(place) in str(caught.value)
    # Undone with force: late tasks of the array write no more.
    overseg.undo(place, break_lock=True, workers=1)
    with pytest.raises(LockedError, match="no longer holds") as caught:
        jobarray.apply_task(place, 1)
    assert "begins again with --prepare" in str(caught.value.remedy)
    with pytest.raises(LockedError):
        overseg.apply(place, finish=True, workers=1)
    np.testing.assert_array_equal(voxels(volume), calm[2])
    # Prepared once more it takes over from itself.
    first = jobarray.prepare_apply(place, 2)
    second = jobarray.prepare_apply(place, 2)
    assert second.generation > first.generation and second.token != first.token
    overseg.apply(place, finish=True, workers=1)
    np.testing.assert_array_equal(voxels(volume), calm[3])
    assert jobarray.apply_task(place, 0).units == 0  # late, and nothing is left to do
    overseg.undo(place, workers=1)
    with pytest.raises(PlanError, match="nothing was prepared"):
        jobarray.apply_task(place, 0)


def test_what_does_not_fit_what_was_prepared_is_refused(volume: Path) -> None:
    with pytest.raises(PlanError, match="nothing was prepared"):
        jobarray.plan_task(volume, 0)
    place, _ = jobarray.prepare_plan(volume, 2)
    with pytest.raises(InputError, match="no task 2"):
        jobarray.plan_task(volume, 2)
    with pytest.raises(PlanError, match="other settings"):
        jobarray.plan_task(volume, 0, max_gap=1)
    with pytest.raises(PlanError, match="not finished"):
        jobarray.apply_task(place, 0)
    with pytest.raises(InputError, match="0 tasks"):
        jobarray.prepare_plan(volume, 0)
    (place / "run" / "array.json").write_text("{")
    with pytest.raises(PlanError, match="damaged"):
        jobarray.plan_task(volume, 0)


def fail_once_more(monkeypatch: pytest.MonkeyPatch, module: object, name: str, broken: list[str]) -> None:
    """The first unit of a function that comes along fails for ever, as long as `broken` says so."""
    usual = getattr(module, name)

    def fn(*args: object) -> object:
        key = repr([a for a in args[1:] if not isinstance(a, str)])
        if not broken:
            broken.append(key)
        if broken[0] == key:
            raise ZeroDivisionError("the moon is in the wrong place")
        return usual(*args)

    monkeypatch.setattr(module, name, fn)


def test_a_unit_of_the_scan_alone(calm, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[str] = []
    with monkeypatch.context() as patched:
        fail_once_more(patched, scan, "scan_task", broken)
        with pytest.raises(TaskError, match="wrong place") as caught:
            overseg.plan(volume)
        place = volume.parent / "v.overseg"
        words = str(caught.value.remedy).rpartition("overseg again ")[2].split()
        assert words[0] == str(place)
        with pytest.raises(TaskError, match="in fn"):
            jobarray.again(*words)
    tasks = list((place / "run" / "scan").glob("*.tables"))
    assert len(tasks) > 4
    part = jobarray.again(*words)
    assert (part.step, part.units) == ("scan", 1)
    with pytest.raises(InputError, match="no unit"):
        jobarray.again(place, "scan/nonsense")
    with pytest.raises(InputError, match="names no unit"):
        jobarray.again(place, "nonsense")
    assert overseg.plan(volume).hash == calm[1]


def test_a_unit_of_the_writing_alone(calm, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overseg.pipeline import apply as applying

    place = overseg.plan(volume).path
    broken: list[str] = []
    with monkeypatch.context() as patched:
        fail_once_more(patched, applying, "write", broken)
        with pytest.raises(TaskError, match="wrong place") as caught:
            overseg.apply(place, workers=1)
    assert overseg.load(place).phase == "applying"
    words = str(caught.value.remedy).rpartition("overseg again ")[2]
    folder, _, unit = words.partition(" ")
    part = jobarray.again(folder, unit.strip("'"))
    assert (part.step, part.units) == ("write", 1)
    np.testing.assert_array_equal(voxels(volume), calm[3])
    assert overseg.apply(place, workers=1).rewritten == 0


def test_a_unit_of_an_arrays_writing_alone(calm, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the array's own lock; others of its tasks are at work meanwhile."""
    from overseg.pipeline import batch

    place = overseg.plan(volume).path
    jobarray.prepare_apply(place, 3)
    jobarray.apply_task(place, 2)
    jobarray.prepare_apply(place, 2)
    broken: list[str] = []
    with monkeypatch.context() as patched:
        fail_once_more(patched, batch, "write", broken)
        with pytest.raises(TaskError, match="wrong place") as caught:
            jobarray.apply_task(place, 0)
    folder, _, unit = str(caught.value.remedy).rpartition("overseg again ")[2].partition(" ")
    before = voxels(volume)
    part = jobarray.again(folder, unit.strip("'"))
    assert (part.step, part.units) == ("write", 1) and (voxels(volume) != before).any()
    jobarray.apply_task(place, 1)
    np.testing.assert_array_equal(voxels(volume), calm[3])
    assert overseg.apply(place, finish=True, workers=1).rewritten == 0
    assert not list((volume / ".overseg" / "lock").iterdir())
    with pytest.raises(InputError, match="nothing left"):
        jobarray.again(folder, unit.strip("'"))


@pytest.mark.parametrize("how", ["killed", "an array"])
def test_what_comes_back_as_it_was_is_not_taken_for_what_it_was_in_between(
    calm, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """With its old sizes and times, as from a copy: the tables are of the voxels in between."""
    usual = scan.scan_task

    def dies(*args: object) -> object:
        if len(args) < 5:  # a unit of the scan, once its tables are written
            usual(*args)
        raise KeyboardInterrupt

    def killed(module: object, name: str) -> None:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(module, name, dies)
            overseg.plan(volume)

    if how == "killed":
        killed(plan_module, "reconcile_volume")
    else:
        jobarray.prepare_plan(volume, 1)
        jobarray.plan_task(volume, 0)
    shutil.copytree(volume, tmp_path / "saved")
    array = zarr.open_array(str(volume))
    array[:] = calm[2] + (calm[2] > 0)
    killed(*((scan, "scan_task") if how == "killed" else (plan_module, "reconcile_volume")))
    shutil.rmtree(volume)
    shutil.copytree(tmp_path / "saved", volume)
    assert overseg.plan(volume).hash == calm[1]


def test_what_is_stored_anew_while_it_is_read_is_read_again(
    calm, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a task that stood still meanwhile would write old tables over those that others made since."""
    usual, changes, stopped = Volume.read_unit, [1], {}

    def read_unit(self: Volume, unit: int, level: int = 0) -> np.ndarray:
        found = usual(self, unit, level)
        if changes:
            changes.clear()
            zarr.open_array(str(volume))[:] = calm[2] + (calm[2] > 0)
            overseg.plan(volume, out=tmp_path / "p")
            folder = tmp_path / "p" / "run" / "scan"
            stopped.update({path: path.read_bytes() for path in folder.glob("*.tables")})
        return found

    jobarray.prepare_plan(volume, 1, out=tmp_path / "p")
    task = next(
        iter(Cut(open_volume(volume), Settings(), 1 << 30, 1, tmp_path / "p/run/scan", None).tasks.values())
    )
    monkeypatch.setattr(Volume, "read_unit", read_unit)
    with pytest.raises(TaskError, match="stored anew"):
        scan.scan_task(open_volume(volume), task, str(tmp_path / "p" / "run" / "scan"))
    assert stopped and all(path.read_bytes() == data for path, data in stopped.items())
    wanted = overseg.load(tmp_path / "p").hash
    assert wanted != calm[1]
    changes.append(1)
    zarr.open_array(str(volume))[:] = calm[2]
    assert overseg.plan(volume, out=tmp_path / "q").hash == wanted


def test_follow_tells_what_the_log_has(calm, volume: Path) -> None:
    place = overseg.plan(volume).path
    overseg.apply(place, workers=1)
    lines: list[str] = []
    seen: list[tuple[str, int, int]] = []
    told = follow(place, lambda *step: seen.append(step), lines.append, wait=lambda _: None)
    assert told["command"] == "apply" and told["why"] is None and told["failed"] == 0
    assert seen[-1][0] == "write" and seen[-1][1] == seen[-1][2] > 4
    assert lines[0].startswith("apply: 1 workers") and lines[-1] == "apply: done"
    log = place / "run" / "events.jsonl"
    events = log.read_text().splitlines()
    # Killed: the last line is torn, and nobody writes the end.
    log.write_text("\n".join(events[:-1]).replace(f":{__import__('os').getpid()}", ":4194305") + '\n{"ti')
    told = follow(place, lambda *step: None, lines.append, wait=lambda _: None)
    assert "gone" in told["why"]
    # On another machine nobody sees whether it is there; but it is not waited for in silence.
    here, there = this_worker(), "far:1"
    log.write_text("\n".join(events[:-1]).replace(here, there) + "\n")
    waits = [None] * 1300
    with pytest.raises(IndexError):
        follow(place, lambda *step: None, lines.append, wait=lambda _: waits.pop())
    quiet = [f"nothing is heard for {n} minutes; see whether process {there} is there" for n in (5, 10)]
    assert [line for line in lines if "nothing" in line] == quiet
    with pytest.raises(PlanError, match="no log"):
        follow(volume, lambda *step: None, lines.append)


def test_a_run_with_other_workers_finds_the_cut_of_the_one_before(volume: Path, tmp_path: Path) -> None:
    opened, settings = open_volume(volume), Settings()
    first = Cut(opened, settings, 1 << 30, 2, tmp_path)
    again = Cut(opened, settings, 2 << 30, 1, tmp_path)
    assert list(again.tasks) == list(first.tasks)
    halve = first.halver(lambda task: (task,))
    name = next(name for name, task in first.tasks.items() if task.z[1] - task.z[0] >= 2)
    parts = halve(name, ())
    assert len(parts) == 2 and name not in first.tasks and parts.keys() <= first.tasks.keys()
    assert set(Cut(opened, settings, 1 << 30, 2, tmp_path).tasks) == set(first.tasks)
    # Damaged, or too large for the memory now: cut anew.
    with pytest.raises(ResourceError):
        Cut(opened, settings, 1 << 20, 2, tmp_path)
    (tmp_path / "cut.json").write_text("[]")
    assert list(Cut(opened, settings, 1 << 30, 2, tmp_path).tasks) != list(first.tasks)


@pytest.mark.parametrize("kind", ["gap", "both"])
def test_with_less_memory_only_what_is_left_is_cut_anew(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    calm = overseg.plan(volume, out=tmp_path / "calm", kind=kind, workers=1)
    usual, done, others = scan.scan_task, [], []

    def dies(vol: object, task: scantask.ScanTask, *more: object) -> object:
        if len(done) == 3:
            raise InputError("the power is gone", where="here", remedy="wait")
        done.append(task)
        return usual(vol, task, *more)

    def goes_on(vol: object, task: scantask.ScanTask, *more: object) -> object:
        others.append(task)
        return usual(vol, task, *more)

    monkeypatch.setattr(scantask, "_SHARE", 1)
    with monkeypatch.context() as patched:
        patched.setattr(scan, "scan_task", dies)
        with pytest.raises(InputError):
            overseg.plan(volume, kind=kind, workers=1)
    before = Cut(open_volume(volume), Settings(kind=kind), 1 << 30, 1, volume.parent / "v.overseg/run/scan")
    largest = max(map(scantask.predicted_peak, done))
    monkeypatch.setattr(scan, "scan_task", goes_on)
    # What a worker with so little has left is less than the largest task takes.
    monkeypatch.setattr(executors.Executor, "room", largest - 1)
    plan = overseg.plan(volume, kind=kind, workers=1)
    assert plan.hash == calm.hash
    assert not {task.name for task in others} & {task.name for task in done}
    assert len(others) > len(before.tasks) - 3 and max(map(scantask.predicted_peak, others)) < largest


def test_a_scan_whose_tasks_are_halved_gives_the_same(
    calm, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, seen = scan.scan_task, []

    def hungry(vol: object, task: scantask.ScanTask, *more: object) -> object:
        seen.append(task.name)
        if task.z[1] - task.z[0] > 1:
            raise MemoryError
        return usual(vol, task, *more)

    monkeypatch.setattr(scantask, "_SHARE", 1)
    monkeypatch.setattr(scan, "scan_task", hungry)
    plan = overseg.plan(volume)
    assert plan.hash == calm[1] and len(seen) > len(set(seen)) - 1
    log = (plan.path / "run" / "events.jsonl").read_text()
    assert log.count('"halved"') >= 3
    # Killed after that, it goes on with the halves.
    monkeypatch.setattr(scan, "scan_task", None)
    shutil.rmtree(plan.path / "plan")
    assert overseg.plan(volume).hash == calm[1]


def can_be_halved(step: str, args: tuple, halve: Callable) -> bool:
    if step == "scan":
        return bool(halved(*args[:2]))
    return args[2] - args[1] > 1 if step == "score" else bool(halve("", args))


@pytest.mark.parametrize("how", [{"kind": "both"}, {"preset": "paper"}], ids=["across", "distances"])
def test_whatever_is_halved_the_answer_is_the_same(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, how: dict
) -> None:
    """Any unit of any step, from the scan to undo."""
    calm = overseg.plan(volume, out=tmp_path / "calm", workers=1, **how)
    before = voxels(volume)
    overseg.apply(calm.path, workers=1)
    corrected = voxels(volume)
    overseg.undo(calm.path, workers=1)
    usual, rng, steps = executors.Executor.run, np.random.default_rng(0), set()

    def run(self, step, fn, units, *more, halve=None, **others):
        def hungry(*args: object) -> object:
            wanted = halve is not None and (step not in steps or rng.random() < 0.4)
            if wanted and can_be_halved(step, args, halve):
                steps.add(step)
                raise MemoryError
            return fn(*args)

        def named(name: str, args: tuple) -> dict:
            parts = halve(name, args)
            # `again` finds them by that; the scan notes its halves.
            assert step == "scan" or all(part.startswith(f"{name}, half ") for part in parts)
            return parts

        return usual(self, step, hungry, units, *more, halve=halve and named, **others)

    monkeypatch.setattr(executors.Executor, "run", run)
    plan = overseg.plan(volume, out=tmp_path / "halved", workers=1, **how)
    assert plan.hash == calm.hash
    overseg.apply(plan.path, workers=1)
    np.testing.assert_array_equal(voxels(volume), corrected)
    assert overseg.verify(plan.path, workers=1).ok
    overseg.undo(plan.path, workers=1)
    np.testing.assert_array_equal(voxels(volume), before)
    used = request.node.callspec.id
    assert steps >= {"scan", "score", used, "fill", "write", "stamps", "check", "verify", "undo"}


def test_tasks_are_put_in_order_by_their_place(volume: Path) -> None:
    tasks = scantask.plan_scan(open_volume(volume), Settings(kind="both"), 1 << 30)
    assert cut.in_order(tasks[::-1]) == tasks


def test_files_of_halves_stand_in_the_place_of_the_whole() -> None:
    halve = halving(path=2)
    units = {name: (None, tuple(name * 5), f"/{name}") for name in "bca"}
    left, done = dict(units), {}
    while left:
        name, args = left.popitem()
        left |= halve(name, args) if len(args[1]) > 1 else {}
        if len(args[1]) == 1:
            done[name] = {"path": args[2]}
    paths = paths_in_order(units, done)
    assert [path[1] for path in paths] == list("bbbbbcccccaaaaa") and len(set(paths)) == 15
    assert halve("a", (None, ("a",), "/a")) == {} == halving(batch=0)("a", ((),))


def test_half_a_unit_alone(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overseg.pipeline import score

    usual = score.first_task

    def hungry(first: object, start: int, stop: int, path: str) -> object:
        if stop - start > 7:
            raise MemoryError
        if start == 0:
            raise ZeroDivisionError("no luck")
        return usual(first, start, stop, path)

    with monkeypatch.context() as patched:
        patched.setattr(score, "first_task", hungry)
        with pytest.raises(TaskError, match="no luck") as caught:
            overseg.plan(volume, workers=1)
    folder, _, unit = str(caught.value.remedy).rpartition("overseg again ")[2].partition(" ")
    assert unit.count("half 1") > 1
    part = jobarray.again(folder, unit.strip("'"))
    assert (part.step, part.units) == ("score", 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_units_that_failed_with_half_of_their_work_done_are_done_again(
    calm, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """All of it, or what a half of it would have done; some run out of memory and are halved after that."""
    whole = overseg.plan(volume, out=tmp_path / "calm", kind="both", workers=1)
    overseg.apply(whole.path, workers=1)
    corrected = voxels(volume)
    overseg.undo(whole.path, workers=1)
    usual, rng = executors.Executor.run, np.random.default_rng(seed)
    failed: dict[tuple[str, str], int] = {}
    in_a_row = [0]

    def run(self, step, fn, units, *more, halve=None, **others):
        def stumbles(*args: object) -> object:
            key = step, repr(args)
            if in_a_row[0] == 3 or failed.get(key, 0) == 2 or rng.random() < 0.7:
                in_a_row[0] = 0
                return fn(*args)
            in_a_row[0] += 1
            failed[key] = failed.get(key, 0) + 1
            large = halve is not None and can_be_halved(step, args, halve)
            some = list(halve("", args).values()) if large and step != "scan" else [args]
            fn(*some[int(rng.integers(len(some)))])
            raise MemoryError if large and rng.random() < 0.5 else OSError(5, "Input/output error")

        return usual(self, step, stumbles, units, *more, halve=halve, **others)

    monkeypatch.setattr(executors.Executor, "run", run)
    plan = overseg.plan(volume, out=tmp_path / "tired", kind="both", workers=1)
    assert plan.hash == whole.hash
    overseg.apply(plan.path, workers=1)
    np.testing.assert_array_equal(voxels(volume), corrected)
    assert overseg.verify(plan.path, workers=1).ok
    overseg.undo(plan.path, workers=1)
    np.testing.assert_array_equal(voxels(volume), calm[2])
    assert {"scan", "write", "undo"} <= {step for step, _ in failed}
