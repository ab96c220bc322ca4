"""The journal: what every written unit held before, on the disk before the unit is written.

Segments are files of records; each process of each attempt appends to its own. A record is a magic word, a
head with kind, length and checksum, and its payload. Whatever a kill has torn does not pass the checksum and
counts for nothing: a unit whose record is not whole was never written. Three kinds of record:

* image: level, unit, digests before and after, and the runs of voxels that change with their old values;
* done: level, unit, digests before and after, of a unit that was written, or needed no change (then equal),
  and the stamp of its stored bytes then, so that an undo need not read it to know that nobody came since;
* meta: a metadata file's bytes before and after.
"""

from __future__ import annotations

import base64
import json
import mmap
import os
import platform
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import PlanError, StorageError
from overseg.kernels.relabel import Runs, put_back
from overseg.kernels.tables import Int
from overseg.pipeline.durable import sync_folder

Voxels = npt.NDArray[np.integer[Any]]
Key = tuple[int, int]

_MAGIC = b"\x9aOVSGJ1\n"
_HEAD = struct.Struct("<8sBQ16s")  # magic, kind, length of the payload, checksum
_UNIT = struct.Struct("<iq16s16s")  # level, unit, digest before, digest after
_SIZES = struct.Struct("<4sQQ")  # dtype, runs, bytes of the packed runs when unpacked
_IMAGE, _DONE, _META = 1, 2, 3
BYTES_PER_RUN = 8  # packed; four times what tissue takes


@dataclass(frozen=True)
class Image:
    """Where a unit's before-image lies.

    Attributes
    ----------
    level, unit : int
    before, after : bytes
        Digests of the unit, 16 bytes each.
    segment : str
        File name of the segment.
    offset, length : int
        Of the payload in the segment, in bytes.
    """

    level: int
    unit: int
    before: bytes
    after: bytes
    segment: str
    offset: int
    length: int


@dataclass(frozen=True)
class Meta:
    """A metadata file before and after; ``None`` where there was no such file.

    Attributes
    ----------
    path : str
        Relative to the prefix of the level-0 array; ``..`` leads to the groups above.
    before, after : bytes or None
    """

    path: str
    before: bytes | None
    after: bytes | None


@dataclass
class Journal:
    """What all segments of one application say.

    Attributes
    ----------
    images : dict
        First whole image by (level, unit).
    done : dict
        Digests before and after by (level, unit), of units that are through; equal for unchanged ones.
    metas : list of Meta
        In the order of writing, within each segment.
    stamps : dict
        What the store said of a unit's bytes once they were written, by (level, unit), where it could.
    """

    images: dict[Key, Image] = field(default_factory=dict)
    done: dict[Key, tuple[bytes, bytes]] = field(default_factory=dict)
    metas: list[Meta] = field(default_factory=list)
    stamps: dict[Key, str] = field(default_factory=dict)

    def lost(self) -> list[Key]:
        """Units that were written and whose before-image is not here: the journal was damaged since."""
        written = [key for key, (before, after) in self.done.items() if before != after]
        return sorted(key for key in written if key not in self.images)


class Segment:
    """A segment open for appending; every process, thread and attempt has its own.

    Parameters
    ----------
    folder : Path
        Of the journal; made if missing.
    attempt : str
        Unique to one run of `apply`.
    """

    def __init__(self, folder: Path, attempt: str) -> None:
        name = f"{attempt}-{platform.node()}-{os.getpid()}-{threading.get_native_id()}.journal"
        self.path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            self._file = self.path.open("ab", buffering=0)
            for above in (folder, folder.parent, folder.parent.parent) if is_new else ():
                sync_folder(above)
        except OSError as error:
            raise cannot_write(folder, error) from None

    def __enter__(self) -> Segment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def image(self, level: int, unit: int, before: bytes, after: bytes, runs: Runs) -> None:
        """Append a unit's before-image; on the disk after the next `sync`. Raises `StorageError`."""
        self._append(_IMAGE, _UNIT.pack(level, unit, before, after) + _pack(runs))

    def done(self, level: int, unit: int, before: bytes, after: bytes, stamp: str | None = None) -> None:
        """Note that a unit is through; on the disk after the next `sync`."""
        self._append(_DONE, _UNIT.pack(level, unit, before, after) + (stamp or "").encode())

    def meta(self, meta: Meta) -> None:
        """Append a metadata file's bytes before and after, onto the disk. Raises `StorageError`."""
        document = {"path": meta.path, "before": _text(meta.before), "after": _text(meta.after)}
        self._append(_META, json.dumps(document).encode())
        self.sync()

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def _append(self, kind: int, payload: bytes) -> None:
        record = memoryview(_HEAD.pack(_MAGIC, kind, len(payload), _checksum(kind, payload)) + payload)
        try:
            while len(record):
                record = record[self._file.write(record) :]
        except OSError as error:
            raise cannot_write(self.path, error) from None


