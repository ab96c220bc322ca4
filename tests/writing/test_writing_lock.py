"""The lock: one writer, dead owners do not count, living ones and other machines do."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from overseg.errors import LockedError
from overseg.volume import Volume
from overseg.volume.create import create_labels
from overseg.volume.files import LocalFiles
from overseg.volume.lock import FOLDER, Owner, _acquire, _this_process, locked

KEY = f"{FOLDER}/00000001"


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return create_labels(tmp_path / "tissue.zarr", (4, 4, 4), np.uint8, (4, 4, 4))


@pytest.fixture
def owner(volume: Volume) -> Owner:
    """This process, as a lock's owner."""
    with locked(volume):
        data = volume.files.read(KEY)
    assert data is not None
    return Owner(**json.loads(data))


def leave(volume: Volume, owner: Owner, **changes: Any) -> None:
    volume.files.write(KEY, json.dumps(asdict(replace(owner, **changes))).encode())


def held(volume: Volume) -> list[str]:
    return volume.files.list(FOLDER)


def test_taken_and_given_back(volume: Volume) -> None:
    with locked(volume) as lock:
        assert held(volume) == [KEY]
        pickle.loads(pickle.dumps(lock)).check()
    assert held(volume) == []
    with pytest.raises(LockedError, match="no longer holds"):
        lock.check()


def test_given_back_after_an_error(volume: Volume) -> None:
    with pytest.raises(ZeroDivisionError), locked(volume):
        raise ZeroDivisionError
    assert held(volume) == []


def test_a_living_owner_is_named(volume: Volume) -> None:
    program = (
        "import sys\n"
        "from overseg.volume import open_volume\n"
        "from overseg.volume.lock import locked\n"
        "with locked(open_volume(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, volume.location]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {other.pid} on") as caught, locked(volume):
            pass
        assert f"kill {other.pid}" in str(caught.value)
        with pytest.raises(LockedError), locked(volume, break_lock=True):  # the living are not robbed
            pass
        other.kill()
        other.wait()
    with locked(volume) as lock:  # the dead are, in silence
        assert lock.generation == 2
        assert len(held(volume)) == 1


@pytest.mark.parametrize(
    "change",
    [{"pid": 2**22 + 1}, {"started": "1"}, {"boot": "the boot before"}],
    ids=["pid", "start", "boot"],
)
def test_a_dead_owner_is_replaced(volume: Volume, owner: Owner, change: dict[str, Any]) -> None:
    leave(volume, owner, **change)
    with locked(volume) as lock:
        lock.check()
    assert held(volume) == []


@pytest.mark.parametrize("change", [{"host": "node17", "machine": "x"}, {"machine": "same name, other box"}])
def test_another_machine_needs_a_word(volume: Volume, owner: Owner, change: dict[str, Any]) -> None:
    leave(volume, owner, pid=2**22 + 1, **change)
    with pytest.raises(LockedError, match="another machine") as caught, locked(volume):
        pass
    assert "--break-lock" in str(caught.value)
    with locked(volume, break_lock=True) as lock:
        lock.check()
    assert held(volume) == []


def test_the_robbed_notice(volume: Volume, owner: Owner) -> None:
    with locked(volume) as lock:
        volume.files.create(f"{FOLDER}/00000002", json.dumps(asdict(owner)).encode())
        with pytest.raises(LockedError, match="no longer holds"):
            lock.check()


def test_a_holder_is_not_robbed_by_who_looked_before_all_was_given_back(
    volume: Volume, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw a dead owner at 3. By now that is taken over and given back, and another holds 1."""
    text = json.dumps(asdict(replace(owner, pid=2**22 + 1))).encode()
    volume.files.write(f"{FOLDER}/00000003", text)
    usual, held_by = LocalFiles.create, []

    def late(self: LocalFiles, key: str, data: bytes) -> bool:
        monkeypatch.setattr(LocalFiles, "create", usual)
        with locked(volume):
            pass
        held_by.append(_acquire(volume, _this_process(), False))
        return usual(self, key, data)

    monkeypatch.setattr(LocalFiles, "create", late)
    with pytest.raises(LockedError, match="another run is writing"), locked(volume):
        pass
    held_by[0].check()
    assert held(volume) == [KEY]


@pytest.mark.parametrize("above", ["dead", "half-written"])
def test_a_holder_below_a_lock_that_is_nobodys_is_not_robbed(
    volume: Volume, owner: Owner, above: str
) -> None:
    """Who came too late to take over died before he could take his file away again, or just writes it."""
    text = json.dumps(asdict(replace(owner, pid=2**22 + 1))) if above == "dead" else '{"host": '
    with locked(volume):
        volume.files.write(f"{FOLDER}/00000002", text.encode())
        with pytest.raises(LockedError, match="another run is writing"), locked(volume):
            pass
        assert KEY in held(volume)


def test_who_comes_too_late_to_take_over_disturbs_nobody(
    volume: Volume, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = f"{FOLDER}/00000002"
    with locked(volume) as lock:
        volume.files.create(second, json.dumps(asdict(owner)).encode())
        monkeypatch.setattr("time.sleep", lambda _: volume.files.delete(second))
        lock.check()


def test_of_many_who_try_one_wins(volume: Volume, owner: Owner) -> None:
    leave(volume, owner, pid=2**22 + 1)
    inside: list[int] = []
    most: list[int] = []

    def attempt(number: int) -> bool:
        try:
            with locked(volume):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)
                return True
        except LockedError:
            return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(40)))
    assert any(won)
    assert max(most) == 1
    with locked(volume):
        assert len(held(volume)) == 1


def test_a_job_that_slurm_began_anew_takes_over_from_itself(
    volume: Volume, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node was lost, and it runs on another one now: nobody is there to say --break-lock."""
    elsewhere = {"host": "node7", "machine": "another"}
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "lab")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for job, restarts, again in (("lab:12", 0, "0"), ("lab:13", 0, "1"), ("", 0, "1"), ("lab:12", 1, "1")):
        monkeypatch.setenv("SLURM_RESTART_COUNT", again)
        leave(volume, owner, **elsewhere, job=job, restarts=restarts)
        with pytest.raises(LockedError, match="another machine"), locked(volume):
            pass
    leave(volume, owner, **elsewhere, job="lab:12", restarts=1)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with locked(volume):
        pass
    assert held(volume) == []
