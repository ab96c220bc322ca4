"""Scan tasks give the tables of the whole array, whatever the layout and the cut."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zarr

from overseg.errors import InputError, PlanError, ResourceError, StorageError, VolumeError
from overseg.kernels.reduce import ScanTables, merge_tables
from overseg.kernels.scan import scan_block
from overseg.pipeline import scantask
from overseg.pipeline.scan import (
    all_units,
    plan_scan,
    predicted_peak,
    receipt_fits,
    scan_task,
)
from overseg.pipeline.scantables import TABLES, ScanFile
from overseg.pipeline.seams import plan_seams, seam_task
from overseg.settings import Settings
from overseg.volume import Volume, open_volume, unit_digest

GIB = 1 << 30


def tissue(shape: tuple[int, int, int] = (17, 40, 50), seed: int = 0) -> np.ndarray:
    """Blocks of cells with gaps, noise and large ids."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 40, size=[-(-n // k) for n, k in zip(shape, (4, 7, 9), strict=True)])
    cells = np.kron(coarse, np.ones((4, 7, 9), int))[tuple(slice(n) for n in shape)]
    cells[rng.random(shape) < 0.05] = 7
    cells[5] = 0
    cells[6, :20] = 3
    return cells.astype(np.uint16)


def stored(folder: Path, array: np.ndarray, chunks: tuple[int, ...], **more: object) -> Volume:
    target = zarr.create_array(folder, shape=array.shape, dtype=array.dtype, chunks=chunks, **more)
    target[...] = array
    return open_volume(folder)


def scanned(
    vol: Volume, settings: Settings, out: Path, memory: int = GIB, workers: int = 1, t: int = 0
) -> ScanTables:
    """The tables of all tasks and seams, from their files, added up."""
    tasks = plan_scan(vol, settings, memory, workers)
    paths = [scan_task(vol, pickle.loads(pickle.dumps(task)), str(out))["path"] for task in tasks]
    paths += [seam_task(seam, str(out))["path"] for seam in plan_seams(tasks)]
    files = [ScanFile(out / path, settings.max_gap + 1) for path in paths]
    return merge_tables([ScanTables(*(file.read(t, table) for table in TABLES)) for file in files])


