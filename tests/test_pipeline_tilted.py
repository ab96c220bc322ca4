"""Touching splits from voxels to voxels: no layout shows, all can be undone, and no shape is too odd."""

from __future__ import annotations

import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr

import overseg
from overseg.kernels.groups import Groups
from overseg.measure.cutting import cut_cells
from overseg.measure.simulation import simulate_splits
from overseg.measure.tissue import generate_tissue
from overseg.pipeline import touching

SHAPE = (26, 60, 70)
KINDS = ["tilted", "both"]
LOW = 0.5  # whatever the model, something is merged

# (chunks, shards, zarr format, integer type)
LAYOUTS = [
    ((1, 60, 70), None, 2, np.uint32),
    ((4, 16, 16), (8, 32, 32), 3, np.uint16),
    ((5, 7, 11), None, 3, np.int32),
    ((26, 8, 8), None, 3, np.uint64),
    ((11, 30, 35), None, 2, ">u4"),
]


@pytest.fixture(scope="module")
def broken() -> dict[str, np.ndarray]:
    """A small tissue with cuts, and one with gap splits as well."""
    tissue = generate_tissue(SHAPE, n_cells=60, seed=3)
    cut = cut_cells(tissue, rate=0.5, seed=4)[0]
    return {
        "tilted": cut.astype(np.uint16),
        "both": simulate_splits(cut, rate=0.4, seed=5)[0].astype(np.uint16),
    }


@pytest.fixture(scope="module")
def expected(broken, tmp_path_factory) -> dict[str, tuple[str, np.ndarray]]:
    """Plan hash and corrected voxels of the plainest layout."""
    found = {}
    for kind in KINDS:
        path = store(tmp_path_factory.mktemp(kind) / "v.zarr", broken[kind], SHAPE)
        plan = overseg.correct(path, workers=1, kind=kind, threshold=LOW)
        table = plan.candidates.to_pydict()
        merged = [
            which for which, what in zip(table["kind"], table["decision"], strict=True) if what == "merge"
        ]
        assert merged.count("touch") >= 3, "the test tissue must have something to join"
        if kind == "both":
            assert merged.count("split") >= 3 and plan.summary()["voxels_filled"] > 0
        found[kind] = plan.hash, zarr.open_array(path, mode="r")[:]
    return found


def store(path, labels, chunks=None, shards=None, zarr_format=3, dtype=None) -> str:
    array = zarr.create_array(
        str(path), shape=labels.shape, chunks=chunks or labels.shape, shards=shards,
        dtype=dtype or labels.dtype, zarr_format=zarr_format,
    )  # fmt: skip
    array[:] = labels.astype(array.dtype)
    return str(path)


def check(path: str, plan, expected: tuple[str, np.ndarray]) -> None:
    assert plan.hash == expected[0]
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], expected[1])


def truth(labels: np.ndarray, plan) -> np.ndarray:
    """What a plan says, one merge and one run of voxels at a time."""
    after, data = labels.copy(), plan.data
    for old, new in zip(data.merges.old, data.merges.new, strict=True):
        after[labels == old] = new
    for _, z, y, x0, x1, new in zip(*vars(data.fills).values(), strict=True):
        after[z, y, x0:x1] = new
    return after


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("chunks", "shards", "zarr_format", "dtype"), LAYOUTS)
def test_every_layout_gives_the_same_plan_and_voxels(
    broken, expected, tmp_path, kind, chunks, shards, zarr_format, dtype
):
    path = store(tmp_path / "v.zarr", broken[kind], chunks, shards, zarr_format, dtype)
    plan = overseg.correct(path, workers=1, kind=kind, threshold=LOW)
    check(path, plan, expected[kind])
    assert overseg.verify(plan).ok
    overseg.undo(plan)
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], broken[kind])