def read_journal(folder: Path) -> Journal:
    """Read all whole records of all segments.

    Parameters
    ----------
    folder : Path
        Of the journal; an empty journal if it is missing.

    Raises
    ------
    PlanError
        If a segment cannot be read.
    """
    journal = Journal()
    for segment in sorted(folder.glob("*.journal")) if folder.is_dir() else []:
        for kind, offset, payload in _records(segment):
            if kind == _META:
                journal.metas.append(_meta(payload))
                continue
            level, unit, before, after = _UNIT.unpack_from(payload)
            if kind == _DONE:
                journal.done.setdefault((level, unit), (before, after))
                if len(payload) > _UNIT.size:
                    journal.stamps[level, unit] = payload[_UNIT.size :].decode()
            else:
                image = Image(level, unit, before, after, segment.name, offset, len(payload))
                journal.images.setdefault((level, unit), image)
    return journal


def restore(folder: Path, image: Image, data: Voxels) -> None:
    """Make the unit as it was from the unit as it was written, in place.

    Parameters
    ----------
    folder : Path
        Of the journal.
    image : Image
    data : ndarray of integers
        The unit's voxels after the write, C-contiguous; the old values are put back.

    Raises
    ------
    PlanError
        If the before-image is damaged.
    """
    flat, runs = data.reshape(-1), read_image(folder, image)
    stops = runs.starts + runs.lengths
    if runs.values.dtype != flat.dtype or (
        len(stops) and not 0 <= runs.starts.min() <= stops.max() <= flat.size
    ):
        raise damaged(folder / image.segment)
    put_back(flat, runs)


def read_image(folder: Path, image: Image) -> Runs:
    """What was noted when the unit was written. Raises `PlanError`."""
    path = folder / image.segment
    try:
        with open(path, "rb") as file:
            file.seek(image.offset - _HEAD.size)
            head, payload = file.read(_HEAD.size), file.read(image.length)
        magic, kind, length, checksum = _HEAD.unpack(head)
    except (OSError, struct.error):
        raise damaged(path) from None
    if magic != _MAGIC or length != image.length or checksum != _checksum(kind, payload):
        raise damaged(path)
    return _unpack(payload[_UNIT.size :])


def _pack(runs: Runs) -> bytes:
    """Starts (as steps), lengths and values, compressed."""
    from numcodecs.zstd import Zstd

    dtype = runs.values.dtype.newbyteorder("<")
    steps = np.diff(runs.starts, prepend=0).astype("<i8")
    raw = steps.tobytes() + runs.lengths.astype("<i8").tobytes() + runs.values.astype(dtype).tobytes()
    return _SIZES.pack(dtype.str.encode().ljust(4), len(steps), len(raw)) + bytes(Zstd(level=1).encode(raw))


def _unpack(data: bytes) -> Runs:
    from numcodecs.zstd import Zstd

    name, n, _ = _SIZES.unpack_from(data)
    raw = bytes(Zstd().decode(data[_SIZES.size :])) if n else b""
    starts: Int = np.cumsum(np.frombuffer(raw, "<i8", n))
    lengths = np.frombuffer(raw, "<i8", n, 8 * n).astype(np.int64)
    values = np.frombuffer(raw, np.dtype(name.decode().strip()), n, 16 * n)
    return Runs(starts, lengths, values.astype(values.dtype.newbyteorder("=")))


def _records(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Whole records: kind, offset of the payload, payload. After a torn one, from the next magic word on."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                at = view.find(_MAGIC)
                while at >= 0:
                    found = _record(view, at)
                    if found is not None:
                        yield found
                        at = view.find(_MAGIC, found[1] + len(found[2]))
                    else:
                        at = view.find(_MAGIC, at + 1)
    except OSError as error:
        raise PlanError(
            f"the journal cannot be read: {error.strerror}",
            where=str(path),
            remedy="make the plan folder readable again: it holds what is needed to go on or to undo",
        ) from None


def _record(view: mmap.mmap, at: int) -> tuple[int, int, bytes] | None:
    start = at + _HEAD.size
    if start > len(view):
        return None
    _, kind, length, checksum = _HEAD.unpack_from(view, at)
    if length > len(view) - start:
        return None
    payload = view[start : start + length]
    return (kind, start, payload) if _checksum(kind, payload) == checksum else None


def _checksum(kind: int, payload: bytes) -> bytes:
    import xxhash

    return bytes(xxhash.xxh3_128_digest(payload, seed=kind))


def _meta(payload: bytes) -> Meta:
    document = json.loads(payload)
    return Meta(document["path"], _bytes(document["before"]), _bytes(document["after"]))


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The error of a journal that cannot be written; nothing is lost by it."""
    return StorageError(
        f"the journal cannot be written: {error.strerror}",
        where=str(path),
        remedy="free disk space or permit writing there, then run the same command again: it goes on",
    )


def damaged(path: Path) -> PlanError:
    """The error of a before-image that is needed and is not whole."""
    return PlanError(
        "the journal is damaged: a unit's earlier voxels cannot be read from it",
        where=str(path),
        remedy="restore the plan folder from a backup before anything else is done to the volume",
    )
