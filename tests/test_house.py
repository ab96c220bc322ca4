"""The house rules that a program can check: rooms, size of files, settings that are told."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from overseg.settings import RunSettings, Settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "overseg"

#: From the ground up; a room may use those before it, and itself.
ROOMS = ["errors", "settings", "kernels", "volume", "model", "cluster", "pipeline", "measure", "views"]
UPSTAIRS = {"api", "jobarray", "demo", "warm", "cli", "__init__", "__main__"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules that a file imports when it runs; imports for the type checker do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def test_imports_point_downwards():
    wrong = []
    for path in modules():
        here = room(path)
        if here in UPSTAIRS:
            continue
        allowed = {*ROOMS[: ROOMS.index(here) + 1], "__version__"}
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "overseg" and len(parts) > 1 and parts[1] not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_only_the_cluster_room_knows_dask_and_kernels_know_no_storage():
    for path in modules():
        tops = {name.split(".")[0] for name in imports(path)}
        if room(path) != "cluster":
            assert not tops & {"dask", "distributed", "dask_jobqueue"}, path
        if room(path) == "kernels":
            assert not tops & {"zarr", "pyarrow", "fsspec", "h5py", "tifffile"}, path


def test_files_are_short_and_nothing_is_unpickled():
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, f"{path} has {text.count(chr(10))} lines"
        assert not re.search(r"^\s*(import|from) (pickle|cloudpickle|dill|shelve)\b", text, re.MULTILINE), (
            path
        )
        assert "allow_pickle=True" not in text, path


def test_every_setting_is_in_the_settings_page():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name in [*Settings.model_fields, *RunSettings.model_fields]:
        assert f"`{name}`" in page, name


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from overseg.cli import main\n"
        "sys.argv = ['overseg', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'zarr', 'numba', 'distributed', 'torch', 'pyarrow', 'scipy', 'pydantic'}\n"
        "sys.stderr.write(','.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "correct" in done.stdout
    assert done.stderr == ""
