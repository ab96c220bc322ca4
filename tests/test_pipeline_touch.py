"""Contacts and solids of a scanned volume are those of the whole array, whatever the layout and the cut."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from twins.touch_twin import contacts_of, solids_of

import overseg
from overseg.cluster import open_executor
from overseg.kernels.solids import Solids, Touches, touch_array
from overseg.kernels.tables import BACKGROUND_LIKE, CUT, TOO_LARGE
from overseg.model import Head, load, save
from overseg.model.touching import TOUCHING
from overseg.pipeline import parts, scantask
from overseg.pipeline import scan as scanning
from overseg.pipeline import seams as seaming
from overseg.pipeline.plan import make_plan, reconcile_volume, scan_volume
from overseg.pipeline.scan import plan_scan, predicted_peak, receipt_fits, scan_task
from overseg.pipeline.scantables import ScanFile
from overseg.pipeline.seams import plan_seams, seam_task
from overseg.pipeline.solidstore import SolidStore
from overseg.settings import RunSettings, Settings
from overseg.volume import Volume, open_volume

GIB = 1 << 30
TILTED = Settings(kind="tilted")


def cells(shape: tuple[int, int, int] = (14, 24, 30), seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 60, size=[-(-n // k) for n, k in zip(shape, (3, 6, 5), strict=True)])
    array = np.kron(coarse, np.ones((3, 6, 5), int))[tuple(slice(n) for n in shape)]
    array[rng.random(shape) < 0.05] = 7
    return array.astype(np.uint16)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Volume]:
    """A volume cut into small tasks and the given number of partitions."""
    monkeypatch.setattr(scantask, "_SIDE", 12)
    monkeypatch.setattr(scantask, "_LEAST", 1)
    monkeypatch.setattr(scantask, "_SHARE", 10_000)
    monkeypatch.setattr(parts, "_ROWS", 300)

    def save(array: np.ndarray, chunks: tuple[int, ...], partitions: int = 1, **more: object) -> Volume:
        monkeypatch.setattr(scantask, "_PARTITION", -(-array.size // partitions))
        path = tmp_path / "v.zarr"
        zarr.create_array(path, shape=array.shape, dtype=array.dtype, chunks=chunks, **more)[...] = array
        return open_volume(path)

    return save


def found_in(vol: Volume, chosen: Settings, run: Path) -> tuple[SolidStore, Solids, Touches]:
    """All contacts and solids of a volume by way of the disk, sorted."""
    with open_executor(RunSettings(workers=1)) as executor:
        scanned = scan_volume(vol, chosen, executor, run, None)
        layers = reconcile_volume(scanned, 0, vol, chosen, executor, run, None).layers
    store = SolidStore(layers)
    contacts = np.concatenate([store.contacts(part).matrix for part in range(layers.parts)])
    touches = Touches.of(contacts)
    return (
        store,
        store.solids(np.concatenate([store.all_of(part).label for part in range(layers.parts)])),
        touches.take(np.lexsort([touches.b, touches.a])),
    )


def assert_same(found: Solids | Touches, expected: Solids | Touches, *but: str) -> None:
    for name, values in vars(expected).items():
        if name not in but:
            np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)


LAYOUTS = [
    {"chunks": (3, 12, 7), "partitions": 5},
    {"chunks": (1, 24, 30)},
    {"chunks": (14, 5, 30), "partitions": 13},
    {"chunks": (2, 3, 4)},
    {"chunks": (14, 24, 30)},
    {"chunks": (3, 6, 5), "shards": (6, 12, 10), "partitions": 2},
    {"chunks": (7, 1, 30)},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(map(str, layout["chunks"])))
def test_layouts_do_not_show(saved: Callable[..., Volume], tmp_path: Path, layout: dict) -> None:
    array = cells()
    _, solids, touches = found_in(saved(array, **layout), TILTED, tmp_path / "run")
    expected = touch_array(array)
    assert_same(solids, expected[0], "flags")
    assert_same(touches, expected[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, ">u4", np.uint64])
def test_integer_types_and_backgrounds_do_not_show(
    saved: Callable[..., Volume], tmp_path: Path, dtype: str | type
) -> None:
    array = cells().astype(dtype)
    chosen = Settings(kind="both", background=(0, 3, 7))
    _, solids, touches = found_in(saved(array, (4, 8, 9)), chosen, tmp_path / "run")
    expected = touch_array(array, (0, 3, 7))
    assert_same(solids, expected[0], "flags")
    assert_same(touches, expected[1])


@pytest.mark.parametrize("region", ["2:13,0:24,0:30", "3:14,5:23,11:14", "0:5,6:24,10:25", "0:4,23:24,0:30"])
def test_only_what_lies_in_the_region_counts(
    saved: Callable[..., Volume], tmp_path: Path, region: str
) -> None:
    array = cells()
    chosen = Settings(kind="tilted", region=region)
    _, solids, touches = found_in(saved(array, (3, 7, 8)), chosen, tmp_path / "run")
    # Labels keep their places in the volume, so all else becomes background that no face looks at.
    inside = tuple(slice(*span) for span in chosen.region)
    expected = touch_array(array[inside])
    z0, y0, x0 = (lo for lo, _ in chosen.region)
    np.testing.assert_array_equal(solids.label, expected[0].label)
    np.testing.assert_array_equal(solids.box - np.repeat([z0, y0, x0], 2), expected[0].box)
    for name in ("n", "faces", "bare"):
        np.testing.assert_array_equal(getattr(solids, name), getattr(expected[0], name), err_msg=name)
    for name in ("a", "b", "faces", "signed"):
        np.testing.assert_array_equal(getattr(touches, name), getattr(expected[1], name), err_msg=name)
    shift = np.array([z0, y0, x0])
    np.testing.assert_array_equal(solids.sums[:, :3], expected[0].sums[:, :3] + solids.n[:, None] * shift)
    moved = expected[1].sums[:, :, :3] + 2 * touches.faces[:, :, None] * shift
    np.testing.assert_array_equal(touches.sums[:, :, :3], moved)


def test_some_labels_come_back_from_disk(saved: Callable[..., Volume], tmp_path: Path) -> None:
    array = cells()
    array[:, 0] = 59
    store, _, _ = found_in(saved(array, (3, 12, 7), 5), TILTED, tmp_path / "run")
    expected, _ = touch_array(array)
    assert store.layers.parts > 1
    rng = np.random.default_rng(0)
    for some in (expected.label[:0], rng.choice(expected.label, 30), expected.label[[5, 5, 2]]):
        assert_same(store.solids(some), expected.take(expected.index(np.unique(some))), "flags")
    own = [store.all_of(part).label for part in range(store.layers.parts)]
    assert sorted(np.concatenate(own).tolist()) == expected.label.tolist()


def test_flags_are_those_of_the_layers(saved: Callable[..., Volume], tmp_path: Path) -> None:
    array = cells()
    array[3:9, 3:20, 3:25] = 65535
    chosen = Settings(kind="tilted", region="0:12,0:24,0:30")
    store, solids, _ = found_in(saved(array, (3, 12, 7), 3), chosen, tmp_path / "run")
    for flag in (TOO_LARGE, BACKGROUND_LIKE, CUT):
        assert solids.label[solids.flags & flag > 0].tolist() == store.layers.flagged(flag).tolist()
    assert solids.label[solids.flags & BACKGROUND_LIKE > 0].tolist() == [7, 65535]
    assert (solids.flags & CUT > 0).any()


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.uint64,
        array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5),
        elements=st.sampled_from([0, 1, 2, 2**63 - 1, 2**63]),
    ),
    st.sampled_from([(0,), (), (0, 2)]),
)
def test_an_array_in_memory_equals_the_definition(array: np.ndarray, background: tuple[int, ...]) -> None:
    solids, touches = touch_array(array, background)
    rows = np.concatenate([solids.n[:, None], solids.box, solids.sums, solids.faces, solids.bare], axis=1)
    labels = solids.label.tolist()
    assert dict(zip(labels, rows.tolist(), strict=True)) == solids_of(array, background)
    pairs = list(zip(touches.a.tolist(), touches.b.tolist(), strict=True))
    assert dict(zip(pairs, touches.matrix[:, 2:].tolist(), strict=True)) == contacts_of(array, background)
    assert labels == sorted(labels) and pairs == sorted(pairs)
    assert_same(Solids.of(solids.matrix), solids)
    assert_same(Touches.of(touches.matrix), touches)


def test_time_points_are_kept_apart(saved: Callable[..., Volume], tmp_path: Path) -> None:
    array = np.stack([cells(seed=t) for t in range(3)])
    root = zarr.create_group(tmp_path / "t.zarr", zarr_format=2)
    kinds = {"t": "time", "z": "space", "y": "space", "x": "space"}
    axes = [{"name": name, "type": kind} for name, kind in kinds.items()]
    scale = [{"type": "scale", "scale": [1.0] * 4}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    root.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    root.attrs["image-label"] = {"version": "0.4"}
    root.create_array("0", shape=array.shape, dtype="u2", chunks=(2, 5, 12, 10))[...] = array
    vol = open_volume(tmp_path / "t.zarr")
    assert vol.n_times == 3
    with open_executor(RunSettings(workers=1)) as executor:
        scanned = scan_volume(vol, TILTED, executor, tmp_path / "run", None)
        for t in range(3):
            found = reconcile_volume(scanned, t, vol, TILTED, executor, tmp_path / "run", None)
            expected, _ = touch_array(array[t])
            assert_same(SolidStore(found.layers).solids(expected.label), expected, "flags")


def test_every_border_between_tasks_has_one_seam(saved: Callable[..., Volume]) -> None:
    vol = saved(cells(), (3, 12, 7))
    tasks = plan_scan(vol, TILTED, GIB, workers=3)
    seams = plan_seams(tasks)
    assert len({seam.name for seam in seams}) == len(seams)
    z, y, x = (len({task.box[axis] for task in tasks}) for axis in range(3))
    assert len(tasks) == z * y * x and min(z, y, x) > 1
    by_axis = [sum(seam.axis == axis for seam in seams) for axis in range(3)]
    assert by_axis == [(z - 1) * y * x, z * (y - 1) * x, z * y * (x - 1)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("region", [None, "1:22,2:23,0:29"])
def test_any_tasks_may_be_halved(
    saved: Callable[..., Volume],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    region: str | None,
) -> None:
    """Those beside a half are whole, or halved too; then a unit is rewritten, and other tables are kept."""
    array = cells((23, 24, 30), seed)
    vol = saved(array, (1, 12, 7), partitions=2)
    monkeypatch.setattr(scantask, "_SHARE", 1)
    chosen = Settings(kind="both", max_gap=1, region=region)
    usual, rng, given_up = scanning.scan_task, np.random.default_rng(seed), []

    def hungry(vol: Volume, task: scanning.ScanTask, *more: str) -> dict:
        if task.z[1] - task.z[0] >= 4 and rng.random() < 0.4:
            given_up.append(task.name)
            raise MemoryError
        return usual(vol, task, *more)

    for again in range(2):
        monkeypatch.setattr(scanning, "scan_task", usual)
        _, *whole = found_in(vol, chosen, tmp_path / f"whole{again}")
        monkeypatch.setattr(scanning, "scan_task", hungry)
        _, *parts = found_in(vol, chosen, tmp_path / "run")
        for found, expected in zip(parts, whole, strict=True):
            assert_same(found, expected)
        zarr.open_array(tmp_path / "v.zarr")[9, 13, 8] = 58
    assert len(given_up) > 3
    folder = tmp_path / "run" / "scan"
    assert any(len(path.stem.split("-")) > 7 for path in folder.glob("seam-[yx]-*.tables"))


def test_gap_alone_costs_nothing(saved: Callable[..., Volume], tmp_path: Path) -> None:
    """No other files, tables or seams than before there were contacts."""
    vol = saved(cells(), (3, 12, 7))
    tasks = plan_scan(vol, Settings(), GIB, workers=3)
    others = plan_scan(vol, TILTED, GIB, workers=3)
    assert not {task.name for task in tasks} & {task.name for task in others}
    assert all(predicted_peak(one) < predicted_peak(other) for one, other in zip(tasks, others, strict=True))
    for task in tasks:
        scan_task(vol, pickle.loads(pickle.dumps(task)), str(tmp_path / "scan"))
        file = ScanFile(tmp_path / "scan" / f"{task.name}.tables", 3)
        assert not file.groups(0, "contacts") and not file.groups(0, "surfaces")
        assert file._index.shape[1] == 3
    for seam in plan_seams(tasks):
        assert seam.axis == 0
        seam_task(seam, str(tmp_path / "scan"))
    kinds = {"".join(path.suffixes) for path in (tmp_path / "scan").iterdir()}
    assert kinds == {".tables", ".stamps.json", ".first.npy.zst", ".last.npy.zst"}


# Of a plan for gaps alone, on the volume below, and of its only task: contacts are no part of either.
HASH, TASK = "79eee4a350a66a48799c651cb4687f02", "t0-z0-y0-x0-5764fa16"


def test_the_plan_hash_of_gaps_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "v.zarr"
    array = cells()
    zarr.create_array(path, shape=array.shape, dtype=array.dtype, chunks=(3, 12, 7))[...] = array
    vol = open_volume(path)
    assert [task.name for task in plan_scan(vol, Settings(), GIB)] == [TASK]
    assert overseg.plan(str(path), workers=1).hash == HASH


@pytest.fixture
def with_contacts(tmp_path: Path) -> str:
    """A model file: the shipped heads for gaps, and one of random weights for contacts."""
    n, shipped = len(TOUCHING), load("default")
    weights = np.random.default_rng(0).normal(size=(n, 1))
    far, numbers = np.full(n, 1e9), (6.0, 1.0, 0.1, 0.9)
    head = Head(TOUCHING, np.zeros(n), np.ones(n), -far, far, *numbers, (weights,), (np.zeros(1),))
    save(tmp_path / "own.safetensors", {**shipped.heads, "touching": head}, shipped.card)
    return str(tmp_path / "own.safetensors")


@pytest.mark.parametrize("shipped", [True, False])
def test_a_plan_with_contacts_decides_on_gaps_as_before(
    tmp_path: Path, with_contacts: str, shipped: bool
) -> None:
    """Looking for both adds rows of contacts to those of gaps; contacts alone have no others."""
    path = tmp_path / "v.zarr"
    array = cells()
    array[7], array[8:] = 0, array[8:] + 60  # every cell there ends at an empty layer
    zarr.create_array(path, shape=array.shape, dtype=array.dtype, chunks=(3, 12, 7))[...] = array
    vol = open_volume(path)
    model, tables, hashes = "default" if shipped else with_contacts, {}, set()
    with open_executor(RunSettings(workers=1)) as executor:
        for kind in ("gap", "both", "tilted"):
            plan = make_plan(vol, Settings(kind=kind, model=model), executor, tmp_path / kind)
            tables[kind] = plan.candidates
            hashes.add(plan.hash)
    touches = {kind: pc.equal(table["kind"], "touch") for kind, table in tables.items()}
    assert len(tables["gap"]) > 0 and not pc.any(touches["gap"]).as_py()
    among, alone = tables["both"].filter(pc.invert(touches["both"])), tables["gap"]
    # Where it is not known, `unusual` is NaN, which equals nothing.
    assert among.drop_columns("unusual").equals(alone.drop_columns("unusual"))
    assert np.array_equal(among["unusual"].to_numpy(), alone["unusual"].to_numpy(), equal_nan=True)
    # Cells of so small a volume are cut by its border: what looks like one is shown to a person.
    assert {"merge", "review"} & set(tables["both"].filter(touches["both"])["decision"].to_pylist())
    assert len(tables["tilted"]) > 0 and pc.all(touches["tilted"]).as_py()
    assert len(hashes) == 3


def test_a_rewritten_unit_is_counted_anew_and_nothing_else(
    saved: Callable[..., Volume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = cells()
    vol = saved(array, (3, 12, 7))
    found_in(vol, TILTED, tmp_path / "run")
    done: list[str] = []
    scan, seam = scanning.scan_task, seaming.seam_task

    def scan_noted(vol: Volume, task: scanning.ScanTask, *more: str) -> dict:
        done.append(task.name)
        return scan(vol, task, *more)

    def seam_noted(task: seaming.SeamTask, folder: str) -> dict:
        done.append(task.name)
        return seam(task, folder)

    monkeypatch.setattr(scanning, "scan_task", scan_noted)
    monkeypatch.setattr(seaming, "seam_task", seam_noted)
    found_in(vol, TILTED, tmp_path / "run")
    assert done == []
    zarr.open_array(tmp_path / "v.zarr")[4, 13, 8] = array[4, 13, 8] = 58
    _, solids, touches = found_in(vol, TILTED, tmp_path / "run")
    expected = touch_array(array)
    assert_same(solids, expected[0], "flags")
    assert_same(touches, expected[1])
    seams = [name for name in done if name.startswith("seam")]
    assert len(done) - len(seams) == 1
    for prefix in ("seam-t", "seam-y-", "seam-x-"):
        assert 1 <= sum(name.startswith(prefix) for name in seams) <= 2


def test_a_run_cut_short_goes_on(saved: Callable[..., Volume], tmp_path: Path) -> None:
    """Receipts of some tasks and seams, the last one torn; then the rest is done."""
    array = cells()
    vol = saved(array, (3, 12, 7))
    found_in(vol, TILTED, tmp_path / "run")
    for step in ("scan", "seam"):
        path = tmp_path / "run" / "receipts" / f"{step}.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:20])
        for line in lines[len(lines) // 2 :]:
            (tmp_path / "run" / "scan" / json.loads(line)["receipt"]["path"]).unlink()
    _, solids, touches = found_in(vol, TILTED, tmp_path / "run")
    expected = touch_array(array)
    assert_same(solids, expected[0], "flags")
    assert_same(touches, expected[1])


def test_a_lost_plane_is_noticed(saved: Callable[..., Volume], tmp_path: Path) -> None:
    vol = saved(cells(), (3, 12, 7))
    task = next(task for task in plan_scan(vol, TILTED, GIB, workers=3) if all(task.beside[1::2]))
    for side in ("back", "right"):
        receipt = scan_task(vol, task, str(tmp_path))
        assert receipt_fits(vol, task, receipt, str(tmp_path))
        (tmp_path / f"{task.name}.{side}.npy.zst").unlink()
        assert not receipt_fits(vol, task, receipt, str(tmp_path))


def test_what_does_not_fit_is_split(tmp_path: Path) -> None:
    path = tmp_path / "v.zarr"
    zarr.create_array(path, shape=(64, 256, 256), dtype="u4", chunks=(16, 64, 64))
    vol = open_volume(path)
    for kind, memory in itertools.product(("gap", "tilted"), (GIB, 40 << 20, 24 << 20)):
        tasks = plan_scan(vol, Settings(kind=kind), memory)
        assert max(map(predicted_peak, tasks)) <= memory
