"""OME-Zarr label groups, 0.4 and 0.5: levels, axes, voxel sizes, and every way to name the labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr

from overseg.errors import VolumeError
from overseg.volume import Volume, create_labels, describe, open_volume
from overseg.volume.create import fill, pyramid
from overseg.volume.ome import parse_multiscale

SHAPE = (5, 300, 290)
SIZE = (2.0, 0.5, 0.25)


def tissue(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, SHAPE).astype(np.uint32)


def save(
    path: Path, zarr_format: int, label: str | None = "cells", *, voxels: bool = True, **options: Any
) -> Volume:
    vol = create_labels(
        path,
        options.pop("shape", SHAPE),
        "u4",
        options.pop("chunks", (4, 128, 128)),
        voxel_size=SIZE,
        unit="micrometer",
        zarr_format=zarr_format,
        ome=True,
        label=label,
        levels=2,
        **options,
    )
    for t in range(vol.n_times if voxels else 0):
        fill(vol, lambda box, t=t: tissue(t)[box], t)
    return vol


def edit(group: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the OME-Zarr attributes of a group in place."""
    file = group / ".zattrs" if (group / ".zattrs").exists() else group / "zarr.json"
    document = json.loads(file.read_text())
    change(document if file.name == ".zattrs" else document["attributes"]["ome"])
    file.write_text(json.dumps(document))


@pytest.fixture(params=[2, 3], ids=["0.4", "0.5"])
def zarr_format(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_every_path_to_the_labels_gives_the_same_volume(tmp_path: Path, zarr_format: int) -> None:
    top = tmp_path / "tissue.ome.zarr"
    vol = save(top, zarr_format)
    assert vol.name == "tissue-cells" and vol.ome_version == ("0.4" if zarr_format == 2 else "0.5")
    for path in [top, top / "labels", top / "labels" / "cells"]:
        assert open_volume(path) == vol
        assert open_volume(path, label="cells") == vol
    assert open_volume(zarr.open_group(top, mode="r")) == vol
    one = open_volume(top / "labels" / "cells" / "0")
    assert one.axes == ("z", "y", "x") and one.voxel_size == SIZE and one.unit == "micrometer"
    assert one.part_of == vol.location and vol.part_of is None
    coarse = open_volume(top / "labels" / "cells" / "1")
    assert vol.warnings() == [] and f"one level of {vol.location}" in coarse.warnings()[0]
    assert coarse.voxel_size == vol.levels[1].scale and coarse.part_of == vol.location
    # both ways meet in the same hidden folder
    vol.files.write(".overseg/lock", b"here")
    assert one.files.read(".overseg/lock") == b"here"


def test_levels_hold_every_other_voxel_and_their_scales(tmp_path: Path, zarr_format: int) -> None:
    vol = save(tmp_path / "a.ome.zarr", zarr_format)
    data = tissue()
    assert [level.shape for level in vol.levels] == [(5, 300, 290), (5, 300, 145)]
    assert [level.scale for level in vol.levels] == [(2, 0.5, 0.25), (2, 0.5, 0.5)]
    assert vol.voxel_size == SIZE and vol.voxel_size_known and vol.unit == "micrometer"
    np.testing.assert_array_equal(vol.read(np.s_[0:5, 0:300, 0:290]), data)
    np.testing.assert_array_equal(vol.read(np.s_[0:5, 0:300, 0:145], level=1), data[:, :, ::2])
    bigger = open_volume(tmp_path / "a.ome.zarr", voxel_size=(4, 0.5, 0.5))
    assert [level.scale for level in bigger.levels] == [(4, 0.5, 0.5), (4, 0.5, 1.0)]


def test_what_we_write_is_valid_for_others(tmp_path: Path, zarr_format: int) -> None:
    vol = save(tmp_path / "a.ome.zarr", zarr_format, label=None)
    assert vol.name == "a"
    yaozarrs.validate_zarr_store(str(tmp_path / "a.ome.zarr"))
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][:], tissue())