@pytest.mark.cluster
@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers(broken, expected, tmp_path, workers):
    path = store(tmp_path / "v.zarr", broken["both"], (4, 16, 16))
    plan = overseg.correct(path, workers=workers, memory="512MiB", kind="both", threshold=LOW)
    check(path, plan, expected["both"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("side", "partition", "together"), [(8, 2_000, 7), (24, 30_000, 1 << 12)])
def test_any_block_size_partition_and_batch(
    broken, expected, tmp_path, monkeypatch, kind, side, partition, together
):
    from overseg.pipeline import parts, scantask

    monkeypatch.setattr(scantask, "_SIDE", side)
    monkeypatch.setattr(scantask, "_LEAST", 1)
    monkeypatch.setattr(scantask, "_SHARE", 10_000)
    monkeypatch.setattr(scantask, "_PARTITION", partition)
    monkeypatch.setattr(parts, "_ROWS", 300)
    monkeypatch.setattr(touching, "_TOGETHER", together)
    path = store(tmp_path / "v.zarr", broken[kind], (4, 8, 8))
    check(path, overseg.correct(path, workers=1, kind=kind, threshold=LOW), expected[kind])
    graphs = {file.suffixes[-1]: 0 for file in (tmp_path / "v.overseg").rglob("*.pairs")}
    assert ".pairs" in graphs


def test_any_order_of_completion(broken, expected, tmp_path, monkeypatch):
    import overseg.cluster

    usual = overseg.cluster.open_executor

    @contextmanager
    def shuffled(*args, **kwargs):
        with usual(*args, **kwargs) as executor:
            run = executor.run

            def shuffled_run(step, fn, units, *more, **named):
                names = list(units)
                random.Random(1).shuffle(names)
                return run(step, fn, {name: units[name] for name in names}, *more, **named)

            executor.run = shuffled_run
            yield executor

    monkeypatch.setattr(overseg.cluster, "open_executor", shuffled)
    path = store(tmp_path / "v.zarr", broken["both"], (4, 16, 16))
    check(path, overseg.correct(path, workers=1, kind="both", threshold=LOW), expected["both"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_numpy_array_gives_the_same_and_is_left_alone(broken, expected, kind):
    before = broken[kind].copy()
    corrected, plan = overseg.correct(before, kind=kind, threshold=LOW)
    assert plan.hash == expected[kind][0]
    np.testing.assert_array_equal(corrected, expected[kind][1])
    np.testing.assert_array_equal(before, broken[kind])
    np.testing.assert_array_equal(corrected, truth(before, plan))


@pytest.mark.parametrize(
    "steps", [("graph",), ("touching",), ("graph", "touching", "measure", "across", "fill")]
)
def test_what_later_steps_left_may_be_lost(broken, expected, tmp_path, steps):
    path = store(tmp_path / "v.zarr", broken["both"], (4, 16, 16))
    plan = overseg.plan(path, workers=1, kind="both", threshold=LOW)
    folder = Path(plan.path)
    for file in [*folder.iterdir()]:
        if file.is_file():
            file.unlink()  # no plan was written
    lost = 0
    for step in steps:
        for place in (folder / "run" / step, folder / "run" / "receipts" / f"{step}.jsonl"):
            lost += place.exists()
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    assert lost
    check(path, overseg.correct(path, workers=1, kind="both", threshold=LOW), expected["both"])


def test_a_voxel_has_the_root_of_both_rounds(broken, expected):
    corrected, plan = overseg.correct(broken["both"], kind="both", threshold=LOW)
    gaps, alone = overseg.correct(broken["both"], kind="gap", threshold=LOW)
    table = plan.candidates.to_pydict()
    rows = zip(*(table[name] for name in ("kind", "decision", "a", "b")), strict=True)
    joined = [(a, b) for kind, decision, a, b in rows if kind == "touch" and decision == "merge"]
    after = gaps.copy()
    for a, b in joined:  # of labels after the gaps were closed; one that went on is gone by then
        names = [int(np.unique(after[gaps == label])[0]) for label in (a, b)]
        after[after == max(names)] = min(names)
    np.testing.assert_array_equal(corrected, after)
    assert alone.data.merges.old.tolist() != plan.data.merges.old.tolist()
    groups = Groups(plan.data.merges.old, plan.data.merges.new)
    assert not np.isin(groups.new, groups.old).any()
    assert not np.isin(plan.data.fills.new, groups.old).any()


def test_without_gaps_both_joins_what_tilted_joins():
    cells = cut_cells(generate_tissue((20, 36, 40), n_cells=20, seed=8, style="packed"), rate=0.5, seed=9)[0]
    corrected, plans = zip(*(overseg.correct(cells, kind=kind, threshold=LOW) for kind in KINDS), strict=True)
    gap = plans[1].candidates.to_pydict()
    assert not [1 for kind, what in zip(gap["kind"], gap["decision"], strict=True)
                if kind != "touch" and what in ("merge", "fill")]  # fmt: skip
    np.testing.assert_array_equal(*corrected)
    assert (corrected[0] != cells).any()
    assert plans[0].data.merges.old.tolist() == plans[1].data.merges.old.tolist()


def test_names_do_not_matter(broken):
    names = np.zeros(int(broken["both"].max()) + 1, np.uint64)
    names[1:] = np.uint64(2**63 - 1) - np.arange(len(names) - 1, dtype=np.uint64)[::-1] * np.uint64(10**12)
    corrected, _ = overseg.correct(names[broken["both"]], kind="both", threshold=LOW)
    plain, _ = overseg.correct(broken["both"], kind="both", threshold=LOW)
    np.testing.assert_array_equal(corrected, names[plain])


def single_face() -> np.ndarray:
    labels = np.zeros((12, 12, 12), np.uint16)
    labels[1:6, 1:6, 1:6], labels[6:11, 5:10, 5:10] = 1, 2
    return labels


def shell() -> np.ndarray:
    labels = np.ones((11, 11, 11), np.uint16)
    labels[3:8, 3:8, 3:8] = 2
    return labels


def halves(axis: int, shape=(8, 9, 10)) -> np.ndarray:
    labels = np.ones(shape, np.uint16)
    labels[np.indices(shape)[axis] >= shape[axis] // 2] = 2
    return labels


DEGENERATE = {
    "one face": single_face(),
    "one voxel face": np.pad(np.array([[[1]], [[2]]], np.uint16), 1),
    "shell": shell(),
    "shell in background": np.pad(shell(), 2),
    "sheets": np.arange(1, 9, dtype=np.uint16)[:, None, None] * np.ones((1, 12, 12), np.uint16),
    "padded sheets": np.pad(
        np.arange(1, 9, dtype=np.uint16)[:, None, None] * np.ones((1, 9, 9), np.uint16), 2
    ),
    "rods": np.kron(np.arange(1, 26).reshape(1, 5, 5), np.ones((9, 1, 1), int)).astype(np.uint16),
    "two in z": halves(0),
    "two in y": halves(1),
    "two in x": halves(2),
    "two in z, padded": np.pad(halves(0), 3),
    "two in y, padded": np.pad(halves(1), 3),
    "two in x, padded": np.pad(halves(2), 3),
    "checkers": (1 + np.indices((6, 6, 6)).sum(0) % 2).astype(np.uint16),
    "voxels": np.arange(1, 126).reshape(5, 5, 5).astype(np.uint16),
    "cubes": np.kron(np.arange(1, 28).reshape(3, 3, 3), np.ones((4, 4, 4), int)).astype(np.uint16),
    "huge names": (halves(1).astype(np.uint64) + np.uint64(2**63 - 3)),
    "far pieces": np.concatenate([shell(), np.zeros((3, 11, 11), np.uint16), shell()[:, ::-1]]),
    "one label": np.ones((5, 6, 7), np.uint16),
    "nothing": np.zeros((5, 6, 7), np.uint16),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("threshold", [None, 0.0])
def test_odd_shapes_are_decided_with_a_reason(kind: str, name: str, threshold: float | None) -> None:
    labels = DEGENERATE[name]
    corrected, plan = overseg.correct(labels, kind=kind, threshold=threshold)
    table = plan.candidates.to_pydict()
    assert np.isfinite(np.array(table["p"], float)).all() and all(0 <= p <= 1 for p in table["p"])
    assert set(table["decision"]) <= {"merge", "fill", "review", "keep"} and all(table["reason"])
    np.testing.assert_array_equal(corrected, truth(labels, plan))
    again, other = overseg.correct(
        np.ascontiguousarray(labels[:, ::-1, ::-1]), kind=kind, threshold=threshold
    )
    np.testing.assert_array_equal(again[:, ::-1, ::-1], corrected)
    assert np.sort(table["p"]) == pytest.approx(np.sort(other.candidates.to_pydict()["p"]), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_layer_is_refused_as_ever(kind: str) -> None:
    labels = halves(2, (1, 9, 10))
    said = []
    for which in ("gap", kind):
        try:
            overseg.correct(labels, kind=which)
            said.append("")
        except overseg.OversegError as error:
            said.append(str(error).splitlines()[0])
    assert said[0] == said[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunks", [SHAPE, (5, 7, 50)])
def test_nothing_outside_the_region_changes(broken, tmp_path, kind, chunks):
    labels = broken[kind]
    path = store(tmp_path / "v.zarr", labels, chunks)
    region = ((0, 26), (0, 60), (0, 50))
    plan = overseg.correct(path, workers=1, kind=kind, region=region, threshold=LOW)
    inside = tuple(slice(*span) for span in region)
    corrected = zarr.open_array(path, mode="r")[:]
    outside = np.ones(SHAPE, bool)
    outside[inside] = False
    np.testing.assert_array_equal(corrected[outside], labels[outside])
    assert (corrected != labels).any()
    cut = np.unique(labels[:, :, 49])
    table = plan.candidates.to_pydict()
    for a, b, which, what in zip(*(table[n] for n in ("a", "b", "kind", "decision")), strict=True):
        assert not (which == "touch" and what == "merge" and {a, b} & set(cut.tolist()))
    assert overseg.verify(plan).ok
    overseg.undo(plan)
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], labels)


@pytest.mark.parametrize("kind", KINDS)
def test_time_points_are_joined_each_on_its_own(tmp_path, kind):
    tissue = generate_tissue((18, 34, 36), n_cells=20, seed=3)
    times = [cut_cells(tissue, rate=0.6, seed=seed)[0] for seed in range(2)]
    if kind == "both":
        times = [simulate_splits(labels, rate=0.4, seed=7)[0] for labels in times]
    array = np.stack(times).astype(np.uint16)
    root = zarr.create_group(tmp_path / "t.zarr", zarr_format=2)
    axes = [{"name": name, "type": "time" if name == "t" else "space"} for name in "tzyx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * 4}]}]
    root.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    root.attrs["image-label"] = {"version": "0.4"}
    root.create_array("0", shape=array.shape, dtype="u2", chunks=(1, 5, 12, 20))[...] = array
    plan = overseg.correct(str(tmp_path / "t.zarr"), workers=1, kind=kind, threshold=LOW)
    corrected = zarr.open_group(tmp_path / "t.zarr", mode="r")["0"][:]
    for found, labels in zip(corrected, array, strict=True):
        alone, _ = overseg.correct(labels, kind=kind, threshold=LOW)
        np.testing.assert_array_equal(found, alone)
        assert (found != labels).any()
    assert overseg.verify(plan).ok
    overseg.undo(plan)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "t.zarr", mode="r")["0"][:], array)
