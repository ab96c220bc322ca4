"""A copy is the same to the byte, can be killed, and is never mistaken for a finished one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from overseg.errors import InputError, StorageError, VolumeError
from overseg.volume import Volume, copy_volume, create_labels, open_volume
from overseg.volume import copy as copy_module
from overseg.volume.create import fill


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".overseg" not in path.parts
    }


def save(path: Path, **options: object) -> Volume:
    data = np.random.default_rng(4).integers(0, 50, (6, 300, 280)).astype(np.uint16)
    vol = create_labels(path, data.shape, data.dtype, (4, 128, 128), **options)
    fill(vol, lambda box: data[box])
    return vol


KINDS = {
    "bare v2": {"zarr_format": 2},
    "bare v3": {},
    "shards": {"shards": (4, 256, 256)},
    "ome 0.4": {"zarr_format": 2, "ome": True, "levels": 2, "label": "cells"},
    "ome 0.5": {"ome": True, "levels": 2, "label": "cells"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_equal_to_the_byte(tmp_path: Path, kind: str) -> None:
    vol = save(tmp_path / "a.zarr", **KINDS[kind])
    vol.files.write(".overseg/state.json", b"{}")
    steps: list[tuple[int, int]] = []
    where = copy_volume(vol, tmp_path / "b.zarr", lambda done, total: steps.append((done, total)))
    assert where == str(tmp_path / "b.zarr")
    assert bytes_of(tmp_path / "b.zarr") == bytes_of(Path(vol.location))
    copy = open_volume(where)
    assert copy.levels == vol.levels and copy.files.read(".overseg/state.json") is None
    assert steps[-1] == (len(steps), len(steps))
    copy.write_unit(0, copy.read_unit(0) + 1)
    assert (vol.read_unit(0) + 1 == copy.read_unit(0)).all()


def test_labels_known_only_by_their_place_stay_labels(tmp_path: Path) -> None:
    vol = save(tmp_path / "a.zarr", **KINDS["ome 0.5"])
    group = zarr.open_group(vol.location, mode="r+")
    group.attrs["ome"] = {k: v for k, v in group.attrs["ome"].items() if k != "image-label"}
    copy = open_volume(copy_volume(open_volume(vol.location), tmp_path / "b.zarr"))
    assert copy.levels == vol.levels
    assert open_volume(copy_volume(copy, tmp_path / "c.zarr")).levels == vol.levels


@pytest.mark.parametrize("kind", ["shards", "ome 0.5"])
def test_a_copy_killed_anywhere_is_refused_and_then_completed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vol = save(tmp_path / "a.zarr", **KINDS[kind])
    total = len(bytes_of(Path(vol.location)))
    replace = os.replace
    for stop in range(total):
        target = tmp_path / f"b{stop}.zarr"
        calls = 0

        def killed(source: str, destination: str, stop: int = stop) -> None:
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt  # the temporary file stays, as after a kill
            replace(source, destination)

        monkeypatch.setattr(copy_module.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            copy_volume(vol, target)
        monkeypatch.setattr(copy_module.os, "replace", replace)
        with pytest.raises(VolumeError, match="interrupted"):
            open_volume(target)
        (target / "stray").write_bytes(b"from an older state of the source")
        before = {path: path.stat().st_ino for path in target.rglob("*") if path.is_file()}
        copy_volume(vol, target)
        assert bytes_of(target) == bytes_of(Path(vol.location))
        kept = [path for path in before if path.exists() and path.stat().st_ino == before[path]]
        assert len(kept) == stop  # what was copied whole is not copied again


def test_a_source_that_changed_in_between_is_copied_again(tmp_path: Path) -> None:
    vol = save(tmp_path / "a.zarr")

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_volume(vol, tmp_path / "b.zarr", stop)
    vol.write_unit(0, vol.read_unit(0) + 1)
    copy_volume(vol, tmp_path / "b.zarr")
    assert bytes_of(tmp_path / "b.zarr") == bytes_of(tmp_path / "a.zarr")


def test_destinations_in_the_way(tmp_path: Path) -> None:
    vol = save(tmp_path / "a.zarr", **KINDS["ome 0.5"])
    other = save(tmp_path / "other.zarr")
    (tmp_path / "full").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"x")
    for name in ["full", "file", "other.zarr"]:
        before = bytes_of(tmp_path)
        with pytest.raises(InputError, match="exists already"):
            copy_volume(vol, tmp_path / name)
        assert bytes_of(tmp_path) == before
    for place in [vol.location, f"{vol.location}/0/copy", str(tmp_path / "a.zarr" / "labels"), str(tmp_path)]:
        with pytest.raises(InputError, match="inside each other"):
            copy_volume(vol, place)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_volume(other, tmp_path / "b.zarr", stop)
    with pytest.raises(InputError, match="unfinished copy of another volume"):
        copy_volume(vol, tmp_path / "b.zarr")


def test_a_full_disk_can_be_cleared_and_the_copy_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vol = save(tmp_path / "a.zarr")

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copy_module.shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        copy_volume(vol, tmp_path / "b.zarr")
    assert "run the same command again" in (caught.value.remedy or "")
    monkeypatch.undo()
    copy_volume(vol, tmp_path / "b.zarr")
    assert bytes_of(tmp_path / "b.zarr") == bytes_of(tmp_path / "a.zarr")


def test_linked_levels_are_copied_as_what_they_are(tmp_path: Path) -> None:
    vol = save(tmp_path / "a.zarr", ome=True, levels=2)
    (tmp_path / "a.zarr" / "0").rename(tmp_path / "elsewhere")
    (tmp_path / "a.zarr" / "0").symlink_to(tmp_path / "elsewhere")
    copy = open_volume(copy_volume(open_volume(tmp_path / "a.zarr"), tmp_path / "b.zarr"))
    np.testing.assert_array_equal(copy.read(np.s_[0:6, 0:300, 0:280]), vol.read(np.s_[0:6, 0:300, 0:280]))
    assert not (tmp_path / "b.zarr" / "0").is_symlink()
