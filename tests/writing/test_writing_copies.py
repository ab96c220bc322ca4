"""A copy made with cp -r is a volume of its own, whatever command it is given to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from twins.writing import contents, store

import overseg
from overseg.volume import open_volume
from overseg.volume.state import read_state


def stacked() -> np.ndarray:
    """Columns of cells, each third one cut in two by a missing layer."""
    z, y, x = np.indices((24, 48, 48))
    labels = np.zeros(z.shape, np.uint16)
    centres = [(cy, cx) for cy in range(8, 48, 16) for cx in range(8, 48, 16)]
    for i, (cy, cx) in enumerate(centres):
        inside = ((y - cy) ** 2 + (x - cx) ** 2 < 36) & (z > 2) & (z < 22)
        labels[inside] = i + 1
        if i % 3 == 0:
            labels[inside & (z == 11)] = 0
            labels[inside & (z > 11)] = 100 + i
    return labels


def stop(step: str, done: int, total: int) -> None:
    if step == "write" and done:
        raise KeyboardInterrupt


@pytest.mark.parametrize("half", [False, True])
def test_commands_on_a_copy_leave_the_original_alone(
    tmp_path: Path, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overseg.pipeline.work._BATCH_UNITS", 1)
    data = stacked()
    volume = store(tmp_path / "cells.zarr", data, (8, 16, 16))
    plan = overseg.plan(volume.location, workers=1)
    if half:
        with pytest.raises(KeyboardInterrupt):
            overseg.apply(plan, progress=stop, workers=1)
    else:
        overseg.apply(plan, workers=1)
    original = contents(volume)[0]
    shutil.copytree(tmp_path / "cells.zarr", tmp_path / "copy.zarr")
    copy = open_volume(tmp_path / "copy.zarr")

    overseg.correct(copy.location, workers=1)
    assert read_state(copy).phase(plan.hash) == "applied"
    corrected = contents(copy)[0]
    assert (corrected != data).any() and (half == (corrected != original).any())
    overseg.undo(copy.location, workers=1)
    np.testing.assert_array_equal(contents(copy)[0], data)
    np.testing.assert_array_equal(contents(volume)[0], original)

    overseg.apply(plan, workers=1)
    np.testing.assert_array_equal(contents(volume)[0], corrected)
    assert overseg.verify(plan, workers=1).ok
    overseg.undo(volume.location, workers=1)
    np.testing.assert_array_equal(contents(volume)[0], data)


def test_a_plan_and_its_volume_moved_together_still_belong_together(tmp_path: Path) -> None:
    volume = store(tmp_path / "cells.zarr", stacked(), (8, 16, 16))
    plan = overseg.correct(volume.location, workers=1)
    new = tmp_path / "new"
    new.mkdir()
    shutil.move(tmp_path / "cells.zarr", new)
    with pytest.raises(overseg.OversegError, match="not where it was"):
        overseg.verify(plan, workers=1)
    shutil.move(plan.path, new)
    assert overseg.verify(new / "cells.overseg", workers=1).ok
    overseg.undo(new / "cells.overseg", workers=1)
    np.testing.assert_array_equal(contents(open_volume(new / "cells.zarr"))[0], stacked())


def test_a_copied_plan_does_not_undo_the_original(tmp_path: Path) -> None:
    volume = store(tmp_path / "cells.zarr", stacked(), (8, 16, 16))
    plan = overseg.correct(volume.location, workers=1)
    corrected = contents(volume)[0]
    shutil.copytree(plan.path, tmp_path / "copy" / "cells.overseg")
    for command in (overseg.undo, overseg.verify, overseg.apply):
        with pytest.raises(overseg.OversegError, match="another folder") as refused:
            command(tmp_path / "copy" / "cells.overseg", workers=1)
        assert str(plan.path) in str(refused.value)
    np.testing.assert_array_equal(contents(volume)[0], corrected)
    overseg.undo(plan, workers=1)
    overseg.apply(tmp_path / "copy" / "cells.overseg", workers=1)
    np.testing.assert_array_equal(contents(volume)[0], corrected)


def test_verify_names_the_later_plan(tmp_path: Path) -> None:
    volume = store(tmp_path / "cells.zarr", stacked(), (8, 16, 16))
    first = overseg.correct(volume.location, fill="none", workers=1)
    second = overseg.correct(volume.location, workers=1)
    assert second.path != first.path
    found = overseg.verify(first, workers=1)
    assert not found.ok and f"verify {second.path}" in str(found.problems[0])
    assert overseg.verify(second, workers=1).ok
