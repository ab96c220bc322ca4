"""Units that fail: tried again, halved, put down with all it takes to look into them; all others are done."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from overseg.cluster import executor as executors
from overseg.cluster import open_executor, receipts
from overseg.cluster.events import Events, parse
from overseg.cluster.executor import Executor, InlineExecutor
from overseg.cluster.failures import is_gone, this_worker
from overseg.cluster.part import AloneExecutor, ArrayExecutor, Ended
from overseg.errors import InputError, ResourceError, StorageError, TaskError
from overseg.settings import RunSettings

GIB = 1 << 30


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_PAUSES", (0.0,))


@pytest.fixture
def inline(tmp_path: Path) -> InlineExecutor:
    found = InlineExecutor(1, GIB)
    found.log_to(tmp_path / "p.overseg" / "run")
    return found


def stumble(x: int, folder: str, times: int) -> dict[str, object]:
    """Unit 3 fails so many times."""
    tries = Path(folder) / f"tries-{x}"
    tries.write_text((tries.read_text() if tries.exists() else "") + "x")
    if x == 3 and len(tries.read_text()) <= times:
        raise KeyError("three")
    return {"square": x * x}


def refuse_disk(x: int) -> dict[str, object]:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"/disk/{x}")


def hungry(numbers: tuple[int, ...], most: int) -> dict[str, object]:
    if len(numbers) > most:
        raise MemoryError
    return {"sum": sum(numbers)}


def in_two(name: str, args: tuple[object, ...]) -> dict[str, tuple[object, ...]]:
    numbers, most = args
    assert isinstance(numbers, tuple)
    middle = len(numbers) // 2
    parts = (numbers[:middle], numbers[middle:]) if middle else ()
    return {f"{name}.{i}": (part, most) for i, part in enumerate(parts)}


def logged(ex: Executor) -> list[dict[str, object]]:
    assert ex.home is not None
    return parse((ex.home / "events.jsonl").read_bytes())


def units(folder: Path, times: int, count: int = 8) -> dict[str, tuple[object, ...]]:
    return {str(i): (i, str(folder), times) for i in range(count)}


@pytest.mark.parametrize("times", [0, 1, 2])
def test_what_fails_now_and_then_is_tried_again(inline: InlineExecutor, tmp_path: Path, times: int) -> None:
    found = dict(inline.run("sq", stumble, units(tmp_path, times), tmp_path / "r"))
    assert {name: r["square"] for name, r in found.items()} == {str(i): i * i for i in range(8)}
    assert (tmp_path / "tries-3").read_text() == "x" * (times + 1)
    assert (tmp_path / "tries-4").read_text() == "x"
    assert [e["unit"] for e in logged(inline) if e["event"] == "failed"] == ["3"] * times


def test_what_fails_each_time_is_put_down_and_all_else_is_kept(
    inline: InlineExecutor, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match="KeyError") as caught:
        dict(inline.run("sq", stumble, units(tmp_path, 9), tmp_path / "r"))
    assert (tmp_path / "tries-3").read_text() == "xxx"
    assert (tmp_path / "r" / "sq.jsonl").read_text().count("\n") == 7
    assert inline.home is not None
    (line,) = map(json.loads, (inline.home / "quarantine.jsonl").read_text().splitlines())
    assert (line["step"], line["unit"]) == ("sq", "3")
    assert "in stumble" in line["traceback"] and "KeyError: 'three'" in line["traceback"]
    assert line["command"] == f"overseg again {tmp_path / 'p.overseg'} sq/3"
    assert "1 of 8 units of step 'sq'" in str(caught.value) and line["command"] in str(caught.value)
    # The next run begins with what was left.
    again = dict(inline.run("sq", stumble, units(tmp_path, 3), tmp_path / "r"))
    assert len(again) == 8 and (tmp_path / "tries-4").read_text() == "x"


def test_when_nothing_succeeds_any_more_the_step_ends(inline: InlineExecutor) -> None:
    ran = []

    def progress(_: str, done: int, total: int) -> None:
        ran.append((done, total))

    with pytest.raises(StorageError, match="No space left") as caught:
        dict(inline.run("disk", refuse_disk, {str(i): (i,) for i in range(100)}, progress=progress))
    assert "/disk/0" in str(caught.value) and "what is done is kept" in str(caught.value)
    assert len([e for e in logged(inline) if e["event"] == "failed"]) == executors._HOPELESS


@pytest.mark.parametrize("most", [1, 2, 5])
def test_what_takes_too_much_memory_is_halved_until_it_fits(inline: InlineExecutor, most: int) -> None:
    seen: list[tuple[int, int]] = []
    work = {"a": (tuple(range(10)), most), "b": ((100,), most)}
    steps = inline.run("sum", hungry, work, progress=lambda _, *counts: seen.append(counts), halve=in_two)
    found = dict(steps)
    assert sum(r["sum"] for r in found.values()) == sum(range(10)) + 100
    assert "a" not in found and "b" in found
    assert seen[-1] == (len(found), len(found))


def test_what_cannot_be_halved_is_given_up_with_the_remedy(inline: InlineExecutor) -> None:
    with pytest.raises(ResourceError, match="no memory was left") as caught:
        dict(inline.run("sum", hungry, {"a": ((1, 2, 3), 0), "b": ((), 0)}, halve=in_two))
    assert "--memory" in str(caught.value)
    assert len([e for e in logged(inline) if e["event"] == "quarantined"]) == 3


def on_card(numbers: tuple[int, ...], most: int) -> dict[str, object]:
    """As torch says that a card's memory is full."""
    if len(numbers) > most:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return {"sum": sum(numbers)}