def assert_same(found: ScanTables, expected: ScanTables) -> None:
    for table in TABLES:
        left, right = getattr(found, table), getattr(expected, table)
        assert list(left) == list(right)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=f"{table}.{name}")


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts as for huge volumes, in small ones."""
    monkeypatch.setattr(scantask, "_SIDE", 16)
    monkeypatch.setattr(scantask, "_LEAST", 1)


LAYOUTS = [
    {"chunks": (17, 40, 50)},
    {"chunks": (1, 40, 50)},
    {"chunks": (5, 11, 13)},
    {"chunks": (4, 64, 8)},
    {"chunks": (2, 3, 50)},
    {"chunks": (3, 10, 5), "shards": (6, 20, 25)},
    {"chunks": (7, 9, 50), "zarr_format": 2},
    {"chunks": (64, 64, 64)},
]


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(map(str, layout["chunks"])))
@pytest.mark.parametrize("workers", [1, 7])
def test_layouts_do_not_show(tmp_path: Path, layout: dict, workers: int) -> None:
    array = tissue()
    vol = stored(tmp_path / "v.zarr", array, **layout)
    found = scanned(vol, Settings(max_gap=2), tmp_path / "scan", workers=workers)
    assert_same(found, scan_block(array, 0, (0, 0, 0), 2))


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("gap", [1, 4])
def test_segments_are_joined_for_any_gap(tmp_path: Path, gap: int) -> None:
    array = tissue((19, 20, 18), seed=gap)
    vol = stored(tmp_path / "v.zarr", array, (1, 20, 18))
    settings = Settings(max_gap=gap, background=(0, 3))
    tasks = plan_scan(vol, settings, GIB, workers=4)
    assert len(plan_seams(tasks)) == len(tasks) - 1 > 1
    found = scanned(vol, settings, tmp_path / "scan", workers=4)
    assert_same(found, scan_block(array, 0, (0, 0, 0), gap, (0, 3)))


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("region", ["2:15,0:40,0:50", "3:17,5:33,11:12", "0:4,39:40,0:50"])
def test_a_region_is_scanned_alone(tmp_path: Path, region: str) -> None:
    array = tissue()
    vol = stored(tmp_path / "v.zarr", array, (3, 16, 7))
    settings = Settings(region=region)
    (z0, z1), (y0, y1), (x0, x1) = settings.region
    found = scanned(vol, settings, tmp_path / "scan", workers=3)
    assert_same(found, scan_block(array[z0:z1, y0:y1, x0:x1], 0, (z0, y0, x0), 2))
    boxes = [vol.grid().box(unit) for unit in all_units(plan_scan(vol, settings, GIB))]
    assert all(b[0].stop > z0 and b[0].start < z1 and b[2].stop > x0 and b[2].start < x1 for b in boxes)


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("chunks", [(1, 1, 5, 20, 30), (2, 1, 17, 10, 50)])
def test_time_points_are_kept_apart(tmp_path: Path, chunks: tuple[int, ...]) -> None:
    array = np.stack([tissue(seed=t) for t in range(3)])
    root = zarr.create_group(tmp_path / "v.zarr", zarr_format=2)
    image = root.create_group("labels").create_group("cells")
    kinds = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
    axes = [{"name": name, "type": kind} for name, kind in kinds.items()]
    scale = [{"type": "scale", "scale": [1.0] * 5}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    image.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    image.attrs["image-label"] = {"version": "0.4"}
    root["labels"].attrs["labels"] = ["cells"]
    target = image.create_array("0", shape=(3, 1, 17, 40, 50), dtype="u2", chunks=chunks)
    target[:, 0] = array
    vol = open_volume(tmp_path / "v.zarr")
    assert vol.n_times == 3
    for t in range(3):
        found = scanned(vol, Settings(), tmp_path / "scan", workers=2, t=t)
        assert_same(found, scan_block(array[t], 0, (0, 0, 0), 2))


def test_every_unit_is_read_once_and_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scantask, "_SIDE", 16)
    monkeypatch.setattr(scantask, "_LEAST", 1)
    vol = stored(tmp_path / "v.zarr", tissue(), (3, 16, 7))
    read: Counter[int] = Counter()
    read_unit = Volume.read_unit

    def counted(self: Volume, unit: int, level: int = 0) -> np.ndarray:
        read[unit] += 1
        return read_unit(self, unit, level)

    monkeypatch.setattr(Volume, "read_unit", counted)
    tasks = plan_scan(vol, Settings(), GIB, workers=3)
    digests: dict[int, bytes] = {}
    for task in tasks:
        units, marks = ScanFile(tmp_path / scan_task(vol, task, str(tmp_path))["path"], 3).digests()
        digests |= dict(zip(units.tolist(), map(bytes, marks), strict=True))
    for seam in plan_seams(tasks):
        seam_task(seam, str(tmp_path))
    assert read == dict.fromkeys(range(vol.grid().n), 1)
    assert digests == {unit: unit_digest(read_unit(vol, unit)) for unit in range(vol.grid().n)}


def test_partitions_hold_whole_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = tissue()
    monkeypatch.setattr(scantask, "_PARTITION", array.size // 5)
    vol = stored(tmp_path / "v.zarr", array, (17, 40, 50))
    (task,) = plan_scan(vol, Settings(), GIB)
    file = ScanFile(tmp_path / scan_task(vol, task, str(tmp_path))["path"], 3)
    assert file.partitions > 3
    labels = [set(file.read(0, "layers", range(p, p + 1))["label"].tolist()) for p in range(file.partitions)]
    assert sum(map(len, labels)) == len(set().union(*labels)) == len(np.unique(array)) - 1


def test_a_rewritten_unit_or_a_lost_file_is_noticed(tmp_path: Path) -> None:
    vol = stored(tmp_path / "v.zarr", tissue(), (17, 40, 50))
    (task,) = plan_scan(vol, Settings(), GIB)
    receipt = scan_task(vol, task, str(tmp_path))
    assert receipt_fits(vol, task, receipt, str(tmp_path))
    zarr.open_array(tmp_path / "v.zarr")[0, 0, 0] = 99
    assert not receipt_fits(vol, task, receipt, str(tmp_path))
    receipt = scan_task(vol, task, str(tmp_path))
    assert receipt_fits(vol, task, receipt, str(tmp_path))
    (tmp_path / receipt["path"]).unlink()
    assert not receipt_fits(vol, task, receipt, str(tmp_path))
    with pytest.raises(PlanError, match="missing or damaged"):
        ScanFile(tmp_path / receipt["path"], 3)


def test_names_tell_settings_and_cuts_apart(tmp_path: Path) -> None:
    vol = stored(tmp_path / "v.zarr", tissue(), (17, 40, 50))
    several = [{}, {"max_gap": 1}, {"background": (0, 1)}, {"region": "0:9,0:40,0:50"}]
    names = [task.name for options in several for task in plan_scan(vol, Settings(**options), GIB)]
    assert len(set(names)) == len(names) == 4
    assert names[0] == plan_scan(vol, Settings(), GIB)[0].name


def test_bad_voxels_are_refused_by_unit(tmp_path: Path) -> None:
    array = tissue().astype(np.int32)
    array[8, 3, 4] = -2
    vol = stored(tmp_path / "v.zarr", array, (4, 40, 50))
    with pytest.raises(VolumeError, match=r"negative[\s\S]*unit 2"):
        scanned(vol, Settings(), tmp_path / "scan")


def test_what_does_not_fit_is_split_or_refused(tmp_path: Path) -> None:
    vol = stored(tmp_path / "v.zarr", np.zeros((64, 256, 256), np.uint32), (16, 64, 64))
    sizes = []
    for memory in (GIB, 30 << 20, 20 << 20):
        tasks = plan_scan(vol, Settings(), memory)
        sizes.append(max(map(predicted_peak, tasks)))
        assert sizes[-1] <= memory
        assert all_units(tasks) == list(range(vol.grid().n))
    assert sizes[0] > sizes[1] > sizes[2]
    with pytest.raises(ResourceError, match=r"--memory \d+MiB"):
        plan_scan(vol, Settings(), 1 << 19)
    with pytest.raises(InputError, match="--max-gap"):
        plan_scan(vol, Settings(region="0:2,0:256,0:256"), GIB)
    with pytest.raises(InputError, match="not inside"):
        plan_scan(vol, Settings(region="0:65,0:256,0:256"), GIB)


_MEASURED = """
import sys
from overseg.pipeline.scan import plan_scan, scan_task
from overseg.settings import Settings
from overseg.volume import open_volume

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

