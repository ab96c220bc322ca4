"""Run `benchmarks.speed.drive` in a process of its own, and watch the memory of all processes it starts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from overseg.errors import TaskError

ROOT = Path(__file__).resolve().parents[2]
_EVERY = 0.1  # seconds; peaks are the kernel's own, so only what grows in a process's last moment is missed


def run(action: str, path: Path | str, workers: int) -> dict[str, Any]:
    """What `drive` says, with ``peak``: bytes of the driver (the scheduler is in it) and of any worker.

    Raises
    ------
    TaskError
        If the run failed; with its last words.
    """
    words = [sys.executable, "-m", "benchmarks.speed.drive", action, str(path), str(workers)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in _family(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), _peak(pid))
        time.sleep(_EVERY)
    out, complaints = process.communicate()
    if process.returncode:
        raise TaskError(
            f"{action} failed: {(complaints.strip() or 'no word why').splitlines()[-1]}",
            where=" ".join(words),
            remedy="run that line by itself to see the whole error",
        )
    said: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    driver = peaks.pop(process.pid, 0)
    said["peak"] = {"driver": driver, "worker": max(peaks.values(), default=driver)}
    return said


def cleared(path: Path) -> None:
    """Remove a volume and its plan."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path.with_suffix(".overseg"), ignore_errors=True)


def _family(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def _peak(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    match = re.search(r"^VmHWM:\s*(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