def test_the_memory_of_a_card_counts_as_well(inline: InlineExecutor) -> None:
    found = dict(inline.run("sum", on_card, {"a": (tuple(range(10)), 3)}, halve=in_two))
    assert sum(r["sum"] for r in found.values()) == sum(range(10)) and len(found) > 3
    with pytest.raises(ResourceError, match="no memory was left on the graphics card") as caught:
        dict(inline.run("sum", on_card, {"a": ((1,), 0)}, halve=in_two))
    assert "--device cpu" in str(caught.value)


@pytest.mark.cluster
@pytest.mark.parametrize("workers", [1, 2])
def test_same_on_dask(workers: int, tmp_path: Path) -> None:
    with open_executor(RunSettings(workers=workers, memory="1GiB"), tasks_hint=8) as ex:
        ex.log_to(tmp_path / "run")
        assert len(dict(ex.run("sq", stumble, units(tmp_path, 2)))) == 8
        with pytest.raises(TaskError, match=r"KeyError"):
            dict(ex.run("sq", stumble, units(tmp_path, 99)))
        total = sum(r["sum"] for _, r in ex.run("sum", hungry, {"a": (tuple(range(9)), 2)}, halve=in_two))
        assert total == 36
    done = [e for e in logged(ex) if e["event"] == "done"]
    assert all({"worker", "seconds", "peak_rss"} <= e.keys() for e in done)
    assert len({e["worker"] for e in done}) <= workers


def test_nothing_is_written_before_the_first_step(tmp_path: Path) -> None:
    noted = []
    events = Events(tmp_path / "run", lambda: noted.append(1))
    events.add("begin", command="plan")
    assert not (tmp_path / "run").exists() and not noted
    events.add("step", "scan", total=3)
    events.add("end", command="plan")
    found = parse((tmp_path / "run" / "events.jsonl").read_bytes())
    assert [e["event"] for e in found] == ["begin", "step", "end"] and noted == [1]
    assert [e["event"] for e in parse(b'{"event":"a"}\n{"eve\n[1]\n{"event":"b"}\n')] == ["a", "b"]


