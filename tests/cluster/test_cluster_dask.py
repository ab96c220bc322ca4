"""Units on Dask workers: same answers as inline, and what happens when workers or drivers die."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import types
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client, Future, LocalCluster
from distributed.comm import CommClosedError

from overseg.cluster import open_executor
from overseg.cluster.embedded import scratch
from overseg.cluster.on_dask import DaskExecutor, embedded
from overseg.errors import InputError, ResourceError, TaskError
from overseg.pipeline.running import logged
from overseg.settings import RunSettings

pytestmark = pytest.mark.cluster

TWO = RunSettings(workers=2)
GIB = 1 << 30


def square(x: int) -> dict[str, object]:
    return {"square": x * x, "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}


def dies_once(x: int, folder: str) -> dict[str, object]:
    marker = Path(folder) / f"{x}"
    if x % 4 == 0 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": x * x}


def dies(x: int, folder: str) -> dict[str, object]:
    if x == 3:
        with (Path(folder) / "tries").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return {}


def waits(x: int) -> dict[str, object]:
    time.sleep(0.2)
    return {"x": x}


def stands_still(x: int) -> dict[str, object]:
    """Its worker, soon after it is done, and for some seconds."""
    os.system(f"(sleep 0.4; kill -STOP {os.getpid()}; sleep 5; kill -CONT {os.getpid()}) &")
    return {"x": x}


def refuses(x: int) -> dict[str, object]:
    if x == 2:
        raise InputError("two is not allowed", where="x", remedy="take three")
    if x == 5:
        raise KeyError("five")
    return {}


def eats(x: int) -> dict[str, object]:
    ballast = bytearray(400 << 20)
    ballast[:: 1 << 12] = b"x" * len(ballast[:: 1 << 12])
    time.sleep(60)
    return {"x": x + len(ballast)}


def squares(found: dict[str, dict[str, object]]) -> dict[str, object]:
    return {name: receipt["square"] for name, receipt in found.items()}


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_same_as_inline_for_any_order_and_receipts_carry_over(tmp_path: Path) -> None:
    names = [str(i) for i in range(40)]
    with open_executor(RunSettings(workers=1)) as ex:
        plain = squares(dict(ex.run("sq", square, {n: (int(n),) for n in names})))
    with open_executor(TWO, tasks_hint=40) as ex:
        assert ex.workers == 2
        for seed in range(2):
            random.Random(seed).shuffle(names)
            found = dict(ex.run("sq", square, {n: (int(n),) for n in names}))
            assert squares(found) == plain
        assert {r["threads"] for r in found.values()} == {"1"}
        assert os.getpid() not in {r["pid"] for r in found.values()}
        assert ex.peak_rss_bytes >= max(int(str(r["peak_rss"])) for r in found.values())
        half = {n: (int(n),) for n in names[:20]}
        first = dict(ex.run("sq", square, half, receipts=tmp_path))
        again = dict(ex.run("sq", square, {n: (int(n),) for n in names}, receipts=tmp_path))
        assert first.items() <= again.items()
        assert squares(again) == plain
    assert children() == []


def test_errors_of_units_come_through_and_the_executor_stays_usable(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open_executor(TWO, tasks_hint=2) as ex:
        with pytest.raises(InputError, match="two is not allowed"):
            dict(ex.run("refuse", refuses, {str(i): (i,) for i in range(4)}))
        with pytest.raises(TaskError, match=r"KeyError.*\n.*unit 5"):
            dict(ex.run("refuse", refuses, {"5": (5,)}))
        assert len(dict(ex.run("sq", square, {"1": (1,)}))) == 1
    assert children() == []
    assert capfd.readouterr().err == ""


@pytest.mark.fault
def test_killed_workers_are_replaced_and_their_units_redone(tmp_path: Path) -> None:
    units = {str(i): (i, str(tmp_path)) for i in range(16)}
    with open_executor(TWO, tasks_hint=16) as ex:
        found = dict(ex.run("die", dies_once, units))
    assert squares(found) == {str(i): i * i for i in range(16)}
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.fault
def test_a_unit_that_ends_its_worker_three_times_is_named(tmp_path: Path) -> None:
    units = {str(i): (i, str(tmp_path)) for i in range(8)}
    with open_executor(TWO, tasks_hint=8) as ex, pytest.raises(TaskError, match="unit 3,"):
        dict(ex.run("die", dies, units))
    assert (tmp_path / "tries").read_text() == "xxx"
    assert children() == []


@pytest.mark.fault
def test_a_worker_that_outgrows_its_memory_is_ended_with_the_remedy() -> None:
    with embedded(1, 200 << 20) as ex, pytest.raises(ResourceError, match="unit big") as caught:
        dict(ex.run("eat", eats, {"big": (1,)}))
    assert "--memory" in str(caught.value)


def test_modules_that_workers_lack_are_named() -> None:
    module = types.ModuleType("only_here")
    exec("def unit():\n    return {}", module.__dict__)  # noqa: S102
    sys.modules["only_here"] = module
    try:
        with embedded(1, GIB) as ex, pytest.raises(ResourceError, match="only_here"):
            dict(ex.run("lost", module.unit, {"1": ()}))
    finally:
        del sys.modules["only_here"]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def test_given_client_and_address(cluster: LocalCluster) -> None:
    units = {str(i): (i,) for i in range(12)}
    with Client(cluster, set_as_default=False) as client:
        with open_executor(RunSettings(), client=client, tasks_hint=12) as ex:
            assert ex.workers == 2
            assert squares(dict(ex.run("sq", square, units))) == {str(i): i * i for i in range(12)}
        assert client.status == "running"
    with open_executor(RunSettings(scheduler=cluster.scheduler_address)) as ex:
        assert squares(dict(ex.run("sq", square, units))) == {str(i): i * i for i in range(12)}


def test_no_worker_is_not_waited_for_in_silence(cluster: LocalCluster) -> None:
    cluster.scale(0)
    with Client(cluster, set_as_default=False) as client:
        while client.nthreads():
            time.sleep(0.05)
        with pytest.raises(ResourceError, match="no Dask worker"):
            dict(DaskExecutor(client, 1, GIB, patience=0.1).run("sq", square, {"1": (1,)}))


def stopped() -> set[str]:
    return {str(each.pid) for each in children() if each.status() == psutil.STATUS_STOPPED}


def test_a_worker_that_stands_still_with_a_result_is_not_waited_for_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overseg.cluster.watch._FIRST_WORD", 1.5)
    with open_executor(TWO, tasks_hint=2) as ex:
        ex.log_to(tmp_path)
        found = ex.run("still", stands_still, {str(i): (i,) for i in range(2)})
        first = next(found)
        mine = str(first[1]["worker"]).rpartition(":")[2]
        end = time.monotonic() + 20
        while time.monotonic() < end and not stopped() - {mine}:  # the other worker, with the other result
            time.sleep(0.1)
        assert dict([first, *found]).keys() == {"0", "1"}
    assert '"waiting"' in (tmp_path / "events.jsonl").read_text()


def test_wrong_clients_and_addresses_are_refused() -> None:
    with pytest.raises(InputError, match="synchronous"), open_executor(RunSettings(), client="nobody"):
        pass
    with (
        pytest.raises(ResourceError, match="cannot reach"),
        open_executor(RunSettings(scheduler="nonsense://1")),
    ):
        pass


SCRIPT = """
import sys, time
from overseg.cluster import open_executor
from overseg.pipeline.running import logged
from overseg.settings import RunSettings

