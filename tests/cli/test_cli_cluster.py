"""``overseg cluster check``: what would fail on the cluster is told here, with the remedy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from overseg.cli import app

Check = Callable[..., dict[str, Any]]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Says what the machine's sbatch does, wherever the tests run; at first it takes all jobs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def does(script: str) -> None:
        (folder / "sbatch").write_text(f'#!/bin/sh\n[ "$*" = --test-only ] || exit 9\n{script}\n')
        (folder / "sbatch").chmod(0o755)

    does("cat >/dev/null")
    return does


@pytest.fixture
def check(tmp_path: Path, slurm: object) -> Check:
    def run(*words: str, code: int = 0, head: str = "", **fields: Any) -> dict[str, Any]:
        cluster = {"kind": "slurm", "walltime": "04:00:00", "memory": "8GiB", "cores": 4, **fields}
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in cluster.items())
        file = tmp_path / "run.toml"
        file.write_text(f"{head}\n[cluster]\n{lines}")
        result = CliRunner().invoke(app, ["cluster", "check", "--config", str(file), "--json", *words])
        assert result.exit_code == code, result.output
        said: dict[str, Any] = json.loads(result.stdout)
        return said

    return run


def whats(said: dict[str, Any]) -> str:
    assert not said["ok"] and all(each["remedy"] for each in said["problems"])
    return "; ".join(each["what"] for each in said["problems"])


def test_scripts_of_workers_with_and_without_a_card(check: Check) -> None:
    said = check(queue="long", gpu_jobs=2, gpu_queue="gpu", prologue=["module load cuda"], account="lab")
    assert said["ok"] and said["workers"] == 42 and said["worker_memory_bytes"] == (8192 - 256) << 18
    plain, card = said["scripts"]["workers"], said["scripts"]["workers with a card"]
    for line in ("-p long", "-A lab", "-t 04:00:00", "--cpus-per-task=4", "--mem=8G"):
        assert f"#SBATCH {line}\n" in plain
    assert "#SBATCH -p gpu\n" in card and "#SBATCH --gres=gpu:1\n" in card and "--resources GPU=1" in card
    assert "gres" not in plain
    for script in (plain, card):
        assert "\nmodule load cuda\n" in script and "\nexport OMP_NUM_THREADS=1\n" in script
        assert "--lifetime 13800s --lifetime-stagger 200s" in script


def test_a_card_that_no_job_has_is_refused(check: Check) -> None:
    assert "graphics card" in whats(check(head='device = "cuda"', code=1))
    assert check(head='device = "cuda"', gpu_jobs=1)["ok"]


def test_a_short_walltime_is_refused(check: Check) -> None:
    assert "too short" in whats(check(walltime="00:09:59", code=1))


def test_a_volume_tells_what_its_tasks_need(check: Check, tmp_path: Path) -> None:
    volume = tmp_path / "v.zarr"
    zarr.create_array(volume, shape=(256, 512, 512), chunks=(128, 512, 512), dtype=np.uint32)
    said = check(str(volume))
    assert said["tasks"] >= 1 and said["longest_task_seconds"] > 1
    assert check(str(volume), walltime="00:02:00")["ok"]  # shorter than advised without the volume
    assert "may take" in whats(check(str(volume), walltime="00:00:04", code=1))
    few = whats(check(str(volume), memory="2GiB", code=1))
    assert "a worker has" in few and "448 MiB" in few


def test_what_cannot_be_told_here_is_a_warning(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    warnings = "; ".join(check(interface="ib77")["warnings"])
    assert "sbatch is not here" in warnings and "ib77" in warnings


def test_slurm_is_asked_whether_it_takes_the_jobs(check: Check, slurm: Callable[[str], None]) -> None:
    refuses = "echo 'sbatch: error: invalid partition specified: long' >&2; echo 'allocation failure: '"
    slurm(f"if grep -q -- '-p long'; then {refuses}'Invalid partition' >&2; exit 1; fi")
    assert check(queue="short")["ok"]
    assert "invalid partition specified: long" in whats(check(queue="long", code=1))
    assert "workers with a card" in whats(check(queue="short", gpu_jobs=1, gpu_queue="long", code=1))
    slurm("echo 'allocation failure: Unable to contact slurm controller' >&2; exit 1")
    said = check()
    assert said["ok"] and "Unable to contact" in "; ".join(said["warnings"])
    slurm("echo 'sbatch: fatal: Could not establish a configuration source' >&2; exit 1")
    assert check()["ok"]


def test_a_missing_package_is_named(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    assert "dask-jobqueue" in whats(check(code=1))


def test_for_people_and_without_a_cluster(tmp_path: Path, slurm: object) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[cluster]\nkind = "slurm"\nwalltime = "01:00:00"\nmemory = "8GiB"\n')
    result = CliRunner().invoke(app, ["cluster", "check", "--config", str(file)])
    assert result.exit_code == 0 and "# the job script of workers" in result.output
    file.write_text("max_gap = 1\n")
    result = CliRunner().invoke(app, ["cluster", "check", "--config", str(file)])
    assert result.exit_code == 1 and "no jobs to check" in result.output
