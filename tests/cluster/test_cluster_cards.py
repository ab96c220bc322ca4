"""Workers with graphics cards beside others, and a run that can make no progress: it says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster, Worker, get_worker
from distributed.core import Status

from overseg.cluster import on_dask, watch
from overseg.cluster.events import parse
from overseg.cluster.on_dask import DaskExecutor, given
from overseg.errors import ResourceError
from overseg.pipeline.device import choose

pytestmark = pytest.mark.cluster

GIB = 1 << 30


def where(x: int) -> dict[str, object]:
    time.sleep(0.02)
    return {"x": x, "name": str(get_worker().name)}


def slow(x: int) -> dict[str, object]:
    time.sleep(1.0)
    return {"x": x}


@pytest.fixture
def mixed() -> Iterator[tuple[LocalCluster, Client]]:
    """Two workers, of which one has a card (as it says)."""
    with (
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for name, resources in (("plain", {}), ("carded", {"GPU": 1})):
            cluster.worker_spec[name] = {
                "cls": cluster.new_spec["cls"],
                "options": {**cluster.new_spec["options"], "nthreads": 1, "resources": resources},
            }
        cluster.sync(cluster._correct_state)
        client.wait_for_workers(2)
        yield cluster, client


def units(count: int = 12) -> dict[str, tuple[int]]:
    return {str(i): (i,) for i in range(count)}


def names(ex: DaskExecutor, card: bool) -> set[str]:
    return {receipt["name"] for _, receipt in ex.run("where", where, units(), card=card)}


def test_what_a_card_does_better_goes_where_one_is(mixed: tuple[LocalCluster, Client]) -> None:
    ex = given(mixed[1], GIB)
    assert ex.cards and ex.workers == 2
    assert names(ex, card=True) == {"carded"}
    assert "plain" in names(ex, card=False)
    # It is chosen by what the workers have, not by the machine that sends the work out.
    assert choose("auto", ex, Path("/nowhere")) == "cuda" and choose("cpu", ex) is None


def test_without_a_card_processors_do_it(mixed: tuple[LocalCluster, Client]) -> None:
    cluster, client = mixed
    del cluster.worker_spec["carded"]
    cluster.sync(cluster._correct_state)
    while len(client.nthreads()) > 1:
        time.sleep(0.05)
    ex = given(client, GIB)
    assert not ex.cards and names(ex, card=True) == {"plain"}


def test_when_the_last_card_goes_processors_go_on(
    mixed: tuple[LocalCluster, Client], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, client = mixed
    monkeypatch.setattr(on_dask, "_CARDLESS", 0.2)
    monkeypatch.setattr(watch, "_REST", 0.2)
    steps = given(client, GIB).run("where", where, units(40), card=True)
    found = dict([next(steps)])
    del cluster.worker_spec["carded"]
    cluster.sync(cluster._correct_state)
    with caplog.at_level(logging.WARNING, "overseg"):
        found |= dict(steps)
    assert {receipt["x"] for receipt in found.values()} == set(range(40))
    assert found.keys() == units(40).keys()
    assert "no worker has a graphics card any more" in caplog.text


def test_it_is_said_why_nothing_goes_on(
    mixed: tuple[LocalCluster, Client],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster, client = mixed
    monkeypatch.setattr(watch, "_FIRST_WORD", 0.2)
    with caplog.at_level(logging.WARNING, "overseg"):
        dict(given(client, GIB).run("slow", slow, units(1)))
        assert "nothing was done for" in caplog.text and "workers are at 0" in caplog.text
        cluster.scale(0)
        while client.nthreads():
            time.sleep(0.05)
        ex = DaskExecutor(client, 1, GIB, patience=1.5, why=lambda: "SLURM says: Priority")
        ex.log_to(tmp_path)
        with pytest.raises(ResourceError, match="no Dask worker"):
            dict(ex.run("slow", slow, units(1)))
    assert "SLURM says: Priority" in caplog.text
    waits = [e for e in parse((tmp_path / "events.jsonl").read_bytes()) if e["event"] == "waiting"]
    assert waits and "Priority" in waits[0]["why"]


def test_workers_that_are_paused_are_not_waited_for_in_silence(
    mixed: tuple[LocalCluster, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = mixed
    monkeypatch.setattr(watch, "_REST", 0.1)

    def pause(dask_worker: Worker) -> None:
        dask_worker.memory_manager.memory_pause_fraction = 1e-6  # any use of memory is too much
        dask_worker.status = Status.paused

    client.run(pause)
    with pytest.raises(ResourceError, match="paused"):
        dict(DaskExecutor(client, 2, GIB, patience=1.5).run("where", where, units(2)))


def test_the_batch_system_may_say_that_it_is_in_vain(mixed: tuple[LocalCluster, Client]) -> None:
    cluster, client = mixed
    cluster.scale(0)
    while client.nthreads():
        time.sleep(0.05)

    def hopeless() -> str:
        raise ResourceError("the job is held", where="job 7", remedy="release it")

    watcher = watch.Watch(client, None, 60.0, hopeless, DaskExecutor(client, 1, GIB).events)
    watcher._next_word = 0.0
    with pytest.raises(ResourceError, match="held"):
        watcher.look(())
