"""Files that are there whole or not at all, even after a crash."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_atomically(path: Path, *data: bytes | memoryview) -> None:
    """Write pieces to a file so that it is there whole or not at all, even after a crash."""
    # Processes on several machines may write the same file, and have the same number.
    part = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "wb") as file:
            file.writelines(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the file system knows how."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse; the files themselves are synced
        pass
    finally:
        os.close(handle)
