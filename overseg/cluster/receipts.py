"""Which units of a step are done: one JSON line each, appended to one file per step.

Tasks of a job array, which run at the same time and know nothing of each other, have a file each. A receipt
that does not fit any more is recalled by a line of its own before its unit is done anew: what it speaks of is
about to be written over, and the volume may yet come back as it was when it was made.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from overseg.errors import StorageError

Receipt = dict[str, Any]


def read(folder: Path, step: str) -> dict[str, Receipt]:
    """Receipts by unit. A line torn by a kill counts for nothing; the last of several counts.

    One that was recalled does not, in whatever file it stands.
    """
    path = _file(folder, step)
    files: list[dict[str, Receipt]] = []
    recalled: set[tuple[str, str]] = set()
    try:
        for each in [path, *sorted(folder.glob(f"{step}.task-*.jsonl"))]:
            with suppress(FileNotFoundError):
                files.append(_read(each.read_bytes(), recalled))
    except OSError as error:
        raise _storage(error, path) from None
    return {
        unit: receipt
        for found in files
        for unit, receipt in found.items()
        if not recalled or (unit, json.dumps(receipt)) not in recalled
    }


def _read(data: bytes, recalled: set[tuple[str, str]]) -> dict[str, Receipt]:
    """One file's receipts by unit; those that it recalls go into a set, since they may be another file's."""
    found: dict[str, Receipt] = {}
    for line in data.splitlines():
        try:
            entry = json.loads(line)
            unit, receipt = str(entry["unit"]), dict(entry.get("recalled") or entry["receipt"])
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if "recalled" in entry:
            found.pop(unit, None)
            recalled.add((unit, json.dumps(receipt)))
        else:
            found[unit] = receipt
    return found


def file_is_there(_: str, receipt: Receipt) -> bool:
    """Whether the file that a receipt names as ``path`` still exists; a `valid` for `Executor.run`."""
    return Path(receipt["path"]).exists()


@contextmanager
def recording(
    folder: Path, step: str, task: int | None = None, stale: Mapping[str, Receipt] | None = None
) -> Iterator[Callable[[str, Receipt], None]]:
    """A function that writes one unit's line, in one piece; a torn last line is closed first.

    Parameters
    ----------
    folder : Path
        Of the receipts; made if missing.
    step : str
    task : int, optional
        Of a job array.
    stale : mapping of str to dict, optional
        Receipts to be recalled.
    """
    path = _file(folder, step if task is None else f"{step}.task-{task}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise _storage(error, path) from None
    with file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        for unit, receipt in (stale or {}).items():
            _append(file, unit, receipt, "recalled")
        yield partial(_append, file)


def _append(file: BinaryIO, unit: str, receipt: Receipt, what: str = "receipt") -> None:
    line = json.dumps({"unit": unit, what: receipt}, separators=(",", ":")).encode() + b"\n"
    try:
        if file.write(line) < len(line):  # a full disk takes what it can, and says nothing
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise _storage(error, Path(file.name)) from None


def _file(folder: Path, step: str) -> Path:
    return folder / f"{step}.jsonl"


def _storage(error: OSError, path: Path) -> StorageError:
    return StorageError(
        f"cannot keep track of what is done: {error.strerror}",
        where=str(path),
        remedy="free some disk space or permit writing there, then run the same command again",
    )