def share(make: Callable[[int], Executor], folder: Path, names: list[str]) -> Iterator[int]:
    for task in range(3):
        with pytest.raises(Ended) as caught:
            dict(make(task).run("sq", stumble, {n: (int(n), str(folder), 0) for n in names}, folder / "r"))
        yield caught.value.units


def test_tasks_of_an_array_share_a_step_and_leave_receipts_of_their_own(tmp_path: Path) -> None:
    names = [str(i) for i in range(8)]
    shares = list(share(lambda task: ArrayExecutor("sq", task, 3, GIB), tmp_path, names))
    assert shares == [3, 3, 2]
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [f"sq.task-{i}.jsonl" for i in range(3)]
    found = dict(InlineExecutor(1, GIB).run("sq", stumble, units(tmp_path, 0), tmp_path / "r"))
    assert len(found) == 8 and (tmp_path / "tries-3").read_text() == "x"
    # Killed and run again, a task goes on; one too many has nothing to do.
    assert list(share(lambda task: ArrayExecutor("sq", task, 3, GIB), tmp_path, names)) == [3, 3, 2]
    assert (tmp_path / "tries-5").read_text() == "x"


def test_one_unit_alone(tmp_path: Path) -> None:
    alone = AloneExecutor("sq", "3", GIB)
    with pytest.raises(TaskError, match="in stumble"):
        dict(alone.run("sq", stumble, units(tmp_path, 1), tmp_path / "r"))
    with pytest.raises(Ended):
        dict(alone.run("sq", stumble, units(tmp_path, 1), tmp_path / "r"))
    assert not (tmp_path / "tries-2").exists() and (tmp_path / "tries-3").read_text() == "xx"
    work: dict[str, tuple[object, ...]] = {"a": (tuple(range(8)), 2)}
    with pytest.raises(Ended):
        dict(AloneExecutor("sum", "a.1.0", GIB).run("sum", hungry, work, halve=in_two))
    with pytest.raises(InputError, match="no unit of that name"):
        dict(AloneExecutor("sum", "b", GIB).run("sum", hungry, work, halve=in_two))


def test_receipts_that_do_not_fit_are_recalled_before_their_units_are_done_anew(tmp_path: Path) -> None:
    folder, tried = tmp_path / "r", []

    def made(now: int) -> dict[str, object]:
        tried.append(now)
        if now == 2:
            raise KeyboardInterrupt
        return {"at": now}

    def run(now: int, executor: Executor) -> None:
        fits = lambda _, receipt: receipt["at"] == now  # noqa: E731
        dict(executor.run("sq", made, {"a": (now,)}, folder, valid=fits))

    # Another file has it, and its name comes last.
    with pytest.raises(Ended):
        run(1, ArrayExecutor("sq", 0, 1, GIB))
    with pytest.raises(KeyboardInterrupt):
        run(2, InlineExecutor(1, GIB))
    for now in (1, 1, 3, 3, 1):
        run(now, InlineExecutor(1, GIB))
    assert tried == [1, 2, 1, 3, 1]
    # As before there were recalls: the last of several is recalled, and none before it comes to light.
    lines = [(b"receipt", 1), (b"receipt", 2), (b"recalled", 2)]
    (folder / "old.jsonl").write_bytes(b"".join(b'{"unit":"a","%s":{"at":%d}}\n' % line for line in lines))
    assert receipts.read(folder, "old") == {}


def test_a_process_that_is_gone_is_told_from_one_elsewhere() -> None:
    assert not is_gone(this_worker()) and not is_gone("elsewhere:1")
    assert is_gone(this_worker().rpartition(":")[0] + ":4194305")


def test_a_receipt_that_the_disk_took_half_of_is_an_error(tmp_path: Path) -> None:
    class Full:
        name = "scan.jsonl"

        def write(self, data: bytes) -> int:
            return len(data) // 2

    with pytest.raises(StorageError, match="No space left"):
        receipts._append(Full(), "a", {"rows": 1})  # type: ignore[arg-type]
