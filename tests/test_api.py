"""The public functions, on small volumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

import overseg
from overseg.errors import InputError, LockedError, ModelError, PlanError, ResourceError
from overseg.volume import open_volume
from overseg.volume.lock import locked


def two_parts() -> np.ndarray:
    """One cell cut in two at layer 8, between two neighbours."""
    labels = np.zeros((17, 40, 40), np.uint16)
    y, x = np.mgrid[:40, :40]
    for z in range(17):
        disc = (y - 20) ** 2 + (x - 14) ** 2 < 90 - (z - 8) ** 2  # an ellipsoid
        labels[z][disc] = 1 if z < 8 else 2
        if z == 8:
            labels[z] = 0
    labels[:, :, 30:] = 3
    return labels


@pytest.fixture
def volume(tmp_path) -> str:
    array = zarr.create_array(
        str(tmp_path / "cells.zarr"), shape=(17, 40, 40), chunks=(4, 16, 16), dtype="u2"
    )
    array[:] = two_parts()
    return str(tmp_path / "cells.zarr")


def test_plan_apply_verify_undo(volume):
    before = zarr.open_array(volume, mode="r")[:]
    plan = overseg.plan(volume)
    assert plan.path == Path(volume).parent / "cells.overseg"
    np.testing.assert_array_equal(zarr.open_array(volume, mode="r")[:], before)
    decisions = {(row["a"], row["b"]): row["decision"] for row in plan.candidates.to_pylist()}
    assert decisions[(1, 2)] == "merge"
    assert overseg.verify(plan).ok
    done = overseg.apply(plan)
    after = zarr.open_array(volume, mode="r")[:]
    assert 2 not in after and (after[8] == 1).sum() > 100
    np.testing.assert_array_equal(after[np.isin(before, [1, 3])], before[np.isin(before, [1, 3])])
    assert done.rewritten > 0 and overseg.verify(plan).ok
    assert overseg.apply(plan).rewritten == 0
    overseg.undo(volume)
    np.testing.assert_array_equal(zarr.open_array(volume, mode="r")[:], before)


def test_correct_says_everything_and_a_second_time_finds_nothing_to_do(volume):
    plan = overseg.correct(volume)
    said = plan.summary()
    for name in (
        "volume", "plan", "plan_hash", "cells", "candidates", "decided_by_stage", "merged", "kept", "review",
        "touching_not_judged", "voxels_filled", "units_total", "units_rewritten", "seconds", "peak_rss_bytes",
    ):  # fmt: skip
        assert name in said, name
    assert said["merged"] == 1 and said["cells"] == 3 and isinstance(said["peak_rss_bytes"], int)
    assert json.loads(json.dumps(said)) == said
    after = zarr.open_array(volume, mode="r")[:]
    again = overseg.correct(volume)
    assert again.hash == plan.hash and again.rewritten == 0
    np.testing.assert_array_equal(zarr.open_array(volume, mode="r")[:], after)


def test_output_leaves_the_volume_alone_and_refuses_an_existing_place(volume, tmp_path):
    before = zarr.open_array(volume, mode="r")[:]
    plan = overseg.correct(volume, output=tmp_path / "copy.zarr")
    assert plan.data.volume["location"] == str(tmp_path / "copy.zarr")
    np.testing.assert_array_equal(zarr.open_array(volume, mode="r")[:], before)
    assert 2 not in zarr.open_array(str(tmp_path / "copy.zarr"), mode="r")[:]
    with pytest.raises(InputError, match="exists"):
        overseg.correct(volume, output=tmp_path / "copy.zarr")
    with pytest.raises(InputError, match="inside"):
        overseg.correct(volume, output=Path(volume) / "copy.zarr")


def test_background_only_and_one_label_are_no_errors():
    for labels in (np.zeros((5, 8, 8), np.uint8), np.full((5, 8, 8), 7, np.uint8)):
        corrected, plan = overseg.correct(labels)
        assert plan.summary()["merged"] == 0 and plan.warnings
        np.testing.assert_array_equal(corrected, labels)


def test_zarr_array_and_group_are_taken(volume):
    assert overseg.plan(zarr.open_array(volume, mode="r")).summary()["cells"] == 3


@pytest.mark.parametrize("max_gap", [16])
def test_max_gap_beyond_the_volume_is_refused(max_gap):
    with pytest.raises(InputError, match="max-gap"):
        overseg.plan(np.zeros((5, 8, 8), np.uint8), max_gap=max_gap)


def test_semantic_options_are_refused_by_apply(volume):
    plan = overseg.plan(volume)
    with pytest.raises(InputError, match="threshold"):
        overseg.apply(plan, threshold=0.5)
    with pytest.raises(PlanError):
        overseg.apply(volume)


def test_region_cells_cut_by_it_go_to_review(volume):
    plan = overseg.plan(volume, region=((0, 17), (0, 40), (0, 15)))
    rows = plan.candidates.to_pylist()
    assert [row["decision"] for row in rows if (row["a"], row["b"]) == (1, 2)] == ["review"]
    plan = overseg.plan(volume, region=((0, 17), (0, 40), (0, 29)))
    rows = plan.candidates.to_pylist()
    assert [row["decision"] for row in rows if (row["a"], row["b"]) == (1, 2)] == ["merge"]


def test_importing_is_cheap_and_a_plain_script_needs_no_guard(volume, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import overseg, sys\n"
        "heavy = {'numpy', 'zarr', 'distributed', 'torch', 'numba'} & set(sys.modules)\n"
        f"plan = overseg.correct({volume!r}, workers=2, memory='512MiB')\n"
        "sys.stdout.write(f'{sorted(heavy)} {plan.summary()[\"merged\"]}')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[] 1"


def test_what_does_not_fit_or_is_not_there_is_refused(volume):
    with pytest.raises(ResourceError, match="no graphics card can be used"):
        overseg.plan(volume, device="cuda")
    with pytest.raises(ResourceError) as caught:
        overseg.plan(volume, memory="1MiB")
    assert "--memory" in str(caught.value.remedy)


def test_a_model_of_other_features_is_refused_before_anything_is_written(volume, tmp_path):
    from dataclasses import replace

    from overseg.model import load
    from overseg.model.mlp import save

    shipped = load("default")
    head = shipped.heads["moments"]
    other = replace(head, features=("something_else", *head.features[1:]))
    save(tmp_path / "mine.safetensors", {"moments": other}, shipped.card)
    with pytest.raises(ModelError, match="other features"):
        overseg.plan(volume, model=str(tmp_path / "mine.safetensors"))
    with pytest.raises(ModelError, match="no head 'moments'"):
        overseg.plan(volume, model="paper")
    assert not (tmp_path / "cells.overseg").exists()


def test_a_copy_inside_its_volume_leaves_nothing_behind(volume, tmp_path):
    with pytest.raises(InputError, match="inside each other"):
        overseg.correct(volume, output=f"{volume}/copy.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.zarr"]


def test_masks_too_large_for_a_worker_are_refused_unless_none_is_restored(volume, monkeypatch):
    from overseg.pipeline import fills

    monkeypatch.setattr(fills, "peak_bytes", lambda *_: 1 << 50)
    with pytest.raises(ResourceError, match="largest mask"):
        overseg.plan(volume)
    assert overseg.plan(volume, fill="none").summary()["merged"] == 1


def test_one_layer_and_a_held_volume_are_refused_at_once(volume, tmp_path):
    with pytest.raises(InputError, match="one layer"):
        overseg.plan(np.ones((1, 8, 8), np.uint8))
    with locked(open_volume(volume)), pytest.raises(LockedError):
        overseg.correct(volume)
    assert not (Path(volume).parent / "cells.overseg").exists()
