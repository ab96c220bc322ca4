"""What must not be done is refused by name before anything is written, and nothing is lost."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr
from twins.writing import contents, edits, image, metadata, plan_for, store, tissue, truth

from overseg.cluster.executor import InlineExecutor
from overseg.errors import ChangedError, LockedError, PlanError, ResourceError, StorageError, VolumeError
from overseg.pipeline.apply import apply
from overseg.pipeline.plandata import Fills, Merges, PlanData
from overseg.pipeline.undo import undo
from overseg.pipeline.verify import verify
from overseg.settings import RunSettings
from overseg.volume import Volume, open_volume
from overseg.volume.lock import locked
from overseg.volume.state import KEY, find_place, read_state

RUN = RunSettings()
INLINE = InlineExecutor(1, 1 << 30)
SHAPE = (20, 26, 30)


@dataclass(frozen=True)
class Case:
    """A small volume with a plan."""

    path: Path
    folder: Path
    data: np.ndarray
    expected: np.ndarray
    volume: Volume
    plan: PlanData

    def now(self) -> np.ndarray:
        return contents(self.volume)[0]

    def edit(self, voxel: tuple[int, int, int], label: int) -> None:
        """What another tool might do."""
        zarr.open_array(str(self.path), mode="r+")[voxel] = label

    def first_changed(self) -> tuple[int, int, int]:
        z, y, x = (int(at[0]) for at in np.nonzero(self.data != self.expected))
        return z, y, x


@pytest.fixture
def case(tmp_path: Path) -> Case:
    data = tissue(SHAPE).astype(np.uint32)
    merges, fills = edits(SHAPE)
    path, folder = tmp_path / "tissue.zarr", tmp_path / "tissue.overseg"
    volume = store(path, data, (8, 8, 8))
    plan = plan_for(volume, folder, merges, fills)
    return Case(path, folder, data, truth(data, merges, fills), volume, plan)


def stop_after(n: int) -> Callable[[str, int, int], None]:
    """A progress callback at which the run breaks off."""

    def progress(step: str, done: int, total: int) -> None:
        if step in ("write", "undo") and done >= n:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def one_unit_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run can be broken off between any two units."""
    monkeypatch.setattr("overseg.pipeline.work._BATCH_UNITS", 1)


# ---------------------------------------------------------------------------------------- changed voxels


def test_a_volume_changed_since_the_plan(case: Case) -> None:
    case.edit(case.first_changed(), 9999)
    before = case.now()
    with pytest.raises(ChangedError, match="changed since") as caught:
        apply(case.folder, RUN, INLINE)
    assert "unit 0" in str(caught.value) and "z 0:8, y 0:8, x 0:8" in str(caught.value)
    np.testing.assert_array_equal(case.now(), before)
    assert read_state(case.volume).plans == ()
    assert not any((case.folder / "run/journal").glob("*/*.journal"))


def test_undo_after_someone_elses_edit(case: Case) -> None:
    apply(case.folder, RUN, INLINE)
    case.edit(case.first_changed(), 9999)
    edited = case.now()
    with pytest.raises(ChangedError, match="someone else") as caught:
        undo(case.folder, RUN)
    assert "unit 0" in str(caught.value) and "--only-unchanged" in str(caught.value)
    np.testing.assert_array_equal(case.now(), edited)
    assert read_state(case.volume).phase(case.plan.hash) == "applied"

    result = undo(case.folder, RUN, only_unchanged=True)
    assert [name.split("unit ")[1][0] for name in result.units_left] == ["0"]
    kept = case.data.copy()
    kept[:8, :8, :8] = edited[:8, :8, :8]
    np.testing.assert_array_equal(case.now(), kept)
    assert not verify(case.folder).ok


