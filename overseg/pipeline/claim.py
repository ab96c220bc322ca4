"""One planner per plan folder: a lock that ends with its process, however that one ends."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from overseg.errors import LockedError

_FILE = Path("run", ".planning")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a plan folder for the time of a ``with`` block; where files cannot be locked, nothing is held.

    Parameters
    ----------
    folder : Path
        Made if missing; removed again if nothing was put into it.

    Raises
    ------
    LockedError
        If another run is planning into it.
    """
    path = folder / _FILE
    file = _open(path, folder)
    if file is None:
        yield
        return
    with file:
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
                path.parent.rmdir()
                folder.rmdir()


def _open(path: Path, folder: Path) -> BinaryIO | None:
    """The locked file; None where that cannot be."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b", buffering=0)
        except OSError:  # whoever writes there next says why
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}".encode())
                return file
            file.close()  # its former owner has just removed it
        except BlockingIOError:
            with file:
                file.seek(0)
                who = file.read(200).decode(errors="replace")
            raise LockedError(
                f"another run is planning into this folder: {who or 'it has just begun'}",
                where=str(folder),
                remedy="wait until it is done, or give another folder with --out",
            ) from None
        except FileNotFoundError:
            file.close()
        except OSError:  # no locks on this file system, or no room for a word
            return file
