"""The inline executor: receipts, resume, errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from overseg.cluster import open_executor
from overseg.errors import InputError, ResourceError, TaskError
from overseg.settings import RunSettings

ONE = RunSettings(workers=1)


def square(x: int, folder: str | None = None) -> dict[str, object]:
    if folder is not None:
        with (Path(folder) / "ran").open("a") as file:
            file.write(f"{x}\n")
    return {"square": x * x, "pair": (x, x)}


def fail(x: int) -> dict[str, object]:
    if x == 2:
        raise InputError("two is not allowed", where="x", remedy="take three")
    if x == 3:
        raise MemoryError
    if x == 4:
        raise KeyError("four")
    return {"square": x * x}


def test_every_unit_gives_its_receipt_and_its_peak() -> None:
    with open_executor(ONE) as ex:
        found = dict(ex.run("square", square, {str(i): (i,) for i in range(5)}))
        assert {name: r["square"] for name, r in found.items()} == {str(i): i * i for i in range(5)}
        assert found["3"]["pair"] == [3, 3]
        assert ex.peak_rss_bytes >= max(r["peak_rss"] for r in found.values()) > 10 << 20


def test_units_with_receipts_are_not_run_again(tmp_path: Path) -> None:
    units = {str(i): (i, str(tmp_path)) for i in range(6)}
    with open_executor(ONE) as ex:
        steps = ex.run("square", square, units, receipts=tmp_path / "r")
        first = dict([next(steps), next(steps)])
        steps.close()
        again = dict(ex.run("square", square, units, receipts=tmp_path / "r"))
        third = dict(ex.run("square", square, units, receipts=tmp_path / "r"))
    assert again.keys() == units.keys()
    assert third == again
    assert first.items() <= again.items()
    assert sorted((tmp_path / "ran").read_text().split()) == [str(i) for i in range(6)]
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["square.jsonl"]


def test_a_torn_line_is_run_again_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    units = {str(i): (i, str(tmp_path)) for i in range(4)}
    with open_executor(ONE) as ex:
        whole = dict(ex.run("square", square, units, receipts=tmp_path / "r"))
        path = tmp_path / "r" / "square.jsonl"
        text = path.read_bytes()
        path.write_bytes(text[: text.rindex(b'"peak_rss"')])
        again = dict(ex.run("square", square, units, receipts=tmp_path / "r"))
        last = dict(ex.run("square", square, units, receipts=tmp_path / "r"))
    assert {n: r["square"] for n, r in again.items()} == {n: r["square"] for n, r in whole.items()}
    assert last == again
    assert (tmp_path / "ran").read_text().split() == ["0", "1", "2", "3", "3"]


def test_stale_receipts_are_run_again(tmp_path: Path) -> None:
    units = {str(i): (i, str(tmp_path)) for i in range(4)}
    with open_executor(ONE) as ex:
        dict(ex.run("square", square, units, receipts=tmp_path / "r"))
        dict(ex.run("square", square, units, receipts=tmp_path / "r", valid=lambda n, r: r["square"] != 4))
    assert (tmp_path / "ran").read_text().split() == ["0", "1", "2", "3", "2"]


def test_progress_counts_units_from_disk_too(tmp_path: Path) -> None:
    units = {str(i): (i,) for i in range(3)}
    seen: list[tuple[str, int, int]] = []
    with open_executor(ONE) as ex:
        dict(ex.run("square", square, {"0": (0,)}, receipts=tmp_path))
        dict(ex.run("square", square, units, receipts=tmp_path, progress=lambda *a: seen.append(a)))
    assert seen == [("square", 0, 3), ("square", 1, 3), ("square", 2, 3), ("square", 3, 3)]


@pytest.mark.parametrize(
    ("x", "kind", "words", "done"),
    [
        (2, InputError, "two is not allowed", 1),
        (3, ResourceError, "--memory", 2),
        (4, TaskError, "unit b", 2),
    ],
)
def test_errors_of_units(x: int, kind: type[Exception], words: str, done: int, tmp_path: Path) -> None:
    with open_executor(ONE) as ex, pytest.raises(kind, match=words):
        dict(ex.run("fail", fail, {"a": (1,), "b": (x,), "c": (1,)}, receipts=tmp_path))
    assert (tmp_path / "fail.jsonl").read_text().count("\n") == done