def test_times_and_the_single_channel(tmp_path: Path, zarr_format: int) -> None:
    vol = save(
        tmp_path / "a.ome.zarr",
        zarr_format,
        shape=(3, 1, *SHAPE),
        chunks=(1, 1, 4, 128, 128),
        axes=("t", "c", "z", "y", "x"),
    )
    assert vol.n_times == 3 and vol.shape == SHAPE and vol.axes == ("t", "c", "z", "y", "x")
    for t in range(3):
        np.testing.assert_array_equal(vol.read(np.s_[1:5, 3:9, 280:290], t), tissue(t)[1:5, 3:9, 280:290])
    grid = vol.grid()
    assert [list(grid.times(unit)) for unit in (0, grid.n - 1)] == [[0], [2]]
    assert (
        vol.read_unit(0).shape == (1, 1, 4, 128, 128) and grid.box(grid.n - 1) == np.s_[4:5, 256:300, 256:290]
    )


def test_several_labels_need_a_name(tmp_path: Path, zarr_format: int) -> None:
    top = tmp_path / "a.ome.zarr"
    save(top, zarr_format, "cells", voxels=False)
    save(top, zarr_format, "nuclei", voxels=False)
    with pytest.raises(VolumeError, match="several labels: cells, nuclei") as caught:
        open_volume(top)
    assert "--label cells" in (caught.value.remedy or "")
    assert open_volume(top, label="nuclei").name == "a-nuclei"
    with pytest.raises(VolumeError, match="no labels named 'cell'; there are cells, nuclei"):
        open_volume(top, label="cell")
    with pytest.raises(VolumeError, match="no labels named 'nuclei'"):
        open_volume(top / "labels" / "cells", label="nuclei")
    with pytest.raises(VolumeError, match="no labels named"):
        open_volume(top, label="../labels/cells")


def test_an_image_is_no_label_volume(tmp_path: Path, zarr_format: int) -> None:
    top = tmp_path / "a.ome.zarr"
    save(top, zarr_format, None, voxels=False)
    edit(top, lambda ome: ome.pop("image-label"))
    with pytest.raises(VolumeError, match="image without labels") as caught:
        open_volume(top)
    assert f"{top}/0" in (caught.value.remedy or "")
    zarr.create_group(top / "labels", zarr_format=zarr_format)
    with pytest.raises(VolumeError, match="has no labels"):
        open_volume(top)


def test_labels_that_the_list_forgot_are_found_by_their_folder(tmp_path: Path, zarr_format: int) -> None:
    top = tmp_path / "a.ome.zarr"
    vol = save(top, zarr_format)
    edit(top / "labels", lambda ome: ome.pop("labels"))
    assert open_volume(top) == vol
    edit(top / "labels" / "cells", lambda ome: ome.pop("image-label"))
    assert open_volume(top) == open_volume(top / "labels" / "cells") == vol


def test_stale_consolidated_metadata_do_not_mislead(tmp_path: Path, zarr_format: int) -> None:
    top = tmp_path / "a.ome.zarr"
    save(top, zarr_format, voxels=False)
    inside = top / "labels" / "cells"
    with pytest.warns(UserWarning) if zarr_format == 3 else _quiet():
        zarr.consolidate_metadata(top)
        zarr.consolidate_metadata(inside)
    edit(inside, lambda ome: ome["multiscales"][0]["datasets"].pop())
    assert len(open_volume(top).levels) == 1
    group = zarr.open_group(inside, mode="r+", use_consolidated=False)
    group.create_array("0", shape=(4, 8, 8), dtype="u2", chunks=(4, 4, 4), overwrite=True)
    vol = open_volume(top)
    assert vol.shape == (4, 8, 8) and vol.dtype == np.uint16


