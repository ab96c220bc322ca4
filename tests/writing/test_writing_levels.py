"""Pyramid levels, attributes and consolidated metadata: changed with the voxels, given back to the byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from twins.writing import coarse, contents, edits, image, metadata, plan_for, store, tissue, truth

from overseg.cluster.executor import InlineExecutor
from overseg.errors import PlanError, VolumeError
from overseg.pipeline.apply import apply
from overseg.pipeline.plandata import Fills, Merges
from overseg.pipeline.undo import undo
from overseg.pipeline.verify import verify
from overseg.settings import RunSettings
from overseg.volume import Volume, open_volume

RUN = RunSettings()
INLINE = InlineExecutor(1, 1 << 30)
SHAPE = (20, 26, 30)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("centred", [True, False])
def test_all_levels_follow_level_0(tmp_path: Path, zarr_format: int, centred: bool) -> None:
    data = tissue(SHAPE).astype(np.uint32)
    merges, fills = edits(SHAPE)
    path = tmp_path / "tissue.ome.zarr"
    volume = image(path, data, (8, 8, 8), zarr_format, centred=centred)
    folder = tmp_path / "tissue.overseg"
    before, before_files = contents(volume), metadata(path)
    plan_for(volume, folder, merges, fills)

    apply(folder, RUN, INLINE)
    expected = truth(data, merges, fills)
    for level, found in enumerate(contents(volume)):
        np.testing.assert_array_equal(found, expected[coarse(volume, level)], f"level {level}")
        assert level == 0 or (found != before[level]).any()
    assert verify(folder).ok, verify(folder).problems

    undo(folder, RUN)
    for found, then in zip(contents(volume), before, strict=True):
        np.testing.assert_array_equal(found, then)
    assert metadata(path) == before_files
    assert verify(folder).ok


def test_time_points_are_their_own(tmp_path: Path) -> None:
    data = np.stack([tissue(SHAPE, seed) for seed in range(3)])[:, None].astype(np.int32)
    first, first_fills = edits(SHAPE, t=0)
    last, last_fills = edits(SHAPE, t=2, every=4)
    merges = Merges(
        *(np.concatenate(pair) for pair in zip(vars(first).values(), vars(last).values(), strict=True))
    )
    pairs = zip(vars(first_fills).values(), vars(last_fills).values(), strict=True)
    fills = Fills(*(np.concatenate(pair) for pair in pairs))
    volume = image(tmp_path / "movie.zarr", data, (2, 1, 8, 16, 16), 3)
    folder = tmp_path / "movie.overseg"
    plan_for(volume, folder, merges, fills)
    apply(folder, RUN, INLINE)
    expected = np.stack([truth(data[t, 0], merges, fills, t) for t in range(3)])[:, None]
    for level, found in enumerate(contents(volume)):
        np.testing.assert_array_equal(found, expected[coarse(volume, level)])
    assert (expected[1] == data[1]).all()
    assert verify(folder).ok
    undo(folder, RUN)
    np.testing.assert_array_equal(contents(volume)[0], data)


def notes_of(attributes: Any) -> dict[str, Any]:
    return dict(attributes).get("overseg", {})


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_provenance_in_all_places_that_repeat_it(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "tissue.ome.zarr"
    volume = image(path, tissue(SHAPE).astype(np.uint16), (8, 8, 8), zarr_format)
    merges, fills = edits(SHAPE)
    plan = plan_for(volume, tmp_path / "a.overseg", merges, fills)
    apply(tmp_path / "a.overseg", RUN, INLINE)
    cells = notes_of(zarr.open_group(str(path / "labels/cells"), mode="r", use_consolidated=False).attrs)
    assert list(cells) == [plan.hash]
    assert cells[plan.hash]["labels_merged"] == len(merges.old)
    assert cells[plan.hash]["voxels_filled"] == int((fills.x1 - fills.x0).sum())
    consolidated = zarr.open_group(str(path), mode="r", use_consolidated=True)
    assert notes_of(consolidated["labels/cells"].attrs) == cells
    middle = zarr.open_group(str(path / "labels"), mode="r", use_consolidated=True)
    assert notes_of(middle["cells"].attrs) == cells
    assert dict(consolidated.attrs) == {"who": "the owner"}
    assert open_volume(path).levels == volume.levels


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_attributes_of_a_bare_array(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "tissue.zarr"
    volume = store(
        path, tissue(SHAPE).astype(np.uint16), (8, 8, 8), zarr_format=zarr_format, voxel_size=(2, 1, 1)
    )
    before = metadata(path)
    attributes = dict(zarr.open_array(str(path), mode="r").attrs)
    plan = plan_for(volume, tmp_path / "a.overseg", *edits(SHAPE))
    apply(tmp_path / "a.overseg", RUN, INLINE)
    now = dict(zarr.open_array(str(path), mode="r").attrs)
    assert list(now.pop("overseg")) == [plan.hash]
    assert now == attributes
    undo(tmp_path / "a.overseg", RUN)
    assert metadata(path) == before


def test_an_attribute_set_by_someone_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "tissue.zarr"
    volume = store(path, tissue(SHAPE).astype(np.uint16), (8, 8, 8))
    plan_for(volume, tmp_path / "a.overseg", *edits(SHAPE))
    apply(tmp_path / "a.overseg", RUN, INLINE)
    zarr.open_array(str(path), mode="r+").attrs["stain"] = "DAPI"
    undo(tmp_path / "a.overseg", RUN)
    assert dict(zarr.open_array(str(path), mode="r").attrs) == {"stain": "DAPI"}


def test_no_attributes_file_before_none_after(tmp_path: Path) -> None:
    path = tmp_path / "tissue.zarr"
    volume = store(path, tissue(SHAPE).astype(np.uint16), (8, 8, 8), zarr_format=2)
    (path / ".zattrs").unlink()
    plan_for(volume, tmp_path / "a.overseg", *edits(SHAPE))
    apply(tmp_path / "a.overseg", RUN, INLINE)
    assert "overseg" in json.loads((path / ".zattrs").read_bytes())
    undo(tmp_path / "a.overseg", RUN)
    assert not (path / ".zattrs").exists()


def test_two_plans_are_undone_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "tissue.ome.zarr"
    volume = image(path, tissue(SHAPE).astype(np.uint16), (8, 8, 8), 3)
    merges, fills = edits(SHAPE)
    start, start_files = contents(volume), metadata(path)
    plan_for(volume, tmp_path / "a.overseg", merges, fills)
    apply(tmp_path / "a.overseg", RUN, INLINE)
    middle, middle_files = contents(volume), metadata(path)
    one = Merges(merges.t[:1], np.array([7], np.uint64), np.array([1], np.uint64))
    plan_for(volume, tmp_path / "b.overseg", one, Fills(*(column[:0] for column in vars(fills).values())))
    apply(tmp_path / "b.overseg", RUN, INLINE)
    with pytest.raises(PlanError, match="later plan") as caught:
        undo(tmp_path / "a.overseg", RUN)
    assert "b.overseg" in str(caught.value)
    undo(tmp_path / "b.overseg", RUN)
    assert metadata(path) == middle_files
    for found, then in zip(contents(volume), middle, strict=True):
        np.testing.assert_array_equal(found, then)
    undo(tmp_path / "a.overseg", RUN)
    assert metadata(path) == start_files
    for found, then in zip(contents(volume), start, strict=True):
        np.testing.assert_array_equal(found, then)


def test_a_damaged_chunk_of_a_coarse_level_is_refused_first(tmp_path: Path) -> None:
    data = tissue(SHAPE).astype(np.uint16)
    path = tmp_path / "tissue.ome.zarr"
    volume = image(path, data, (8, 8, 8), 3)
    plan_for(volume, tmp_path / "a.overseg", *edits(SHAPE))
    chunk = path / "labels/cells/2/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(VolumeError, match="damaged"):
        apply(tmp_path / "a.overseg", RUN, INLINE)
    np.testing.assert_array_equal(contents_of_level_0(volume), data)


def contents_of_level_0(volume: Volume) -> np.ndarray:
    return volume.read((slice(0, SHAPE[0]), slice(0, SHAPE[1]), slice(0, SHAPE[2])))


def test_labels_copied_out_of_their_image(tmp_path: Path) -> None:
    path = tmp_path / "tissue.ome.zarr"
    volume = image(path, tissue(SHAPE).astype(np.uint16), (8, 8, 8), 3)
    before = contents(volume)
    plan_for(volume, tmp_path / "a.overseg", *edits(SHAPE))
    apply(tmp_path / "a.overseg", RUN, INLINE)
    shutil.copytree(path / "labels/cells", tmp_path / "cells")
    copy = open_volume(tmp_path / "cells")
    undo(tmp_path / "a.overseg", RUN, volume=copy)
    for found, then in zip(contents(copy), before, strict=True):
        np.testing.assert_array_equal(found, then)
    assert "overseg" not in zarr.open_group(str(tmp_path / "cells"), mode="r").attrs
    assert "overseg" in zarr.open_group(str(path / "labels/cells"), mode="r").attrs
    assert verify(tmp_path / "a.overseg").ok
