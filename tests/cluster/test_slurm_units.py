"""Units on jobs of a real SLURM, which are cancelled, run out of time, wait, or are refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_jobs import eats, left, queue, unit, units

from overseg.cluster import jobs, open_executor
from overseg.errors import ResourceError, TaskError
from overseg.settings import build

pytestmark = [pytest.mark.cluster, pytest.mark.slurm]

Batch = Callable[..., dict[str, Any]]


def run_of(cluster: dict[str, Any]) -> Any:
    return build(cluster=cluster)[1]


def test_jobs_with_and_without_a_card_share_the_units(batch: Batch, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "units").mkdir()
    run = run_of(batch(cores=2, maximum_jobs=1, gpu_jobs=1, gpu_memory="600MiB"))
    caplog.set_level("INFO", "overseg")
    with open_executor(run, home=tmp_path / "run") as ex:
        assert ex.workers == 3
        assert ex.memory == (600 - 256) << 20
        found: dict[str, Any] = {}
        tries = 0
        while len({receipt["job"] for receipt in found.values()}) < 2 and tries < 10:
            tries += 1
            found |= dict(ex.run(f"step-{tries}", unit, units(12, 0.2, tmp_path / "units")))
        on_card = {receipt["job"] for receipt in found.values() if receipt["card"] == "0"}
        few = dict(ex.run("card", unit, units(6, 0.1, tmp_path / "units"), card=True))
        assert {receipt["job"] for receipt in few.values()} == on_card
        workers = ex._client.scheduler_info()["workers"].values()  # type: ignore[attr-defined]
        assert Counter(str(worker["resources"]) for worker in workers) == {"{'GPU': 1.0}": 1, "{}": 2}
        assert {worker["nthreads"] for worker in workers} == {1}
    assert {name: receipt["square"] for name, receipt in found.items()} == {str(x): x * x for x in range(12)}
    assert {receipt["card"] for receipt in found.values()} == {"0", None}
    assert {(r["threads"], r["pot"], r["pause"]) for r in found.values()} == {("1", "1", False)}
    assert len(list((tmp_path / "run" / "jobs").glob("*.err"))) == 2
    assert caplog.text.count("the Dask scheduler runs here") == 1


def test_cancelled_jobs_are_replaced_without_a_hand(batch: Batch, tmp_path: Path) -> None:
    """One that has not begun, and then one that runs units in two processes."""
    run = run_of(batch(cores=2, maximum_jobs=1, directives=["--hold"]))
    with open_executor(run) as ex:
        (first,) = queue("-o", "%i")
        subprocess.run(["scancel", first], check=True)
        threading.Thread(target=release, args=(first,)).start()
        found = {}
        for name, receipt in ex.run("step", unit, units(24, 0.3, tmp_path)):
            found[name] = receipt
            if len(found) == 4:
                subprocess.run(["scancel", receipt["job"]], check=True)
                threading.Thread(target=release, args=(receipt["job"],)).start()
    assert {name: receipt["square"] for name, receipt in found.items()} == {str(x): x * x for x in range(24)}
    jobs = {receipt["job"] for receipt in found.values()}
    assert len(jobs) == 2 and first not in jobs


def release(other_than: str) -> None:
    """Let the next job that is held begin."""
    for _ in range(300):
        for held in queue("-t", "PENDING", "-o", "%i"):
            if held != other_than:
                subprocess.run(["scontrol", "release", held], check=True)
                return
        time.sleep(0.1)


def test_workers_leave_before_the_walltime_and_no_unit_runs_twice(batch: Batch, tmp_path: Path) -> None:
    run = run_of(batch(walltime="00:00:10"))  # so they take no unit after 8 seconds
    with open_executor(run) as ex:
        found = dict(ex.run("step", unit, units(26, 1.0, tmp_path)))
    assert len(found) == 26
    assert len({receipt["job"] for receipt in found.values()}) >= 3
    assert {path.read_text() for path in tmp_path.iterdir()} == {"begun\ndone\n"}


def test_a_refused_job_is_an_error_with_the_words_of_sbatch(batch: Batch) -> None:
    with pytest.raises(ResourceError) as caught, open_executor(run_of(batch(queue="nowhere"))):
        pass
    assert "invalid partition specified: nowhere" in str(caught.value)
    assert "[cluster]" in str(caught.value)


def test_fewer_jobs_are_better_than_none(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """As where a user may have only so many jobs in the queue."""
    real = shutil.which("sbatch")
    limited = tmp_path / "sbatch"
    limited.write_text(
        f'#!/bin/sh\nif mkdir {tmp_path}/first 2>/dev/null; then exec {real} "$@"; fi\n'
        'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1\n'
    )
    limited.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "units").mkdir()
    with open_executor(run_of(batch())) as ex:
        assert len(dict(ex.run("step", unit, units(8, 1.0, tmp_path / "units")))) == 8
    assert caplog.text.count("QOSMaxSubmitJobPerUserLimit") == 1


def test_jobs_that_idle_are_given_back(batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_SURPLUS", 0.5)
    with open_executor(run_of(batch(maximum_jobs=3))) as ex:
        many = dict(ex.run("many", unit, units(40, 0.3, tmp_path)))
        assert len({receipt["job"] for receipt in many.values()}) == 3
        (one,) = dict(ex.run("one", unit, {"100": (100, 12.0, str(tmp_path))})).values()
        assert queue("-t", "RUNNING", "-o", "%i") == [one["job"]]


def test_a_worker_that_outgrows_its_memory_is_ended_and_not_its_job(batch: Batch) -> None:
    with open_executor(run_of(batch(memory="500MiB", maximum_jobs=1))) as ex:
        with pytest.raises(TaskError, match="each time it was tried"):
            dict(ex.run("eat", eats, {"big": (1,)}))
        assert len(queue("-t", "RUNNING", "-o", "%i")) <= 1


def test_output_goes_where_the_nodes_see_it(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head of a job script has no way to name some paths, such as those with blanks; homes stay clean."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "units").mkdir()
    with open_executor(run_of(batch(maximum_jobs=1)), home=tmp_path / "my plans" / "run") as ex:
        assert len(dict(ex.run("step", unit, units(2, 0.1, tmp_path / "units")))) == 2
    (output,) = (tmp_path / "my plans" / "run" / "jobs").iterdir()
    assert "JobWorker" in output.read_text() or "distributed" in output.read_text()
    assert not (tmp_path / "home").exists()


def test_an_interface_that_is_not_there_is_named(batch: Batch) -> None:
    with pytest.raises(ResourceError, match="eth77"), open_executor(run_of(batch(interface="eth77"))):
        pass


def test_held_jobs_are_told_and_patience_ends(batch: Batch, tmp_path: Path) -> None:
    run = run_of(batch(directives=["--hold"], patience="00:00:05"))
    with open_executor(run) as ex, pytest.raises(ResourceError) as caught:
        dict(ex.run("step", unit, units(2, 0.1, tmp_path)))
    assert "PENDING (JobHeldUser; scontrol release" in str(caught.value)


def test_jobs_that_can_never_begin_are_not_waited_for(batch: Batch, tmp_path: Path) -> None:
    with (
        open_executor(run_of(batch(walltime="02:00:00"))) as ex,
        pytest.raises(ResourceError, match="PartitionTimeLimit"),
    ):
        dict(ex.run("step", unit, units(2, 0.1, tmp_path)))


def test_workers_that_do_not_start_are_given_up_with_their_last_words(batch: Batch, tmp_path: Path) -> None:
    run = run_of(batch(python="/nowhere/python"))
    with open_executor(run, home=tmp_path / "run") as ex, pytest.raises(ResourceError) as caught:
        dict(ex.run("step", unit, units(2, 0.1, tmp_path)))
    assert "/nowhere/python: No such file" in str(caught.value)
    assert str(tmp_path / "run" / "jobs") in str(caught.value)


def test_another_version_on_the_workers_is_refused(batch: Batch, tmp_path: Path) -> None:
    """As if the interpreter that is named had another overseg."""
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexport OVERSEG_VERSION=9.9\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    run = run_of(batch(python=str(other)))
    with (
        open_executor(run, home=tmp_path / "run") as ex,
        pytest.raises(ResourceError, match=r"9\.9 at the driver"),
    ):
        dict(ex.run("step", unit, units(2, 0.1, tmp_path)))


DRIVER = """
import sys
from pathlib import Path
from overseg.cluster import open_executor
from overseg.settings import build
from slurm_jobs import unit, units

with open_executor(build(cluster={cluster!r})[1]) as ex:
    for name, _ in ex.run("step", unit, units(40, 1.0, Path({folder!r}))):
        print(name, flush=True)
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_jobs_end_with_their_driver(blow: signal.Signals, batch: Batch, tmp_path: Path) -> None:
    code = DRIVER.format(cluster=batch(maximum_jobs=1), folder=str(tmp_path))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    )
    assert driver.stdout is not None
    driver.stdout.readline()
    assert queue("-t", "RUNNING", "-o", "%i")
    driver.send_signal(blow)
    driver.wait()
    driver.stdout.close()
    assert left() == []
