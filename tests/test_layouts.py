"""The same answer for every chunking, format, integer type, worker count and order of completion."""

from __future__ import annotations

import random
from contextlib import contextmanager

import numpy as np
import pytest
import zarr

import overseg
from overseg.measure.simulation import simulate_splits
from overseg.measure.tissue import generate_tissue
from overseg.settings import build
from overseg.volume import open_volume

SHAPE = (26, 60, 70)

# (chunks, shards, zarr format, integer type)
LAYOUTS = [
    ((26, 60, 70), None, 3, np.uint16),
    ((26, 60, 70), None, 2, np.uint16),
    ((1, 60, 70), None, 3, np.uint16),
    ((1, 60, 70), None, 2, np.uint32),
    ((26, 8, 8), None, 3, np.uint32),
    ((4, 16, 16), None, 3, np.uint64),
    ((4, 16, 16), None, 2, np.int64),
    ((5, 7, 11), None, 3, np.int32),
    ((3, 13, 70), None, 2, np.uint16),
    ((2, 60, 9), None, 3, np.int16),
    ((7, 31, 33), None, 3, np.uint32),
    ((13, 59, 69), None, 3, np.uint16),
    ((4, 16, 16), (8, 32, 32), 3, np.uint16),
    ((2, 10, 10), (26, 60, 70), 3, np.uint32),
    ((1, 20, 35), (6, 20, 70), 3, np.uint64),
    ((3, 5, 7), (9, 15, 21), 3, np.int64),
    ((8, 64, 64), None, 3, np.uint16),
    ((64, 128, 128), None, 3, np.uint16),
    ((6, 3, 70), None, 2, np.uint64),
    ((25, 17, 19), None, 2, np.uint32),
    ((11, 30, 35), None, 3, "<u2"),
    ((11, 30, 35), None, 2, ">u4"),
]


@pytest.fixture(scope="module")
def broken() -> np.ndarray:
    """A small tissue with known splits, missing layers and swallowed masks."""
    tissue = generate_tissue(SHAPE, n_cells=60, seed=3)
    return simulate_splits(tissue, rate=0.5, seed=5)[0].astype(np.uint16)


@pytest.fixture(scope="module")
def expected(broken, tmp_path_factory) -> tuple[str, np.ndarray]:
    """Plan hash and corrected voxels of the plainest layout."""
    folder = tmp_path_factory.mktemp("plain")
    path = store(folder / "v.zarr", broken, (26, 60, 70), None, 3, np.uint16)
    plan = overseg.correct(path, workers=1)
    summary = plan.summary()
    assert summary["merged"] >= 3, "the test tissue must have something to correct"
    assert summary["voxels_filled"] > 0
    corrected = zarr.open_array(path, mode="r")[:]
    assert (corrected != broken).any()
    return plan.hash, corrected


def store(path, labels, chunks, shards, zarr_format, dtype) -> str:
    array = zarr.create_array(
        str(path), shape=labels.shape, chunks=chunks, shards=shards, dtype=dtype, zarr_format=zarr_format
    )
    array[:] = labels.astype(dtype)
    return str(path)


@pytest.mark.parametrize(("chunks", "shards", "zarr_format", "dtype"), LAYOUTS)
def test_every_layout_gives_the_same_plan_and_voxels(
    broken, expected, tmp_path, chunks, shards, zarr_format, dtype
):
    path = store(tmp_path / "v.zarr", broken, chunks, shards, zarr_format, dtype)
    plan = overseg.correct(path, workers=1)
    assert plan.hash == expected[0]
    corrected = zarr.open_array(path, mode="r")
    assert corrected.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(corrected[:], expected[1])
    assert overseg.verify(plan).ok
    overseg.undo(plan)
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], broken)


@pytest.mark.cluster
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_any_number_of_workers(broken, expected, tmp_path, workers):
    path = store(tmp_path / "v.zarr", broken, (4, 16, 16), None, 3, np.uint32)
    plan = overseg.correct(path, workers=workers, memory="512MiB")
    assert plan.hash == expected[0]
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], expected[1])


@pytest.mark.parametrize(
    ("side", "least", "partition"), [(8, 1, 1 << 36), (16, 4000, 20_000), (24, 1, 5_000), (512, 1, 50_000)]
)
def test_any_block_size_and_partition(broken, expected, tmp_path, monkeypatch, side, least, partition):
    from overseg.pipeline import scantask
    from overseg.pipeline.seams import plan_seams

    monkeypatch.setattr(scantask, "_SIDE", side)
    monkeypatch.setattr(scantask, "_LEAST", least)
    monkeypatch.setattr(scantask, "_SHARE", 10_000)
    monkeypatch.setattr(scantask, "_PARTITION", partition)
    path = store(tmp_path / "v.zarr", broken, (4, 8, 8), None, 3, np.uint32)
    settings, _ = build()
    tasks = scantask.plan_scan(open_volume(path), settings, 1 << 30)
    assert len(tasks) > 4 and len(plan_seams(tasks)) > 0
    plan = overseg.correct(path, workers=1)
    assert plan.hash == expected[0]
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], expected[1])


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_completion(broken, expected, tmp_path, monkeypatch, seed):
    import overseg.cluster

    usual = overseg.cluster.open_executor

    @contextmanager
    def shuffled(*args, **kwargs):
        with usual(*args, **kwargs) as executor:
            run = executor.run

            def shuffled_run(step, fn, units, *more, **named):
                names = list(units)
                random.Random(seed).shuffle(names)
                return run(step, fn, {name: units[name] for name in names}, *more, **named)

            executor.run = shuffled_run
            yield executor

    monkeypatch.setattr(overseg.cluster, "open_executor", shuffled)
    path = store(tmp_path / "v.zarr", broken, (4, 16, 16), None, 3, np.uint32)
    plan = overseg.correct(path, workers=1)
    assert plan.hash == expected[0]
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], expected[1])


def test_numpy_array_gives_the_same_and_is_left_alone(broken, expected):
    before = broken.copy()
    corrected, plan = overseg.correct(broken)
    assert plan.hash == expected[0]
    np.testing.assert_array_equal(corrected, expected[1])
    np.testing.assert_array_equal(broken, before)


def test_flipped_in_z_gives_the_same_decisions_and_voxels(broken, expected, tmp_path):
    path = store(tmp_path / "v.zarr", broken, (26, 60, 70), None, 3, np.uint16)
    straight = overseg.plan(path, workers=1).candidates.to_pydict()
    corrected, plan = overseg.correct(np.ascontiguousarray(broken[::-1]))
    flipped = plan.candidates.to_pydict()
    depth = SHAPE[0]

    def keyed(table, mirror):
        rows = {}
        for i in range(len(table["a"])):
            a, b, z, gap = (table[name][i] for name in ("a", "b", "z", "gap"))
            key = (b, a, depth - 1 - (z + gap + 1), gap) if mirror else (a, b, z, gap)
            rows[key] = (table["decision"][i], table["reason"][i], table["p"][i])
        return rows

    assert keyed(straight, False) == keyed(flipped, True)
    np.testing.assert_array_equal(corrected[::-1], expected[1])


def test_sparse_huge_labels_give_the_same_up_to_names(broken, tmp_path):
    names = np.zeros(int(broken.max()) + 1, np.uint64)
    names[1:] = np.uint64(2**63 - 5) - np.arange(len(names) - 1, dtype=np.uint64)[::-1] * np.uint64(10**12)
    corrected, plan = overseg.correct(names[broken])
    plain, other = overseg.correct(broken)
    assert plan.summary()["merged"] == other.summary()["merged"]
    np.testing.assert_array_equal(corrected, names[plain])