def test_a_unit_edited_while_half_applied(case: Case, one_unit_a_task: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        apply(case.folder, RUN, INLINE, progress=stop_after(3))
    last = tuple(int(at[-1]) for at in np.nonzero(case.data != case.expected))
    case.edit(last, 9999)  # type: ignore[arg-type]
    with pytest.raises(ChangedError):
        apply(case.folder, RUN, INLINE)
    case.edit(last, int(case.data[last]))  # type: ignore[arg-type]
    apply(case.folder, RUN, INLINE)
    np.testing.assert_array_equal(case.now(), case.expected)


# --------------------------------------------------------------------------------------------- the wrong plan


def test_a_plan_for_another_volume(case: Case, tmp_path: Path) -> None:
    other = store(tmp_path / "other.zarr", tissue((20, 26, 31)).astype(np.uint32), (8, 8, 8))
    with pytest.raises(PlanError, match="another volume"):
        apply(case.folder, RUN, INLINE, volume=other)
    same_shape = store(tmp_path / "same.zarr", tissue(SHAPE, 5).astype(np.uint32), (8, 8, 8))
    with pytest.raises(ChangedError):
        apply(case.folder, RUN, INLINE, volume=same_shape)
    chunks = store(tmp_path / "chunks.zarr", case.data, (20, 26, 30))
    with pytest.raises(PlanError, match="other chunks"):
        apply(case.folder, RUN, INLINE, volume=chunks)
    for name in ("other", "same", "chunks"):
        assert not (tmp_path / f"{name}.zarr" / KEY).exists()


def test_a_missing_volume(case: Case) -> None:
    shutil.rmtree(case.path)
    for command in (lambda: apply(case.folder, RUN, INLINE), lambda: undo(case.folder, RUN)):
        with pytest.raises(VolumeError, match="does not exist"):
            command()


def test_another_plan_is_half_applied(case: Case, tmp_path: Path, one_unit_a_task: None) -> None:
    merges, fills = edits(SHAPE, every=4)
    other = tmp_path / "other.overseg"
    plan_for(case.volume, other, merges, fills)
    with pytest.raises(KeyboardInterrupt):
        apply(case.folder, RUN, INLINE, progress=stop_after(3))
    half = case.now()
    with pytest.raises(PlanError, match="another plan") as caught:
        apply(other, RUN, INLINE)
    assert f"overseg apply {case.folder}" in str(caught.value)
    np.testing.assert_array_equal(case.now(), half)
    assert not verify(case.folder).ok and "to the end" in str(verify(case.folder).problems[0])

    with pytest.raises(KeyboardInterrupt):  # an undo from there, broken off as well
        undo(case.folder, RUN, progress=stop_after(1))
    with pytest.raises(PlanError, match="half undone"):
        apply(case.folder, RUN, INLINE)
    undo(case.folder, RUN)
    np.testing.assert_array_equal(case.now(), case.data)
    apply(other, RUN, INLINE)
    np.testing.assert_array_equal(case.now(), truth(case.data, merges, fills))


def test_nothing_to_undo(case: Case) -> None:
    with pytest.raises(PlanError, match="never applied"):
        undo(case.folder, RUN)


def test_a_second_apply_while_one_runs(case: Case) -> None:
    def meanwhile(step: str, done: int, total: int) -> None:
        if step == "write" and done == 0:
            for command in (lambda: apply(case.folder, RUN, INLINE), lambda: undo(case.folder, RUN)):
                with pytest.raises(LockedError, match="another run"):
                    command()

    apply(case.folder, RUN, INLINE, progress=meanwhile)
    np.testing.assert_array_equal(case.now(), case.expected)
    assert case.volume.files.list(".overseg") == [KEY]


def test_a_lock_that_was_taken_over(case: Case, one_unit_a_task: None) -> None:
    def robbed(step: str, done: int, total: int) -> None:
        if step == "write" and done == 2:
            shutil.copytree(case.path / ".overseg/lock", case.path / ".overseg/kept")
            (case.path / ".overseg/lock/00000002").write_bytes(b"{}")

    with pytest.raises(LockedError, match="no longer holds"):
        apply(case.folder, RUN, INLINE, progress=robbed)
    with locked(case.volume):
        pass
    apply(case.folder, RUN, INLINE)
    np.testing.assert_array_equal(case.now(), case.expected)


def test_a_unit_too_large_for_a_worker(case: Case) -> None:
    with pytest.raises(ResourceError, match="--memory"):
        apply(case.folder, RUN, InlineExecutor(1, 1000))
    assert read_state(case.volume).plans == ()


# ------------------------------------------------------------------------------------------- disk and files


@pytest.fixture
def small_files() -> object:
    """A switch for a disk on which no file can grow beyond some bytes; off again after the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)


@pytest.mark.parametrize("size", [1500, 400, 100])
def test_the_disk_refuses_during_apply(
    case: Case, small_files: Callable[[int | None], None], one_unit_a_task: None, size: int
) -> None:
    def fill_disk(step: str, done: int, total: int) -> None:
        if step == "write" and done == 2:
            small_files(size)

    with pytest.raises(StorageError) as caught:
        apply(case.folder, RUN, INLINE, progress=fill_disk)
    small_files(None)
    assert caught.value.remedy
    assert read_state(case.volume).phase(case.plan.hash) == "applying"
    apply(case.folder, RUN, INLINE)
    np.testing.assert_array_equal(case.now(), case.expected)
    undo(case.folder, RUN)
    np.testing.assert_array_equal(case.now(), case.data)


def test_the_disk_is_too_small_for_the_journal(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(case.folder)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="journal may need"):
        apply(case.folder, RUN, INLINE)
    assert read_state(case.volume).plans == ()


def test_the_journal_cannot_be_written(case: Case) -> None:
    (case.folder / "run").write_text("in the way")
    with pytest.raises(StorageError, match="journal cannot be written"):
        apply(case.folder, RUN, INLINE)
    np.testing.assert_array_equal(case.now(), case.data)
    assert read_state(case.volume).plans == ()


def test_a_torn_journal_record_counts_for_nothing(case: Case, one_unit_a_task: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        apply(case.folder, RUN, INLINE, progress=stop_after(3))
    segment = next((case.folder / "run/journal").glob("*/*.journal"))
    whole = segment.read_bytes()
    for junk in (whole[:100], b"\x00" * 4096, whole[:30]):  # a record cut short, twice, and a hole
        segment.write_bytes(segment.read_bytes() + junk)
    apply(case.folder, RUN, INLINE)
    np.testing.assert_array_equal(case.now(), case.expected)
    assert verify(case.folder).ok
    undo(case.folder, RUN)
    np.testing.assert_array_equal(case.now(), case.data)


def test_a_damaged_journal_is_noticed(case: Case) -> None:
    apply(case.folder, RUN, INLINE)
    segment = max((case.folder / "run/journal").glob("*/*.journal"), key=lambda path: path.stat().st_size)
    data = bytearray(segment.read_bytes())
    data[200] ^= 255
    segment.write_bytes(data)
    with pytest.raises(PlanError, match="journal"):
        undo(case.folder, RUN)
    np.testing.assert_array_equal(case.now(), case.expected)
    assert not verify(case.folder).ok
    shutil.rmtree(case.folder / "run/journal")
    with pytest.raises((PlanError, ChangedError)):
        undo(case.folder, RUN)
    np.testing.assert_array_equal(case.now(), case.expected)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1, "location": "x", "plans": [{"phase": "gone"}]}']
)
def test_a_damaged_state(case: Case, text: str) -> None:
    case.volume.files.write(KEY, text.encode())
    with pytest.raises(VolumeError, match="damaged"):
        apply(case.folder, RUN, INLINE)
    np.testing.assert_array_equal(case.now(), case.data)


def test_a_state_from_the_future(case: Case) -> None:
    case.volume.files.write(KEY, b'{"version": 99, "location": "x", "plans": [{"colour": "blue"}]}')
    with pytest.raises(VolumeError, match="newer overseg"):
        apply(case.folder, RUN, INLINE)


# ------------------------------------------------------------------------------------------- copies and moves


def test_a_copy_has_a_life_of_its_own(case: Case, tmp_path: Path) -> None:
    apply(case.folder, RUN, INLINE)
    shutil.copytree(case.path, tmp_path / "copy.zarr")
    copy = open_volume(tmp_path / "copy.zarr")
    state = read_state(copy)
    assert state.location == case.volume.location != copy.location
    assert state.last is not None and find_place(state.last, copy) == str(case.folder)
    undo(case.folder, RUN, volume=copy)
    np.testing.assert_array_equal(contents(copy)[0], case.data)
    np.testing.assert_array_equal(case.now(), case.expected)
    assert verify(case.folder).ok and verify(case.folder, volume=copy).ok
    undo(case.folder, RUN)
    np.testing.assert_array_equal(case.now(), case.data)
    assert metadata(case.path) == metadata(tmp_path / "copy.zarr")


def test_volume_and_plan_moved_together(case: Case, tmp_path: Path) -> None:
    apply(case.folder, RUN, INLINE)
    (tmp_path / "moved").mkdir()
    shutil.move(case.path, tmp_path / "moved/tissue.zarr")
    shutil.move(case.folder, tmp_path / "moved/tissue.overseg")
    volume = open_volume(tmp_path / "moved/tissue.zarr")
    last = read_state(volume).last
    assert last is not None
    place = find_place(last, volume)
    assert place == str(tmp_path / "moved/tissue.overseg")
    undo(place, RUN, volume=volume)
    np.testing.assert_array_equal(contents(volume)[0], case.data)


def test_an_image_and_its_plan_moved_together(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    volume = image(tmp_path / "here/tissue.ome.zarr", tissue(SHAPE).astype(np.uint16), (8, 8, 8), 3)
    plan_for(volume, tmp_path / "here/tissue.overseg", *edits(SHAPE))
    apply(tmp_path / "here/tissue.overseg", RUN, INLINE)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = open_volume(tmp_path / "there/tissue.ome.zarr")
    last = read_state(moved).last
    assert last is not None and find_place(last, moved) == str(tmp_path / "there/tissue.overseg")


def test_a_lost_plan_folder(case: Case, tmp_path: Path) -> None:
    apply(case.folder, RUN, INLINE)
    shutil.move(case.folder, tmp_path / "elsewhere")
    last = read_state(case.volume).last
    assert last is not None and find_place(last, case.volume) is None
    undo(tmp_path / "elsewhere", RUN)
    np.testing.assert_array_equal(case.now(), case.data)


# ---------------------------------------------------------------------------------------------------- verify


def test_verify_names_a_stray_voxel(case: Case) -> None:
    apply(case.folder, RUN, INLINE)
    voxel = case.first_changed()
    case.edit(voxel, 4321)
    found = verify(case.folder)
    assert not found.ok and found.n_problems == 1
    assert found.problems[0].voxel == voxel
    assert "label 4321 where" in found.problems[0].what and "unit 0" in found.problems[0].unit


def test_verify_finds_a_stray_voxel_anywhere(case: Case) -> None:
    apply(case.folder, RUN, INLINE)
    grid = case.volume.grid(0)
    for unit in range(0, grid.n, 7):
        voxel = tuple(span.stop - 1 for span in grid.slices(unit))
        before = int(case.now()[voxel])
        case.edit(voxel, 4321)  # type: ignore[arg-type]
        found = verify(case.folder)
        assert [f"unit {unit} " in problem.unit for problem in found.problems] == [True]
        case.edit(voxel, before)  # type: ignore[arg-type]
    assert verify(case.folder).ok


def test_verify_finds_a_lost_id(case: Case) -> None:
    apply(case.folder, RUN, INLINE)
    array = zarr.open_array(str(case.path), mode="r+")
    data = array[:]
    array[:] = np.where(data == 1, 0, data)
    assert not verify(case.folder).ok


def test_verify_finds_a_damaged_unit(case: Case) -> None:
    apply(case.folder, RUN, INLINE)
    chunk = case.path / "c/0/1/1"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    found = verify(case.folder)
    assert [("damaged" in problem.what, "c/0/1/1" in problem.unit) for problem in found.problems] == [
        (True, True)
    ]


def test_verify_before_and_after(case: Case) -> None:
    assert verify(case.folder).phase == "planned"
    case.edit((0, 0, 0), 4321)
    assert not verify(case.folder).ok
    case.edit((0, 0, 0), int(case.data[0, 0, 0]))
    apply(case.folder, RUN, INLINE)
    case.edit((19, 25, 29), 4321)
    undo(case.folder, RUN, only_unchanged=True)
    found = verify(case.folder)
    assert found.phase == "undone" and not found.ok


def test_a_plan_that_changes_nothing(tmp_path: Path) -> None:
    data = tissue(SHAPE).astype(np.uint32)
    volume = store(tmp_path / "a.zarr", data, (8, 8, 8))
    none = np.zeros(0, np.int64)
    labels = none.astype(np.uint64)
    plan_for(
        volume,
        tmp_path / "a.overseg",
        Merges(none, labels, labels),
        Fills(none, none, none, none, none, labels),
    )
    result = apply(tmp_path / "a.overseg", RUN, INLINE)
    assert (result.units_rewritten, result.voxels_changed) == (0, 0)
    assert verify(tmp_path / "a.overseg").ok
    assert json.loads((tmp_path / "a.zarr" / KEY).read_text())["plans"][0]["phase"] == "applied"
    undo(tmp_path / "a.overseg", RUN)
    np.testing.assert_array_equal(contents(volume)[0], data)


def test_what_a_killed_run_left_is_cleared_away(case: Case, one_unit_a_task: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        apply(case.folder, RUN, INLINE, progress=stop_after(2))
    torn = [case.path / name for name in (f"c/0/1/1.{'0a' * 16}.partial", ".overseg/.overseg-tmp-12")]
    mine = case.path / "c/0/1/notes.partial"
    for path in (*torn, mine):
        path.write_bytes(b"half")
    apply(case.folder, RUN, INLINE)
    assert [path.exists() for path in (*torn, mine)] == [False, False, True]
