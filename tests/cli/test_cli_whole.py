"""The commands on a real volume, one after the other, as a user would type them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from typer.testing import CliRunner

from overseg.cli import app
from overseg.measure import generate_tissue


def run(*words: object, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == code, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def said(*words: object) -> str:
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_a_tissue_to_a_corrected_volume_and_back(tmp_path: Path) -> None:
    tissue = generate_tissue((24, 96, 96), n_cells=50, seed=3)
    cells, broken, fixed = (tmp_path / f"{name}.zarr" for name in ("cells", "broken", "fixed"))
    zarr.create_array(cells, data=tissue, chunks=(12, 48, 48))
    size = ("--voxel-size", 1, 1, 1)
    assert run("simulate", cells, broken, *size, "--seed", 1)["splits"] > 0
    before = zarr.open_array(broken)[:]

    planned = run("plan", broken, *size, "--workers", 1)
    assert planned["volume"] == str(broken)
    assert planned["candidates"] == sum(planned[k] for k in ("merged", "filled", "kept", "review"))
    assert isinstance(planned["peak_rss_bytes"], int)
    assert np.array_equal(zarr.open_array(broken)[:], before)

    applied = run("apply", planned["plan"], "--workers", 1)
    assert applied["plan_hash"] == planned["plan_hash"]
    after = zarr.open_array(broken)[:]
    assert (after != before).any() == (applied["merged"] > 0)
    assert run("verify", planned["plan"])["ok"]
    assert run("apply", planned["plan"], "--workers", 1)["units_rewritten"] == 0
    assert run("evaluate", broken, tmp_path / "broken.truth")["splits"] > 0
    assert run("show", broken)["labels"] == len(np.unique(after)) - 1
    assert run("show", planned["plan"])["plan_hash"] == planned["plan_hash"]
    assert f"overseg plan {broken}" in said("show", broken)
    assert f"overseg undo {planned['plan']}" in said("show", planned["plan"])
    assert "Only listed voxels changed, each as planned." in said("verify", planned["plan"])
    assert "Undone" in said("undo", planned["plan"])
    assert np.array_equal(zarr.open_array(broken)[:], before)

    copied = run("correct", broken, "--output", fixed, *size, "--workers", 1)
    assert copied["plan_hash"] == planned["plan_hash"]
    assert np.array_equal(zarr.open_array(fixed)[:], after)
    assert np.array_equal(zarr.open_array(broken)[:], before)


def test_refusals_before_anything_is_written(tmp_path: Path) -> None:
    missing = run("plan", tmp_path / "nothing.zarr", code=1)["error"]
    assert missing["what"] and missing["remedy"]
    assert str(tmp_path / "nothing.zarr") in missing["where"]
    assert run("verify", tmp_path / "nothing.overseg", code=1)["error"]["remedy"]
    assert list(tmp_path.iterdir()) == []


def test_cells_that_were_cut_are_told_and_judged(tmp_path: Path) -> None:
    cells, broken, truth = (tmp_path / name for name in ("cells.zarr", "broken.zarr", "broken.truth"))
    tissue = generate_tissue((24, 64, 64), n_cells=30, seed=3)
    zarr.create_array(cells, data=tissue, chunks=(12, 48, 48))
    words = ("--kind", "tilted", "--voxel-size", 1, 1, 1)
    told = run("simulate", cells, broken, *words)
    assert told["cuts"] > 0 and "splits" not in told
    judged = run("evaluate", truth / "labels.zarr", truth, "--broken", broken)
    assert judged["cuts"] == judged["cuts_joined"] == judged["merges_right"] == told["cuts"]
    lines = said("simulate", cells, tmp_path / "other.zarr", *words)
    assert "--kind tilted" in lines and "--broken" in lines


def test_whole_layers_are_blanked_on_demand(tmp_path: Path) -> None:
    cells, broken = tmp_path / "cells.zarr", tmp_path / "broken.zarr"
    zarr.create_array(cells, data=generate_tissue((24, 64, 64), n_cells=30, seed=3), chunks=(12, 48, 48))
    words = ("--layers", 2, "--rate", 0, "--hard", 0, "--voxel-size", 1, 1, 1)
    assert run("simulate", cells, broken, *words)["splits"] > 0
    assert np.count_nonzero(~zarr.open_array(broken)[:].any(axis=(1, 2))) == 2
