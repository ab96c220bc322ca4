"""Chunks that cannot be decoded, in random volumes of random layouts, against what NumPy says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from scipy.ndimage import maximum_filter

import overseg
from overseg.measure import generate_tissue, simulate_splits
from overseg.pipeline import scantask, work
from overseg.volume import open_volume


@dataclass
class Damaged:
    """A volume with one or two damaged units."""

    path: Path
    data: np.ndarray
    units: list[int]
    box: tuple[tuple[int, int], ...]
    options: dict[str, Any]


def damage(path: Path, rng: np.random.Generator, inner: int, first: bool) -> None:
    """Cut short, empty, or nonsense; of a shard also a bit of its index, or one of its chunks."""
    data = bytearray(path.read_bytes())
    how = rng.choice(["cut", "empty", "nonsense", *(["index", "inner"] if inner else [])])
    index = slice(0, 16 * inner + 4) if first else slice(len(data) - 16 * inner - 4, len(data))
    if how == "cut":
        del data[int(rng.integers(len(data))) :]
    elif how == "empty":
        data.clear()
    elif how == "nonsense":
        data[:] = b"\xff" * 99
    elif how == "index":
        data[int(rng.integers(index.start, index.stop))] ^= 0xFF
    else:
        table = np.frombuffer(bytes(data[index])[:-4], "<u8").reshape(-1, 2)
        start, size = map(int, rng.permutation(table[table[:, 0] != 2**64 - 1])[0])
        data[start : start + size] = bytes(size)
    path.write_bytes(data)


def damaged(path: Path, rng: np.random.Generator) -> Damaged:
    shape = tuple(int(rng.integers(lo, hi)) for lo, hi in ((8, 18), (20, 44), (20, 44)))
    tissue = generate_tissue(shape, n_cells=int(rng.integers(6, 30)), seed=int(rng.integers(99)))
    data = simulate_splits(tissue, rate=0.7, seed=1)[0].astype(np.uint32)
    chunks = tuple(int(rng.integers(2, n)) for n in (6, 16, 16))
    how: dict[str, Any] = {"chunks": chunks, "zarr_format": int(rng.integers(2, 4))}
    inner, first = 0, bool(rng.random() < 0.3)
    if how["zarr_format"] == 3 and rng.random() < 0.5:
        times = rng.integers(1, 4, 3)
        inner = int(times.prod())
        shards = tuple(int(n * c) for n, c in zip(times, chunks, strict=True))
        how["shards"] = {"shape": shards, "index_location": "start" if first else "end"}
    config = {"write_empty_chunks": True}
    zarr.create_array(str(path), shape=shape, dtype="u4", config=config, **how)[:] = data
    box = tuple((0, n) for n in shape)
    options: dict[str, Any] = {"kind": str(rng.choice(["gap", "tilted", "both"]))}
    options |= {"max_gap": int(rng.integers(1, 4)), "threshold": 0.0, "workers": 1}
    if rng.random() < 0.3:
        box = tuple((int(rng.integers(n // 3)), int(rng.integers(n - n // 3, n + 1))) for n in shape)
        options["region"] = box
    volume = open_volume(path)
    seen = [unit for unit in range(volume.grid().n) if inside(shape, box)[volume.grid().slices(unit)].any()]
    units = sorted(rng.choice(seen, min(2, len(seen) // 2), replace=False).tolist())
    for unit in units:
        damage(path / volume.unit_key(unit), rng, inner, first)
    return Damaged(path, data, units, box, options)


def inside(shape: tuple[int, ...], box: tuple[tuple[int, int], ...]) -> np.ndarray:
    found = np.zeros(shape, bool)
    found[tuple(slice(*span) for span in box)] = True
    return found


def expected(case: Damaged, plan: overseg.Plan) -> tuple[np.ndarray, set[int]]:
    """What the voxels become, and the labels to be left alone."""
    grid, torn, here = open_volume(case.path).grid(), np.zeros(case.data.shape, bool), case.data.copy()
    for unit in case.units:
        torn[grid.slices(unit)] = True
    within = inside(case.data.shape, case.box)
    grown = maximum_filter(torn, size=2 * case.options["max_gap"] + 3)
    near = set(np.unique(case.data[grown & within & ~torn]).tolist()) - {0}
    merges, fills = plan.data.merges, plan.data.fills
    for old, new in zip(merges.old.tolist(), merges.new.tolist(), strict=True):
        here[within & ~torn & (case.data == old)] = new
    for z, y, x0, x1, new in zip(fills.z, fills.y, fills.x0, fills.x1, fills.new, strict=True):
        assert within[z, y, x0:x1].all() and not torn[z, y, x0:x1].any()
        here[z, y, x0:x1] = new
    here[torn] = case.data[torn]
    return here, near


@pytest.mark.parametrize("seed", range(12))
def test_no_voxel_of_a_label_near_damage_changes(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is not kept apart is merged here, so that whoever was forgotten shows."""
    rng = np.random.default_rng(seed)
    case = damaged(tmp_path / "v.zarr", rng)
    calm = overseg.plan(case.path, out=tmp_path / "calm", **case.options)
    monkeypatch.setattr(scantask, "_LEAST", 1)
    monkeypatch.setattr(scantask, "_SIDE", int(rng.integers(4, 32)))
    monkeypatch.setattr(work, "_BATCH_UNITS", int(rng.integers(1, 9)))
    plan = overseg.plan(case.path, out=tmp_path / "p", **case.options)
    assert plan.hash == calm.hash and len(plan.unread) == len(case.units)
    after, near = expected(case, plan)
    for row in plan.candidates.to_pylist():
        assert not {row["a"], row["b"]} & near or (row["decision"], row["reason"]) == ("keep", "unread")
    kept = np.isin(case.data, list(near))
    np.testing.assert_array_equal(after[kept], case.data[kept])
    assert not near & {*plan.data.merges.new.tolist(), *plan.data.fills.new.tolist()}
    files = {path: path.read_bytes() for path in case.path.rglob("*") if path.is_file()}
    overseg.apply(plan, allow_partial=True, workers=1)
    for wanted in (after, case.data):
        volume = open_volume(case.path)
        for unit in range(volume.grid().n):
            if unit in case.units:
                path = case.path / volume.unit_key(unit)
                assert path.read_bytes() == files[path]
            else:
                there = wanted[volume.grid().slices(unit)]
                np.testing.assert_array_equal(volume.read_unit(unit), there)
        if wanted is after:
            assert overseg.verify(plan, workers=1).ok
            overseg.undo(plan, workers=1)
