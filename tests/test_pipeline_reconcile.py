"""Reconciled tables, fingerprints, summaries and changed units do not depend on how the volume was cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.cluster import open_executor
from overseg.errors import PlanError, TaskError
from overseg.kernels.reduce import Columns, ScanTables, merge_tables
from overseg.kernels.scan import scan_array, scan_block
from overseg.pipeline import parts, scantask
from overseg.pipeline.candidates import search
from overseg.pipeline.health import examine, warnings_of
from overseg.pipeline.parts import TimePoint, reconcile
from overseg.pipeline.plandata import Fills, Merges
from overseg.pipeline.reconcile import (
    Reconciled,
    fingerprint,
    fingerprint_text,
    from_tables,
)
from overseg.pipeline.scan import plan_scan, scan_task
from overseg.pipeline.seams import plan_seams, seam_task
from overseg.pipeline.touched import touched_units
from overseg.settings import RunSettings, Settings
from overseg.volume import Volume, open_volume


def cells(shape: tuple[int, int, int] = (14, 24, 30), seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 60, size=[-(-n // k) for n, k in zip(shape, (3, 6, 5), strict=True)])
    return np.kron(coarse, np.ones((3, 6, 5), int))[tuple(slice(n) for n in shape)].astype(np.uint16)


def whole(array: np.ndarray, gap: int = 2) -> Reconciled:
    box = tuple((0, n) for n in array.shape)
    return from_tables(scan_block(array, 0, (0, 0, 0), gap), 0, box, array.shape)


def files_of(vol: Volume, out: Path, workers: int = 3) -> tuple[list[Path], list[Path]]:
    """Paths of the scan tasks' tables, and of the seams'."""
    tasks = plan_scan(vol, Settings(), 1 << 30, workers)
    scans = [out / scan_task(vol, task, str(out))["path"] for task in tasks]
    return scans, [out / seam_task(seam, str(out))["path"] for seam in plan_seams(tasks)]


def assert_equal(found: Reconciled, expected: Reconciled) -> None:
    for part in ("layers", "summary"):
        for name, values in vars(getattr(expected, part)).items():
            np.testing.assert_array_equal(getattr(getattr(found, part), name), values, err_msg=name)
    for table in ("pairs", "stacked"):
        for name, values in getattr(expected, table).items():
            np.testing.assert_array_equal(getattr(found, table)[name], values, err_msg=name)
    np.testing.assert_array_equal(found.background_like, expected.background_like)
    np.testing.assert_array_equal(found.cut, expected.cut)
    assert found.fingerprint == expected.fingerprint


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Volume]:
    """A volume cut into small tasks and the given number of partitions."""
    monkeypatch.setattr(scantask, "_SIDE", 12)
    monkeypatch.setattr(scantask, "_LEAST", 1)

    def save(array: np.ndarray, chunks: tuple[int, int, int], partitions: int = 1) -> Volume:
        monkeypatch.setattr(scantask, "_PARTITION", -(-array.size // partitions))
        path = tmp_path / "v.zarr"
        zarr.create_array(path, shape=array.shape, dtype=array.dtype, chunks=chunks)[...] = array
        return open_volume(path)

    return save


def in_parts(
    paths: list[Path], array: np.ndarray, folder: Path, rule: str = "default", mark: str | None = None
) -> TimePoint:
    box = tuple((0, n) for n in array.shape)
    with open_executor(RunSettings(workers=1)) as executor:
        return reconcile(
            paths, 0, 2, box, array.shape,
            rows=1000, mark=mark, executor=executor, run=folder / "run", rule=rule,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
@pytest.mark.parametrize(
    ("chunks", "partitions", "rows"), [((3, 12, 7), 1, 99), ((1, 24, 30), 5, 200), ((14, 5, 30), 13, 1)]
)
@pytest.mark.parametrize("rule", ["default", "paper"])
def test_cuts_partitions_parts_and_types_do_not_show(
    saved: Callable[..., Volume],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: type,
    chunks: tuple[int, int, int],
    partitions: int,
    rows: int,
    rule: str,
) -> None:
    monkeypatch.setattr(parts, "_ROWS", rows)
    array = cells()
    scans, seams = files_of(saved(array.astype(dtype), chunks, partitions), tmp_path)
    found, expected = in_parts([*seams, *reversed(scans)], array, tmp_path, rule), whole(array)
    assert found.layers.parts == min(partitions, -(-1000 // rows))
    assert found.fingerprint == expected.fingerprint
    assert found.labels == len(expected.layers.labels)
    for name, values in examine(expected).plain().items():
        assert found.health.plain()[name] == values, name
    among = search(
        expected.layers, expected.pairs, expected.stacked, 2, rule=rule, excluded=expected.background_like
    )
    assert found.search().touching == among.touching
    for name, values in vars(among.candidates).items():
        np.testing.assert_array_equal(getattr(found.search().candidates, name), values, err_msg=name)


@pytest.mark.parametrize(("partitions", "rows"), [(1, 1000), (5, 300), (13, 10)])
def test_rows_of_labels_come_back_from_disk(
    saved: Callable[..., Volume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partitions: int, rows: int
) -> None:
    monkeypatch.setattr(parts, "_ROWS", rows)
    array = cells()
    array[0] = 7
    scans, seams = files_of(saved(array, (3, 12, 7), partitions), tmp_path)
    store, layers = in_parts([*scans, *seams], array, tmp_path).layers, whole(array).layers
    rng = np.random.default_rng(0)
    for some in (layers.labels, layers.labels[:0], rng.choice(layers.labels, 30), layers.labels[[5, 5, 2]]):
        for name, values in vars(layers.take(some)).items():
            np.testing.assert_array_equal(getattr(store.take(some), name), values, err_msg=name)
        for name, values in vars(layers.facts(some)).items():
            np.testing.assert_array_equal(getattr(store.facts(some), name), values, err_msg=name)
    assert sorted(store.sizes().tolist()) == sorted(layers.sizes().tolist())


def test_some_rows_of_a_table_in_memory() -> None:
    layers, _, _ = scan_array(cells(), 2)
    for name, values in vars(layers.take(layers.labels)).items():
        np.testing.assert_array_equal(getattr(layers, name), values, err_msg=name)
    some = layers.take(layers.labels[[7, 3]])
    assert some.labels.tolist() == layers.labels[[3, 7]].tolist()
    kept = np.isin(layers.label, some.labels)
    np.testing.assert_array_equal(some.sxx, layers.sxx[kept])
    np.testing.assert_array_equal(some.back, layers.back[kept])
    assert some.facts(some.labels).voxels.tolist() == [
        int(layers.area[layers.label == label].sum()) for label in some.labels
    ]


def test_what_an_earlier_run_reconciled_is_used_while_the_volume_is_the_same(
    saved: Callable[..., Volume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = cells()
    scans, seams = files_of(saved(array, (3, 12, 7)), tmp_path)
    before = in_parts([*scans, *seams], array, tmp_path, mark="one")
    with monkeypatch.context() as patch:
        patch.setattr(parts, "from_rows", None)
        again = in_parts([*scans, *seams], array, tmp_path, mark="one")
        assert (again.fingerprint, again.flat) == (before.fingerprint, before.flat)
        for mark in (None, "two"):
            with pytest.raises(TaskError):
                in_parts([*scans, *seams], array, tmp_path, mark=mark)
    assert in_parts([*scans, *seams], array, tmp_path, mark="two").fingerprint == before.fingerprint


def test_a_damaged_part_is_named(saved: Callable[..., Volume], tmp_path: Path) -> None:
    array = cells()
    scans, seams = files_of(saved(array, (3, 12, 7)), tmp_path)
    found = in_parts([*scans, *seams], array, tmp_path)
    for kind in ("part", "met"):
        path = found.layers.path(0, kind)
        content = path.read_bytes()
        for wrong in (content[:-1], b"", content[: len(content) // 2]):
            path.write_bytes(wrong)
            with pytest.raises(PlanError, match="damaged") as caught:
                found.search() if kind == "met" else found.layers.sizes()
            assert str(path) in str(caught.value)


def shuffled(columns: Columns, rng: np.random.Generator) -> Columns:
    order = rng.permutation(len(next(iter(columns.values()))))
    return {name: values[order] for name, values in columns.items()}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 13), st.integers(0, 23), st.integers(0, 29))
def test_the_fingerprint_sees_every_voxel_and_no_order(seed: int, z: int, y: int, x: int) -> None:
    array, rng = cells(), np.random.default_rng(seed)
    tables = scan_block(array, 0, (0, 0, 0), 2)
    mixed = ScanTables(*(shuffled(getattr(tables, name), rng) for name in ("layers", "pairs", "stacked")))
    assert fingerprint(mixed) == fingerprint(tables) < 2**128
    array[z, y, x] += 1
    assert fingerprint(scan_block(array, 0, (0, 0, 0), 2)) != fingerprint(tables)
    assert fingerprint(tables, t=1) != fingerprint(tables)


def test_fingerprints_of_times_add_up() -> None:
    assert fingerprint_text([2**128 - 1, 3]) == f"{2:032x}"
    assert fingerprint_text([]) == "0" * 32


def test_the_rows_of_moved_cells_differ() -> None:
    array = np.zeros((4, 8, 8), np.uint8)
    array[1:3, 1:4, 1:4] = 5
    moved = np.roll(array, 2, axis=2)
    assert whole(array).fingerprint != whole(moved).fingerprint


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_merging_is_associative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 5, size=(3, 6, 6))
    parts = [scan_block(array[:, y : y + 1], 0, (0, y, 0), 2) for y in range(6)]
    rng.shuffle(parts)
    cut = int(rng.integers(1, 6))
    nested = merge_tables([merge_tables(parts[:cut]), merge_tables(parts[cut:])])
    box = ((0, 3), (0, 6), (0, 6))
    assert_equal(from_tables(nested, 0, box, array.shape), whole(array))


def test_rows_are_found_by_label_and_layer() -> None:
    rng = np.random.default_rng(0)
    array = cells()
    array[rng.random(array.shape) < 0.7] = 0
    layers, _, _ = scan_array(array, 2)
    rows = {key: i for i, key in enumerate(zip(layers.label.tolist(), layers.z.tolist(), strict=True))}
    labels, z = rng.choice(layers.labels, 500), rng.integers(-2, 17, 500)
    expected = [rows.get(key, -1) for key in zip(labels.tolist(), z.tolist(), strict=True)]
    assert layers.row(labels, z).tolist() == expected
    assert layers.row(labels[:0], z[:0]).tolist() == []


def test_summary_and_background_like() -> None:
    array = np.zeros((6, 10, 10), np.uint8)
    array[:, :, 0] = 1  # on five faces, 60 voxels
    array[1:5, 2:8, 2:8] = 2  # 144 voxels of 600
    array[1, 9, 9] = 3
    found = whole(array)
    assert found.summary.voxels.tolist() == [60, 144, 1]
    assert (found.summary.z0[1], found.summary.z1[1], found.summary.x1[2]) == (1, 5, 10)
    assert found.background_like.tolist() == [2]
    array[0, 0, :] = 1
    assert whole(array).background_like.tolist() == [1, 2]


def test_labels_cut_by_the_region_are_known() -> None:
    array = np.zeros((6, 10, 10), np.uint8)
    array[0:3, 0:3, 0:3], array[2:5, 5:10, 2:4], array[2:4, 6:8, 5:7] = 1, 2, 3
    box = ((0, 5), (0, 8), (0, 10))
    part = scan_block(array[0:5, 0:8], 0, (0, 0, 0), 2)
    found = from_tables(part, 0, box, array.shape)
    # 1 meets faces of the volume only; 2 ends at layer 5 and row 8 of the region, 3 at row 8.
    assert found.cut.tolist() == [2, 3]


@pytest.mark.parametrize("chunks", [(3, 12, 7), (14, 5, 30), (1, 1, 30)])
def test_touched_units_hold_all_changes_and_little_more(
    saved: Callable[..., Volume], tmp_path: Path, chunks: tuple[int, int, int]
) -> None:
    array = cells()
    vol = saved(array, chunks)
    layers = whole(array).layers
    old = np.unique(array)[[4, 9]].astype(np.uint64)
    merges = Merges(np.zeros(2, np.int64), old, old[:1].repeat(2))
    runs = [(3, 7, 2, 20), (11, 0, 29, 30)]
    z, y, x0, x1 = np.array(runs, np.int64).T
    fills = Fills(np.zeros(2, np.int64), z, y, x0, x1, old)
    changed = np.isin(array, old)
    for row, (a, b, c, d) in enumerate(runs):
        changed[a, b, c:d] = row >= 0
    grid = vol.grid()
    needed = {unit for unit in range(grid.n) if changed[grid.box(unit)].any()}
    found = set(touched_units(grid, {0: layers}, merges, fills).tolist())
    assert needed <= found
    assert len(found) < len(needed) + grid.n / 4
    nothing = Merges(merges.t[:0], old[:0], old[:0])
    only_fills = set(touched_units(grid, {0: layers}, nothing, fills).tolist())
    expected = {u for u in range(grid.n) for a, b, c, d in runs if boxes_meet(grid.box(u), a, b, c, d)}
    assert only_fills == expected


def boxes_meet(box: tuple[slice, slice, slice], z: int, y: int, x0: int, x1: int) -> bool:
    inside = box[0].start <= z < box[0].stop and box[1].start <= y < box[1].stop
    return inside and box[2].start < x1 and x0 < box[2].stop


def disc(shape: tuple[int, int], y: int, x: int, radius: float) -> np.ndarray:
    ys, xs = np.ogrid[: shape[0], : shape[1]]
    return (ys - y) ** 2 + (xs - x) ** 2 <= radius**2


def balls(n: int = 30, shape: tuple[int, int, int] = (20, 120, 120)) -> np.ndarray:
    """Round cells on a grid, none of them special."""
    array = np.zeros(shape, np.uint16)
    for i in range(n):
        y, x = divmod(i, 6)
        for z in range(4, 15):
            radius = 8 - abs(z - 9)
            array[z][disc(shape[1:], 10 + 20 * y, 10 + 20 * x, radius)] = i + 1
    return array


def test_a_sound_volume_gives_no_warning() -> None:
    assert warnings_of(examine(whole(balls()))) == []


def test_background_without_a_zero_is_reported() -> None:
    array = balls()
    array[array == 0] = 500
    lines = warnings_of(examine(whole(array)))
    assert len(lines) == 1
    assert "--background 0 500" in lines[0]


def test_unstitched_masks_are_reported() -> None:
    array = balls().astype(np.int64)
    array[array > 0] += 1000 * np.nonzero(array)[0]
    lines = warnings_of(examine(whole(array)))
    assert len(lines) == 1
    assert "never stitched" in lines[0]


def test_a_semantic_mask_is_reported() -> None:
    array = balls()
    lines = warnings_of(examine(whole((array > 0).astype(np.uint8))))
    assert len(lines) == 1
    assert "classes" in lines[0]


def test_ids_used_twice_are_reported() -> None:
    array = balls()
    array[array == 30] = 1
    health = examine(whole(array))
    assert health.far_pieces == 1 and health.far_named.tolist() == [1]
    assert "used twice" in warnings_of(health)[0]
    tall = np.zeros((40, 30, 30), np.uint8)
    tall[2:5, 5:10, 5:10], tall[30:33, 5:10, 5:10] = 4, 4
    assert examine(whole(tall)).far_named.tolist() == [4]


def test_outlines_are_reported() -> None:
    array = balls()
    inner = np.zeros_like(array)
    for z in range(array.shape[0]):
        core = array[z].astype(bool)
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            core &= np.roll(array[z], step, axis) == array[z]
        inner[z][core] = 1
    array[inner > 0] = 0
    lines = warnings_of(examine(whole(array)))
    assert len(lines) == 1
    assert "rings" in lines[0]


def test_an_empty_volume_is_fine() -> None:
    found = whole(np.zeros((5, 5, 5), np.uint8))
    assert found.fingerprint == 0
    assert len(found.background_like) == len(found.cut) == 0
    assert warnings_of(examine(found)) == []
