"""The program as a process: start, terminal, signals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STAND_IN = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from overseg import api

def made(phase):
    summary = {"volume": "v", "plan": "p", "plan_hash": "0", "merged": 3, "units_rewritten": 1}
    return SimpleNamespace(path=Path("p"), phase=phase, summary=lambda: summary)

def correct(volume, *, confirm=None, **options):
    if confirm is not None and not confirm(made("planned")):
        return made("planned")
    return made("applied")

def apply(plan, **options):
    print("busy", flush=True)
    time.sleep(60)

api.correct, api.apply = correct, apply
from overseg.cli import main
sys.argv[0] = "overseg"
main()
"""


def start(*words: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", STAND_IN, *words]
    return subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("blow", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_signals_end_the_run_with_the_way_to_continue(blow: signal.Signals, code: int) -> None:
    process = start("apply", "my plan.overseg", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    process.send_signal(blow)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1].strip() == "overseg apply 'my plan.overseg'"
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("words", "answer", "code", "said"),
    [
        ([], "y\n", 0, "overseg undo p"),
        ([], "n\n", 1, "Nothing was changed"),
        ([], "\n", 1, "Nothing was changed"),
        (["--yes"], "", 0, "overseg undo p"),
        (["--output", "copy.zarr"], "", 0, "overseg undo p"),
    ],
)
def test_on_a_terminal_correct_shows_and_asks(words: list[str], answer: str, code: int, said: str) -> None:
    ours, theirs = pty.openpty()
    process = start("correct", "v.zarr", *words, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    os.write(ours, answer.encode())
    out, _ = process.communicate(timeout=60)
    shown = os.read(ours, 65536) if answer else b""
    os.close(ours)
    assert process.returncode == code
    assert said in out
    if answer:
        assert b"to merge" in shown
        assert b"in place?" in shown


def test_the_installed_program_starts_without_heavy_packages() -> None:
    code = (
        "import sys; sys.argv = ['overseg', '--version']\n"
        "import overseg.cli\n"
        "heavy = {'numpy', 'zarr', 'dask', 'distributed', 'pydantic', 'scipy', 'torch', 'rich', 'numba'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_console_script_is_there() -> None:
    program = Path(sys.executable).with_name("overseg")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("overseg ")
    assert done.stderr == ""
