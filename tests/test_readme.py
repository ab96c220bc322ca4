"""Every command and every line of Python in the README runs as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from overseg.measure import generate_tissue, simulate_splits

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the README takes for granted: cells.zarr and stack.tif."""
    folder = tmp_path_factory.mktemp("readme")
    tissue = generate_tissue((16, 48, 48), n_cells=20, seed=2)
    broken, _ = simulate_splits(tissue, rate=0.5, seed=2)
    array = zarr.create_array(str(folder / "cells.zarr"), shape=broken.shape, chunks=(8, 32, 32), dtype="u4")
    array[:] = broken
    tifffile.imwrite(folder / "stack.tif", broken.astype(np.uint16))
    return folder


def test_commands_run_in_order(folder):
    lines = [
        line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.strip()
    ]
    assert len(lines) >= 8
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "overseg", line
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    assert (folder / "stack_corrected.tif").exists()


def test_python_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"volume": zarr.open_array("cells.zarr", mode="r")[:]}
    before = np.array(names["volume"])
    parts = blocks("python")
    assert len(parts) >= 2
    for part in parts:
        exec(compile(part, "README.md", "exec"), names)  # noqa: S102
    np.testing.assert_array_equal(zarr.open_array("cells.zarr", mode="r")[:], before)


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_of_the_readme_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
