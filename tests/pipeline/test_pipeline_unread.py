"""Chunks that cannot be decoded: named, whoever is near is left alone, and nothing else suffers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy.ndimage import maximum_filter
from typer.testing import CliRunner

import overseg
from overseg.cli.app import app
from overseg.cluster.executor import InlineExecutor
from overseg.errors import DamagedError, PlanError, StorageError
from overseg.measure import generate_tissue, simulate_splits
from overseg.pipeline import scantask
from overseg.pipeline.unread import find_unread, labels_near
from overseg.volume import open_volume

CHUNKS = (2, 8, 8)
BOX = ((0, 24), (0, 96), (0, 96))


def store(path: Path, data: np.ndarray, **how: object) -> Path:
    options = {"chunks": CHUNKS, "dtype": "u4"} | how
    zarr.create_array(str(path), shape=data.shape, **options)[:] = data
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, overseg.Plan]:
    """A broken volume of 1,728 chunks, and its plan."""
    tissue = generate_tissue(tuple(hi for _, hi in BOX), n_cells=120, seed=4)
    broken, _ = simulate_splits(tissue, rate=0.5, seed=4)
    path = store(tmp_path_factory.mktemp("sound") / "v.zarr", broken)
    return path, broken, overseg.plan(path, workers=1)


@pytest.fixture
def volume(sound: tuple[Path, np.ndarray, overseg.Plan], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound[0], tmp_path / "v.zarr"))


def chunk(volume: Path, place: tuple[int, int, int]) -> Path:
    return volume / "c" / "/".join(map(str, place))


def span(place: tuple[int, int, int]) -> tuple[slice, ...]:
    return tuple(slice(at * n, at * n + n) for at, n in zip(place, CHUNKS, strict=True))


def garble(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * (path.stat().st_size // 2))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def near(data: np.ndarray, places: list[tuple[int, int, int]], reach: int) -> set[int]:
    """The plain truth: labels within `reach` of the chunks, which themselves cannot be seen."""
    inside = np.zeros(data.shape, bool)
    for place in places:
        inside[span(place)] = True
    grown = maximum_filter(inside, size=2 * reach + 1)
    return set(np.unique(data[grown & ~inside]).tolist()) - {0}


def rows(plan: overseg.Plan) -> list[dict[str, object]]:
    return list(plan.candidates.to_pylist())


@pytest.mark.parametrize("how", [garble, cut_short, empty])
@pytest.mark.parametrize("kind", ["gap", "both"])
def test_whoever_is_near_is_left_alone(
    sound: tuple[Path, np.ndarray, overseg.Plan], volume: Path, how: Callable[[Path], None], kind: str
) -> None:
    _, broken, whole = sound
    places = [(5, 6, 6), (5, 6, 5), (0, 0, 0)]
    for place in places:
        how(chunk(volume, place))
    plan = overseg.plan(volume, workers=1, kind=kind)
    concerned = near(broken, places, 3)
    assert len(concerned) > 10
    seen = [row for row in rows(plan) if {row["a"], row["b"]} & concerned]
    assert seen and {(row["decision"], row["reason"]) for row in seen} == {("keep", "unread")}
    assert all(row["reason"] != "unread" for row in rows(plan) if not {row["a"], row["b"]} & concerned)
    assert plan.data.partial and len(plan.unread) == 3
    named = {each["unit"].split("chunk ")[1].split(",")[0] for each in plan.unread}
    assert named == {"c/5/6/6", "c/5/6/5", "c/0/0/0"}
    assert "3 chunks cannot be decoded" in plan.warnings[0]
    # All others are decided as ever.
    key = ("kind", "a", "b", "z", "gap")
    if kind == "gap":
        before = {tuple(row[k] for k in key): row["decision"] for row in rows(whole)}
        others = [row for row in rows(plan) if row["reason"] != "unread"]
        same = [before.get(tuple(row[k] for k in key)) == row["decision"] for row in others]
        assert len(others) > 50 and np.mean(same) > 0.98
    # Not a voxel of theirs changes, nor one in these chunks.
    assert not concerned & {int(label) for label in (*plan.data.merges.old, *plan.data.merges.new)}
    fills = plan.data.fills
    for z, y, x0, x1 in zip(fills.z, fills.y, fills.x0, fills.x1, strict=True):
        row = broken[z, y, x0:x1]
        assert not concerned & set(row.tolist())
        for place in places:
            zs, ys, xs = span(place)
            assert not (
                zs.start <= z < zs.stop and ys.start <= y < ys.stop and x0 < xs.stop and x1 > xs.start
            )


def test_the_shell_is_read_as_it_is(sound: tuple[Path, np.ndarray, overseg.Plan], volume: Path) -> None:
    chance = np.random.default_rng(3)
    for _ in range(6):
        places = [tuple(int(chance.integers(0, n)) for n in (12, 12, 12)) for _ in range(4)]
        opened = open_volume(volume)
        units = [np.ravel_multi_index(place, (12, 12, 12)) for place in places]
        patched, found = find_unread(
            opened, {int(u): "torn" for u in units}, 1728, 2, BOX, (0,), InlineExecutor(1, 1 << 30), None
        )
        assert set(found.at(0).tolist()) == near(sound[1], places, 3)
        data = patched.read(tuple(slice(*each) for each in BOX))
        expected = sound[1].copy()
        for place in places:
            expected[span(place)] = 0
        np.testing.assert_array_equal(data, expected)
    region = ((4, 20), (10, 80), (16, 90))
    said = labels_near(patched, (int(units[0]),), 3, region, (0,))
    cut = np.zeros_like(sound[1])
    inner = tuple(slice(*each) for each in region)
    cut[inner] = expected[inner]
    assert set(said["labels"][0][1]) == near(cut, places[:1], 3)


def test_the_same_for_every_cut_and_number_of_workers(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in [(5, 6, 6), (6, 6, 6), (11, 0, 5)]:
        garble(chunk(volume, place))
    expected = overseg.plan(volume, workers=1, kind="both", out=tmp_path / "one")
    monkeypatch.setattr(scantask, "_LEAST", 1)
    monkeypatch.setattr(scantask, "_SIDE", 16)
    plan = overseg.plan(volume, workers=1, kind="both", out=tmp_path / "many")
    assert plan.hash == expected.hash and plan.unread == expected.unread
    assert len(list((tmp_path / "many" / "run" / "scan").glob("t*.tables"))) > 20


def test_a_partial_plan_is_applied_only_when_asked_and_undone_exactly(
    sound: tuple[Path, np.ndarray, overseg.Plan], volume: Path, tmp_path: Path
) -> None:
    torn = chunk(volume, (5, 6, 6))
    whole_bytes = torn.read_bytes()
    garble(torn)
    before = {p: p.read_bytes() for p in sorted(volume.rglob("*")) if p.is_file()}
    with pytest.raises(PlanError, match="nothing was changed, since the plan is partial") as caught:
        overseg.correct(volume, workers=1)
    assert "c/5/6/6" in str(caught.value) and "--allow-partial" in str(caught.value)
    assert before == {p: p.read_bytes() for p in sorted(volume.rglob("*")) if p.is_file()}
    plan = overseg.load(tmp_path / "v.overseg")
    with pytest.raises(PlanError, match="the plan is partial"):
        overseg.apply(plan, workers=1)
    done = overseg.apply(plan, allow_partial=True, workers=1)
    assert done.rewritten > 0 and torn.read_bytes() == before[torn]
    found = overseg.verify(plan, workers=1)
    assert found.ok and len(found.unread) == 1 and "c/5/6/6" in found.unread[0]
    overseg.undo(plan, workers=1)
    assert all(p.read_bytes() == data for p, data in before.items() if ".overseg" not in str(p))
    np.testing.assert_array_equal(
        open_volume(volume).read((slice(0, 10), slice(0, 96), slice(0, 96))), sound[1][:10]
    )
    # The chunk comes back: the same command makes the whole plan, in a folder of its own.
    torn.write_bytes(whole_bytes)
    again = overseg.plan(volume, workers=1)
    assert again.hash == sound[2].hash and not again.unread and again.path != plan.path
    overseg.apply(again, workers=1)


def test_a_shard_is_left_alone_whole(sound: tuple[Path, np.ndarray, overseg.Plan], tmp_path: Path) -> None:
    path = store(tmp_path / "s.zarr", sound[1], shards=(4, 32, 32))
    shard = path / "c/2/1/1"
    data = bytearray(shard.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    shard.write_bytes(data)
    plan = overseg.plan(path, workers=1)
    assert len(plan.unread) == 1 and "shard c/2/1/1" in plan.unread[0]["unit"]
    inside = np.zeros(sound[1].shape, bool)
    inside[8:12, 32:64, 32:64] = True
    concerned = set(np.unique(sound[1][maximum_filter(inside, size=7) & ~inside]).tolist()) - {0}
    assert {row["reason"] for row in rows(plan) if {row["a"], row["b"]} & concerned} == {"unread"}


def test_format_2_and_the_published_method(
    sound: tuple[Path, np.ndarray, overseg.Plan], tmp_path: Path
) -> None:
    path = store(tmp_path / "v2.zarr", sound[1][:, :48, :48], zarr_format=2)
    (path / "5.3.3").write_bytes(b"nonsense")
    plan = overseg.plan(path, workers=1, preset="paper")
    assert len(plan.unread) == 1 and "unread" in {row["reason"] for row in rows(plan)}


def test_a_volume_that_is_mostly_damaged_is_refused(volume: Path) -> None:
    for path in (p for p in (volume / "c").rglob("*") if p.is_file()):
        path.write_bytes(b"nonsense")
    with pytest.raises(DamagedError, match=r"write units cannot be decoded") as caught:
        overseg.plan(volume, workers=1)
    assert "codec" in str(caught.value.remedy)


def test_what_cannot_be_read_at_all_is_no_damage(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overseg.cluster import executor as executors

    monkeypatch.setattr(executors, "_PAUSES", (0.0,))
    torn = chunk(volume, (5, 6, 6))
    torn.unlink()
    torn.symlink_to(torn)  # which root cannot read either
    with pytest.raises(StorageError, match="symbolic links"):
        overseg.plan(volume, workers=1)


def test_the_command_line_says_it_and_ends_with_1(volume: Path) -> None:
    garble(chunk(volume, (5, 6, 6)))
    words = ["plan", str(volume), "--workers", "1"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 1
    assert "This plan is partial: 1 write units" in said.stdout and "c/5/6/6" in said.stdout
    assert "overseg apply --allow-partial" in said.stdout
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert told["partial"] is True and len(told["unread"]) == 1
    folder = told["plan"]
    assert CliRunner().invoke(app, ["correct", str(volume), "--yes", "--workers", "1"]).exit_code == 1
    refused = CliRunner().invoke(app, ["apply", folder, "--workers", "1"])
    assert refused.exit_code == 1 and "--allow-partial" in refused.stderr
    assert CliRunner().invoke(app, ["apply", folder, "--allow-partial", "--workers", "1"]).exit_code == 0
    for words in (["undo", folder, "--workers", "1"], ["show", folder]):
        assert "overseg apply --allow-partial" in CliRunner().invoke(app, words).stdout
    proved = CliRunner().invoke(app, ["verify", folder])
    assert proved.exit_code == 0 and "not checked" in proved.stdout
    shown = CliRunner().invoke(app, ["show", folder])
    assert "cannot be decoded" in shown.stdout and os.path.exists(folder)
