"""A short version of each row of benchmarks/faults.md; and the page, which must be made from its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from twins.trials import PAPER, SMALL, Subject  # noqa: E402

from benchmarks import faults  # noqa: E402
from benchmarks.fault_rows import chunks, drivers, kills, scheduler, storage  # noqa: E402
from benchmarks.fault_rows.storage import Case  # noqa: E402

real = pytest.mark.parametrize("_", [pytest.param(0, marks=[pytest.mark.fault, pytest.mark.cluster], id="")])


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Subject:
    return Subject(tmp_path_factory.mktemp("ours"), 3, shape=SMALL)


@real
def test_workers_killed(tmp_path, subject, _):
    papers = Subject(tmp_path, 3, PAPER, SMALL)
    row = kills.workers([papers, subject], 9)
    assert (
        row.landed == 9 and "in scan" in row.result and "in score" in row.result and "in apply" in row.result
    )


@real
def test_driver_killed(subject, _):
    assert kills.drivers([subject], 2).landed == 2


@real
def test_driver_killed_and_undone_at_once(subject, _):
    assert kills.undone_at_once(subject, 1).landed == 1


@real
def test_scheduler_lost(subject, _):
    assert scheduler.scheduler_lost(subject, 1).landed == 1


@real
def test_workers_of_a_lost_scheduler_come_back(subject, _):
    assert scheduler.workers_back(subject, 1).landed == 1


@real
def test_disk_full(subject, _):
    cases = (Case("plan", "scan", "plan"), Case("apply", "write", "volume"))
    assert storage.disk_full(subject, 1, cases=cases).landed


@real
def test_read_only_midway(subject, _):
    assert storage.read_only(subject, 1, cases=(Case("apply", "write", "volume"),)).landed


@real
def test_disk_fails_where_nothing_can_be_mounted(subject, monkeypatch, _):
    monkeypatch.setattr(storage, "may_mount", lambda: False)
    monkeypatch.setattr("twins.disks.may_mount", lambda: False)
    assert storage.disk_full(subject, 1, cases=(Case("apply", "write", "plan"),)).landed
    assert storage.read_only(subject, 1, cases=(Case("plan", "scan", "plan"),)).landed


@real
def test_permission_lost_on_one_unit(subject, _):
    assert storage.one_unit(subject, 1, cases=(Case("apply", "write", "volume"),)).landed


@real
def test_two_at_once(subject, _):
    assert drivers.two_at_once(subject, 3).landed == 3
    assert drivers.two_plans(subject, 1).landed == 1


def test_page_is_made_from_the_figures():
    facts = json.loads((faults.HERE / "faults.json").read_text())
    assert (faults.HERE / "faults.md").read_text() == faults.page(facts)
    assert not sum(row["wrong"] for part in facts.values() for row in part["rows"])


@real
def test_one_chunk_damaged(_):
    assert chunks.one_damaged(3, 100.0, times=1).landed == 1
