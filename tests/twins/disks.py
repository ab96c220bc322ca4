"""Disks that fill up, turn read-only, or refuse one file while a run is at work; and their cures.

The operating system itself refuses in all cases. Where this process may mount, a disk is a small tmpfs and
what turns read-only is a mount; where it may not, a limit on the size of files, and file modes, do the same.
Set ``OVERSEG_NO_MOUNT`` to see how it goes without.
"""

from __future__ import annotations

import functools
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twins.trials import Run

Cure = Callable[[], None]
_MIB = 64  # of a small disk


@functools.cache
def may_mount() -> bool:
    """Whether this process may mount."""
    if os.environ.get("OVERSEG_NO_MOUNT"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
        except FileNotFoundError:
            return False
        if done:
            subprocess.run(["umount", folder], check=True)
        return done


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder on a disk of its own, where that is allowed; anyhow a new one within `folder`."""
    place = folder / "disk"
    place.mkdir()
    if not may_mount():
        yield place
        return
    if not _mount("-t", "tmpfs", "-o", f"size={_MIB}m", "tmpfs", str(place)):
        raise OSError(f"cannot mount at {place}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()


def fill(run: Run, disk: Path) -> Cure:
    """Take all the room there is on a small disk; or let no process of this run make a file larger."""
    if not may_mount():
        for pid in run.family():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return _nothing
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return functools.partial(filler.unlink, missing_ok=True)


def make_read_only(run: Run, folder: Path) -> Cure:
    """Let nothing in a folder be written any more; a run must obey modes where this process may not mount."""
    if may_mount():
        for _ in range(50):
            if not _mount("--bind", str(folder), str(folder)):
                raise OSError(f"cannot mount at {folder}")
            if _mount("-o", "remount,bind,ro", str(folder)):
                return functools.partial(_umount, folder)
            _umount(folder)  # the run has just opened a file there to write to
        raise OSError(f"cannot make {folder} read-only")
    changed = [Path(top) for top, _, _ in os.walk(folder)]
    changed += [Path(top) / name for top, _, names in os.walk(folder) for name in names]
    modes = [path.stat().st_mode for path in changed]
    return _change(dict(zip(changed, modes, strict=True)), 0o222)


def refuse(run: Run, paths: list[Path], bits: int) -> Cure:
    """Take these permissions from files or folders; the run must obey modes."""
    return _change({path: path.stat().st_mode for path in paths}, bits)


def _change(modes: dict[Path, int], bits: int) -> Cure:
    def cure() -> None:
        for path, mode in modes.items():
            path.chmod(mode)

    for path, mode in modes.items():
        with suppress(FileNotFoundError):  # a temporary file that was just renamed
            path.chmod(mode & ~bits)
    return cure


def _nothing() -> None:
    """The limit ended with its processes."""


def _umount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True).returncode == 0