class _quiet:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def damage(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda ome: change(ome["multiscales"][0])


def _set_scale(values: list[Any]) -> Callable[[dict[str, Any]], None]:
    def change(entry: dict[str, Any]) -> None:
        entry["datasets"][0]["coordinateTransformations"][0]["scale"] = values

    return damage(change)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda ome: ome.update(multiscales=[]), "damaged"),
        (lambda ome: ome.update(multiscales="no"), "damaged"),
        (damage(lambda entry: entry.pop("axes")), "damaged: 'axes' is missing"),
        (damage(lambda entry: entry.pop("datasets")), "damaged"),
        (damage(lambda entry: entry.update(datasets=[])), "lists no datasets"),
        (damage(lambda entry: entry["datasets"][0].pop("path")), "damaged"),
        (damage(lambda entry: entry["datasets"][0].update(path="../../../other")), "inside the group"),
        (damage(lambda entry: entry["datasets"][0].update(path="7")), "which is not there"),
        (damage(lambda entry: entry["axes"].reverse()), "order must be"),
        (damage(lambda entry: entry["axes"].pop(0)), "damaged|no z axis"),
        (_set_scale([1, 1]), "2 numbers for 3 axes"),
        (_set_scale([0, 1, 1]), "must be above zero"),
        (_set_scale([1, -1, 1]), "must be above zero"),
        (_set_scale(["a", 1, 1]), "damaged"),
    ],
)
def test_damaged_multiscales_are_refused(tmp_path: Path, zarr_format: int, change: Any, match: str) -> None:
    save(tmp_path / "a.zarr", zarr_format, voxels=False)
    inside = tmp_path / "a.zarr" / "labels" / "cells"
    edit(inside, change)
    with pytest.raises(VolumeError, match=match) as caught:
        open_volume(inside)
    assert caught.value.remedy and str(inside) in (caught.value.where or "")


def test_channels_and_levels_that_do_not_fit(tmp_path: Path, zarr_format: int) -> None:
    axes = ("c", "z", "y", "x")
    for name, shape in {"one": (1, 4, 8, 8), "two": (1, 4, 300, 300)}.items():
        create_labels(
            tmp_path / name, shape, "u2", (1, 4, 8, 8), ome=True, axes=axes, levels=2, zarr_format=zarr_format
        )
    group = zarr.open_group(tmp_path / "one", mode="r+", use_consolidated=False)
    group.create_array("0", shape=(2, 4, 8, 8), dtype="u2", overwrite=True)
    with pytest.raises(VolumeError, match="2 channels"):
        open_volume(tmp_path / "one")
    group = zarr.open_group(tmp_path / "two", mode="r+", use_consolidated=False)
    group.create_array("1", shape=(3, 4, 8, 8), dtype="u2", overwrite=True)
    with pytest.raises(VolumeError, match="time points or channels differ"):
        open_volume(tmp_path / "two")
    group.create_array("1", shape=(4, 8, 8), dtype="u2", overwrite=True)
    with pytest.raises(VolumeError, match="level 1 has 3 axes"):
        open_volume(tmp_path / "two")


def test_transformations_of_level_and_pyramid_are_combined() -> None:
    entry = {
        "axes": [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [2, 1, 1]},
                    {"type": "translation", "translation": [1, 0.5, 0]},
                ],
            }
        ],
        "coordinateTransformations": [
            {"type": "scale", "scale": [10, 10, 5]},
            {"type": "translation", "translation": [100, 0, 7]},
        ],
    }
    (data,) = parse_multiscale({"multiscales": [entry]}, "here").datasets
    assert data.scale == (20, 10, 5)
    assert data.translation == (10 * 1 + 100, 10 * 0.5, 7)


def test_pyramids_become_isotropic_and_stop() -> None:
    plan = pyramid((100, 2000, 2000), (1.0, 0.25, 0.25), 9)
    assert [shape for shape, _ in plan] == [
        (100, 2000, 2000),
        (100, 1000, 1000),
        (100, 500, 500),
        (50, 250, 250),
    ]
    assert plan[-1][1] == (2.0, 2.0, 2.0)
    assert pyramid((100, 2000, 2000), (1.0, 0.25, 0.25), 2) == plan[:2]


def test_describe_needs_only_metadata(tmp_path: Path, zarr_format: int) -> None:
    vol = save(tmp_path / "a.ome.zarr", zarr_format)
    for file in (tmp_path / "a.ome.zarr" / "labels" / "cells" / "0").rglob("*"):
        if file.is_file() and file.name not in ("zarr.json", ".zarray", ".zattrs"):
            file.write_bytes(b"rubbish")
    facts = describe(vol)
    json.dumps(facts)
    assert (
        facts["shape"] == list(SHAPE) and facts["bytes"] == 4 * 5 * 300 * 290 and facts["units"] == 2 * 3 * 3
    )
    assert facts["levels"][0]["codecs"] == ["zstd"] and facts["levels"][0]["shard"] is None
    assert facts["unit_bytes"] == 4 * 4 * 128 * 128
