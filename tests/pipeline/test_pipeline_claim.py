"""A plan folder has one planner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import overseg
from overseg.errors import LockedError
from overseg.pipeline.claim import claimed


def test_the_second_is_refused_and_named_the_first(tmp_path: Path) -> None:
    place = tmp_path / "a.overseg"
    with claimed(place), pytest.raises(LockedError, match=r"process [0-9]+ on"), claimed(place):
        pass
    with claimed(place):
        pass
    assert not place.exists()


def test_what_was_put_there_stays(tmp_path: Path) -> None:
    with claimed(tmp_path):
        (tmp_path / "run" / "scan.jsonl").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["scan.jsonl"]


def test_a_lock_file_left_by_a_kill_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".planning").write_text("process 1 on elsewhere")
    with claimed(tmp_path):
        pass


def test_plan_asks(tmp_path: Path) -> None:
    labels = np.zeros((6, 12, 12), np.uint16)
    labels[:, 2:9, 2:9] = 1
    place = tmp_path / "p.overseg"
    with claimed(place), pytest.raises(LockedError, match="another run is planning"):
        overseg.plan(labels, out=place)
    assert overseg.plan(labels, out=place).path == place


def test_without_locks_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with claimed(tmp_path), claimed(tmp_path):
        pass