def unit(x):
    time.sleep({seconds})
    return {{"square": x * x}}

print("once", flush=True)
with open_executor(RunSettings(workers=2), tasks_hint=9) as ex:
    for name, receipt in ex.run("sq", unit, {{str(i): (i,) for i in range(9)}}):
        print(name, receipt["square"], flush=True)
"""


def start(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    """A plain script without a ``__main__`` guard, its temporary files in a folder of their own."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(seconds=seconds))
    (tmp_path / "tmp").mkdir()
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        cwd=tmp_path,
    )


def read_until(driver: subprocess.Popen[str], count: int) -> list[str]:
    assert driver.stdout is not None
    return [driver.stdout.readline().strip() for _ in range(count)]


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    driver = start(tmp_path, 0.0)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0
    assert sorted(out.splitlines()) == sorted(["once", *(f"{i} {i * i}" for i in range(9))])
    assert err == ""
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.fault
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_workers_die_with_their_driver(
    blow: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = start(tmp_path, 1.0)
    assert read_until(driver, 2)[0] == "once"
    workers = psutil.Process(driver.pid).children(recursive=True)
    assert len(workers) >= 2
    driver.send_signal(blow)
    _, err = driver.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    if blow == signal.SIGINT:
        assert err.strip().endswith("KeyboardInterrupt")
    else:  # nobody was there to clean up, until the next run
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
        with scratch() as one, scratch() as two:
            assert {*(tmp_path / "tmp").iterdir()} == {one, two}
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_scheduler_that_goes_away_is_named(cluster: LocalCluster) -> None:
    with open_executor(RunSettings(scheduler=cluster.scheduler_address)) as ex:
        steps = ex.run("wait", waits, {str(i): (i,) for i in range(8)})
        next(steps)
        cluster.close()
        with pytest.raises(ResourceError, match="scheduler is gone"):
            dict(steps)


def test_a_scheduler_that_is_killed_is_named(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(self: Future, timeout: object = None) -> None:
        raise CommClosedError("Connection reset by peer")

    with open_executor(RunSettings(scheduler=cluster.scheduler_address)) as ex:
        monkeypatch.setattr(Future, "result", reset)
        with pytest.raises(ResourceError, match="scheduler is gone"):
            dict(ex.run("wait", waits, {"0": (0,)}))


def greedy(numbers: list[int], folder: str) -> dict[str, object]:
    """Takes far more memory than a worker has, if it is given more than two numbers."""
    with (Path(folder) / "-".join(map(str, numbers))).open("a") as file:
        file.write("x")
    if len(numbers) > 2:
        eats(0)
    return {"sum": sum(numbers)}


def killer(numbers: list[int], folder: str) -> dict[str, object]:
    """Ends its process, as the system's out-of-memory killer would."""
    if len(numbers) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"sum": sum(numbers)}


def in_two(name: str, args: tuple[object, ...]) -> dict[str, tuple[object, ...]]:
    numbers, folder = args
    assert isinstance(numbers, list)
    middle = len(numbers) // 2
    parts = (numbers[:middle], numbers[middle:]) if middle else ()
    return {f"{name}.{i}": (part, folder) for i, part in enumerate(parts)}


@pytest.mark.fault
@pytest.mark.parametrize("fn", [greedy, killer])
def test_what_takes_its_workers_memory_is_halved(fn: types.FunctionType, tmp_path: Path) -> None:
    with embedded(2, 200 << 20) as ex:
        ex.log_to(tmp_path / "run")
        work = {"large": ([1, 2, 3, 4], str(tmp_path)), "small": ([5], str(tmp_path))}
        found = dict(ex.run("sum", fn, work, halve=in_two))
    assert {name: receipt["sum"] for name, receipt in found.items()} == {
        "large.0": 3,
        "large.1": 7,
        "small": 5,
    }
    log = (tmp_path / "run" / "events.jsonl").read_text()
    assert log.count('"event":"halved"') == 1 and '"event":"died"' in log
    if fn is greedy:  # once more on a new worker, in case the old one had grown; then smaller
        assert (tmp_path / "1-2-3-4").read_text() == "xx"


def test_the_dashboard_is_told_and_is_on_this_machine_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_executor(TWO, tasks_hint=9) as ex:
        assert ex.dashboard is not None and ex.dashboard.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(ex.dashboard, timeout=30) as page:
            assert b"bokeh" in page.read()
        with caplog.at_level("INFO", "overseg"), logged(ex, "plan", tmp_path):
            dict(ex.run("sq", square, {"1": (1,)}))
    assert f"what Dask is doing: {ex.dashboard}" in caplog.text
    assert ex.dashboard in (tmp_path / "run" / "events.jsonl").read_text()
