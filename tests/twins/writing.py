"""Small volumes and hand-made plans for the tests of everything that writes, and the plain truth."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zarr

from overseg.pipeline.plandata import Fills, Merges, PlanData, Units, compute_plan_hash
from overseg.pipeline.planfile import write_plan
from overseg.volume import Volume, open_volume, unit_digest
from overseg.volume.create import create_labels

BOX = 6  # edge of a made-up cell, in voxels


def tissue(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Blocks of labels with ragged holes; every block has a label of its own. Shape (z, y, x)."""
    z, y, x = np.indices(shape)
    grid = [-(-n // BOX) for n in shape]
    labels = ((z // BOX) * grid[1] + y // BOX) * grid[2] + x // BOX + 1
    labels[np.random.default_rng(seed).random(shape) < 0.1] = 0
    return labels


def edits(shape: tuple[int, ...], t: int = 0, every: int = 3) -> tuple[Merges, Fills]:
    """Every third block merged with the one before it along x, and two rows of each filled."""
    grid = [-(-n // BOX) for n in shape]
    old = np.arange(2, int(np.prod(grid)) + 1, every)
    old = old[(old - 1) % grid[2] > 0]
    new = old - 1
    rows = []
    for name in new:
        block = np.unravel_index(name - 1, grid)
        z, y, x = (int(at) * BOX for at in block)
        rows += [(t, min(z + dz, shape[0] - 1), y, x, min(x + 5, shape[2]), int(name)) for dz in (2, 3)]
    rows = sorted(set(rows))
    columns = [np.array([row[i] for row in rows], np.int64) for i in range(5)]
    fills = Fills(*columns, new=np.array([row[5] for row in rows], np.uint64))
    return Merges(np.full(len(old), t), old.astype(np.uint64), new.astype(np.uint64)), fills


def truth(volume: np.ndarray, merges: Merges, fills: Fills, t: int = 0) -> np.ndarray:
    """Merges and fills by the definition, one voxel at a time."""
    result = volume.copy()
    for at, old, new in zip(merges.t, merges.old, merges.new, strict=True):
        if at == t:
            result[volume == old] = new
    for at, z, y, x0, x1, new in zip(*vars(fills).values(), strict=True):
        if at == t:
            result[z, y, x0:x1] = new
    return result


def store(path: Path | str, data: np.ndarray, chunks: tuple[int, ...], **options: Any) -> Volume:
    """A zarr volume that holds `data`, whose coarser levels are every second voxel of the one below."""
    volume = create_labels(path, data.shape, data.dtype, chunks, **options)
    for level in range(len(volume.levels)):
        write_all(volume, level, data[coarse(volume, level)])
    return volume


def coarse(volume: Volume, level: int) -> tuple[Any, ...]:
    """Index of the level-0 voxels nearest to the voxels of a level, by the definition."""
    index: list[np.ndarray] = [np.arange(n) for n in volume.levels[level].shape]
    base, here = volume.levels[0], volume.levels[level]
    for axis in range(3):
        at = axis - 3
        centres = here.translation[axis] + index[at] * here.scale[axis]
        places = base.translation[axis] + np.arange(base.shape[at]) * base.scale[axis]
        index[at] = np.argmin(np.round(np.abs(centres[:, None] - places[None, :]), 9), axis=1)
    return np.ix_(*index)


def contents(volume: Volume) -> list[np.ndarray]:
    """All voxels of all levels."""
    found = []
    for level in range(len(volume.levels)):
        grid = volume.grid(level)
        data = np.empty(grid.array_shape, volume.levels[level].dtype)
        for unit in range(grid.n):
            data[grid.slices(unit)] = volume.read_unit(unit, level)
        found.append(data)
    return found


def plan_for(volume: Volume, folder: Path, merges: Merges, fills: Fills, **changes: Any) -> PlanData:
    """Write a plan with these merges and fills; units that change, and each third one, count as touched."""
    grid = volume.grid(0)
    before = contents(volume)[0]
    after = before.copy()
    if "t" in volume.axes:
        for t in range(volume.n_times):
            view = after.reshape(volume.n_times, *volume.shape)
            view[t] = truth(view[t], merges, fills, t)
    else:
        view = after.reshape(volume.shape)
        view[:] = truth(view, merges, fills)
    digests, touched = [], []
    for unit in range(grid.n):
        here = grid.slices(unit)
        digests.append(np.frombuffer(unit_digest(np.ascontiguousarray(before[here])), np.uint8))
        touched.append(unit % 3 == 0 or bool((before[here] != after[here]).any()))
    n = np.arange(grid.n)
    none = np.zeros(0, np.int64)
    names = ("t", "a", "b", "z", "gap", "overlap", "area_a", "area_b")
    columns: dict[str, Any] = {name: none.astype(np.uint64) if name in "ab" else none for name in names}
    columns.update({name: np.array([], "U1") for name in ("kind", "stage", "decision", "reason")})
    columns["p"] = none.astype(np.float64)
    facts = {
        "location": volume.location,
        "axes": list(volume.axes),
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "voxel_size": list(volume.voxel_size),
        "fingerprint": "made by hand",
        "levels": [{"unit_shape": list(level.unit_shape)} for level in volume.levels],
    }
    plan = PlanData(
        hash="",
        settings={"max_gap": 2},
        model="none",
        volume=facts,
        counts={},
        seconds={},
        warnings=[],
        candidates=pa.table(columns),
        merges=merges,
        fills=fills,
        units=Units(np.zeros_like(n), n, np.array(digests), np.array(touched)),
    )
    plan = replace(plan, **changes)
    name = compute_plan_hash(
        plan.settings, plan.model, facts["shape"], facts["voxel_size"], "made by hand", plan.candidates,
        merges, fills,
    )  # fmt: skip
    plan = replace(plan, hash=name)
    write_plan(folder, plan)
    return plan


def image(path: Path, data: np.ndarray, chunks: tuple[int, ...], zarr_format: int, **options: Any) -> Volume:
    """An OME-Zarr image group with labels ``cells`` of three levels, all groups with consolidated metadata.

    The second level halves y and x, the third all three axes. Their voxels lie at the centres of the voxels
    that they stand for, or at the first of them with ``centred=False``.
    """
    centred = options.pop("centred", True)
    factors = [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
    size = (2.0, 0.26, 0.26)
    axes = ["t", "c", "z", "y", "x"][5 - data.ndim :]
    lead = [1.0] * (data.ndim - 3)
    datasets = []
    for number, factor in enumerate(factors):
        scale = [*lead, *(s * f for s, f in zip(size, factor, strict=True))]
        shift = [(f - 1) / 2 * s if centred else 0.0 for s, f in zip(size, factor, strict=True)]
        moves = [{"type": "scale", "scale": scale}]
        moves += [{"type": "translation", "translation": [0.0] * len(lead) + shift}] if any(shift) else []
        datasets.append({"path": str(number), "coordinateTransformations": moves})
    kinds = {"t": "time", "c": "channel"}
    entry = {
        "axes": [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes],
        "datasets": datasets,
        "name": "cells",
    }
    if zarr_format == 2:
        entry["version"] = "0.4"
        attributes: dict[str, Any] = {"multiscales": [entry], "image-label": {"version": "0.4"}}
        names: dict[str, Any] = {"labels": ["cells"]}
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": [entry], "image-label": {}}}
        names = {"ome": {"version": "0.5", "labels": ["cells"]}}
    root = zarr.create_group(str(path), zarr_format=zarr_format, attributes={"who": "the owner"})
    labels = root.create_group("labels", attributes=names)
    cells = labels.create_group("cells", attributes=attributes)
    for number, factor in enumerate(factors):
        shape = data.shape[:-3] + tuple(-(-n // f) for n, f in zip(data.shape[-3:], factor, strict=True))
        small = tuple(min(c, n) for c, n in zip(chunks, shape, strict=True))
        extra = {"dimension_names": axes} if zarr_format == 3 else {}
        cells.create_array(
            str(number), shape=shape, dtype=data.dtype, chunks=small, fill_value=0,
            chunk_key_encoding={"name": "default" if zarr_format == 3 else "v2", "separator": "/"}, **extra,
        )  # fmt: skip
    for group in ("labels", ""):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr says that consolidated metadata of format 3 are not final
            zarr.consolidate_metadata(str(path), path=group or None)
    volume = open_volume(path)
    for level in range(3):
        write_all(volume, level, data[coarse(volume, level)])
    return volume


def write_all(volume: Volume, level: int, data: np.ndarray) -> None:
    """Set all voxels of a level."""
    grid = volume.grid(level)
    for unit in range(grid.n):
        part = np.ascontiguousarray(data[grid.slices(unit)], volume.levels[level].dtype)
        volume.write_unit(unit, part, level)


def metadata(path: Path) -> dict[str, bytes]:
    """Bytes of all metadata files below a folder."""
    names = ("zarr.json", ".zattrs", ".zarray", ".zgroup", ".zmetadata")
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.name in names}