small, large = (open_volume(path) for path in sys.argv[1:3])
settings = Settings(kind=sys.argv[4])
scan_task(small, plan_scan(small, settings, 1 << 30)[0], sys.argv[3])
before = peak()
for task in plan_scan(large, settings, 1 << 30):
    scan_task(large, task, sys.argv[3])
sys.stdout.write(str(peak() - before))
"""


@pytest.mark.parametrize("kind", ["gap", "tilted"])
def test_the_predicted_peak_holds(tmp_path: Path, kind: str) -> None:
    array = np.kron(tissue((16, 80, 100)), np.ones((5, 5, 5), np.uint16)).astype(np.uint64)
    stored(tmp_path / "small.zarr", array[:4, :8, :8], (4, 8, 8))
    large = stored(tmp_path / "large.zarr", array, (40, 200, 250))
    paths = [str(tmp_path / name) for name in ("small.zarr", "large.zarr", "out")]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *paths, kind], capture_output=True, text=True, check=True
    )
    predicted = max(map(predicted_peak, plan_scan(large, Settings(kind=kind), GIB)))
    assert int(done.stdout) <= predicted <= 3 * int(done.stdout)


def test_tasks_cover_the_volume_once(tmp_path: Path) -> None:
    vol = stored(tmp_path / "v.zarr", np.zeros((50, 70, 90), np.uint8), (3, 8, 9))
    for memory, workers in itertools.product((20 << 20, GIB), (1, 16)):
        assert all_units(plan_scan(vol, Settings(), memory, workers)) == list(range(vol.grid().n))


@pytest.mark.usefixtures("small_tasks")
def test_damaged_files_are_named(tmp_path: Path) -> None:
    vol = stored(tmp_path / "v.zarr", tissue(), (3, 40, 50))
    tasks = plan_scan(vol, Settings(), GIB, workers=2)
    for task in tasks:
        scan_task(vol, task, str(tmp_path))
    seam = plan_seams(tasks)[0]
    kept = tmp_path / f"{seam.upper}.last.npy.zst"
    whole = kept.read_bytes()
    for damaged in (b"", whole[:40], bytes(60)):
        kept.write_bytes(damaged)
        with pytest.raises(PlanError, match=r"damaged[\s\S]*the scan is redone"):
            seam_task(seam, str(tmp_path))
    table = tmp_path / f"{seam.upper}.tables"
    whole = table.read_bytes()
    for damaged in (b"", whole[:100], whole[:-20]):
        table.write_bytes(damaged)
        with pytest.raises(PlanError, match=r"damaged[\s\S]*the scan is redone"):
            ScanFile(table, 3)
    table.write_bytes(b"PAR1" + bytes(len(whole) // 2 - 4) + whole[len(whole) // 2 :])
    with pytest.raises(PlanError, match="damaged"):
        ScanFile(table, 3).read(0, "layers")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    vol = stored(tmp_path / "v.zarr", tissue(), (17, 40, 50))
    (task,) = plan_scan(vol, Settings(), GIB)
    (tmp_path / "scan").write_bytes(b"a file, not a folder")
    with pytest.raises(StorageError, match=r"cannot write scan tables[\s\S]*--out"):
        scan_task(vol, task, str(tmp_path / "scan"))
