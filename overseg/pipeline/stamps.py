"""What the store said of each write unit when the scan read it: one that nobody rewrote is as planned.

A stamp is what a store tells of stored bytes without reading them (size and time of change, or an object's
tag). It stands beside the digest of the voxels that were read, so that it can speak for no other plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overseg.volume import Volume

_SUFFIX = ".stamps.json"


def stamps_of(volume: Volume, units: Iterable[int]) -> dict[int, str] | None:
    """Stamps of units of level 0; ``None`` if the store cannot tell those of all."""
    stamps = {}
    for unit in units:
        stamp = volume.unit_stamp(unit)
        if stamp is None:
            return None
        stamps[unit] = stamp
    return stamps


def mark_of(stamps: Mapping[int, str] | None) -> str | None:
    """One mark for many stamps."""
    if stamps is None:
        return None
    hasher = hashlib.sha256()
    for unit, stamp in stamps.items():
        hasher.update(f"{unit}:{stamp}\n".encode())
    return hasher.hexdigest()


def write_stamps(
    folder: Path, name: str, stamps: Mapping[int, str] | None, digests: Mapping[int, bytes]
) -> None:
    """Keep stamps, taken before the units were read, and the digests of what was read then.

    Parameters
    ----------
    folder : Path
        Of the scan's files.
    name : str
        Of the scan task.
    stamps : mapping of int to str, optional
        By unit; nothing is written without.
    digests : mapping of int to bytes
        By unit.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    from overseg.pipeline.scantables import write_whole

    if stamps is not None:
        rows = [[unit, stamp, digests[unit].hex()] for unit, stamp in stamps.items() if unit in digests]
        write_whole(folder / f"{name}{_SUFFIX}", json.dumps(rows, separators=(",", ":")).encode())


def read_stamps(folder: Path, planned: Mapping[int, bytes]) -> dict[int, list[str]]:
    """Stamps with which units were seen to hold what was planned from.

    Parameters
    ----------
    folder : Path
        Of the scan's files; they may be gone, or damaged: then less is known.
    planned : mapping of int to bytes
        The digest in the plan, by unit.

    Returns
    -------
    dict of int to list of str
        Of those units alone of which something is known.
    """
    found: dict[int, list[str]] = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            for unit, stamp, digest in json.loads(path.read_bytes()):
                if unit in planned and bytes.fromhex(digest) == planned[unit]:
                    found.setdefault(unit, []).append(str(stamp))
        except (OSError, ValueError, TypeError):
            continue
    return found
