"""Raw bytes under one prefix, on a local disk or behind an fsspec URL."""

from __future__ import annotations

import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from overseg.volume.faults import storage

TEMPORARY = ".overseg-tmp-"
_LEFTOVER = re.compile(r"\.overseg-tmp-|\.[0-9a-f]{32}\.partial$")  # ours, and zarr's
Keys = list[str]  # inside the classes `list` is a method


def is_leftover(key: str) -> bool:
    """A temporary file of a write that was killed: no part of the volume."""
    return _LEFTOVER.search(key) is not None


class Files(ABC):
    """Small files below one prefix. Keys are relative, with ``/`` between the parts."""

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """The bytes of `key`, ``None`` if there is no such file. Raises `StorageError`."""

    @abstractmethod
    def write(self, key: str, data: bytes, fence: Callable[[], None] | None = None) -> None:
        """Set the bytes of `key`: a reader sees all of the old or all of the new. Raises `StorageError`.

        `fence` is called at the last moment; what it raises is passed on, and nothing is written.
        """

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Make `key` if it does not exist and say whether it was made. Raises `StorageError`."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove `key`; no error if there is none. Raises `StorageError`."""

    @abstractmethod
    def list(self, prefix: str = "") -> Keys:
        """Keys of all finished files under the folder `prefix`, sorted. Raises `StorageError`."""

    @abstractmethod
    def children(self, prefix: str = "") -> Keys:
        """Names of the folders directly under the folder `prefix`, sorted. Raises `StorageError`."""

    @abstractmethod
    def stamp(self, key: str) -> str | None:
        """A cheap mark of the stored bytes; "absent" without any, ``None`` if the store cannot say."""


@dataclass(frozen=True)
class LocalFiles(Files):
    """Files in a folder. Writes are atomic (rename) and reach the disk before they return (fsync).

    Attributes
    ----------
    root : str
        The folder; it need not exist yet.
    """

    root: str

    def _path(self, key: str) -> str:
        return os.path.join(self.root, *key.split("/")) if key else self.root

    def read(self, key: str) -> bytes | None:
        path = self._path(key)
        with storage("cannot read the file", path):
            try:
                with open(path, "rb") as file:
                    return file.read()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def write(self, key: str, data: bytes, fence: Callable[[], None] | None = None) -> None:
        path = self._path(key)
        with storage("cannot write the file", path):
            temporary = _write_beside(path, data)
            try:
                if fence is not None:
                    fence()
                os.replace(temporary, path)
            except Exception as error:
                with suppress(OSError):
                    os.unlink(temporary)
                if fence is not None and isinstance(error, FileNotFoundError):
                    fence()  # who takes a lock over removes such files, as `direct.save` tells
                raise
            _sync_folder(path)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with storage("cannot create the file", path):
            if os.path.lexists(path):
                return False
            temporary = _write_beside(path, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:
                return _create_plainly(path, data)  # a file system without hard links
            finally:
                os.unlink(temporary)
            _sync_folder(path)
            return True

    def delete(self, key: str) -> None:
        path = self._path(key)
        with storage("cannot delete the file", path):
            try:
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                return

    def list(self, prefix: str = "") -> Keys:
        keys = []
        top = self._path(prefix.rstrip("/"))
        with storage("cannot list the folder", top):
            for folder, names in _walk(top):
                inside = os.path.relpath(folder, self.root).replace(os.sep, "/")
                keys += [
                    name if inside == "." else f"{inside}/{name}" for name in names if not is_leftover(name)
                ]
        return sorted(keys)

    def children(self, prefix: str = "") -> Keys:
        path = self._path(prefix.rstrip("/"))
        with storage("cannot list the folder", path):
            try:
                with os.scandir(path) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def stamp(self, key: str) -> str | None:
        path = self._path(key)
        with storage("cannot look at the file", path):
            try:
                facts = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return "absent"
            return f"{facts.st_size}:{facts.st_mtime_ns}"


def _write_beside(path: str, data: bytes) -> str:
    """A finished temporary file in the folder of `path`, on the disk."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return temporary


def _create_plainly(path: str, data: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


def _sync_folder(path: str) -> None:
    """Make a rename in the folder of `path` durable, where the system lets a folder be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _walk(top: str) -> Iterator[tuple[str, Keys]]:
    """Folders and the files in them; linked folders are followed once."""
    seen = set()
    for folder, below, names in os.walk(top, onerror=_unless_missing, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield folder, names


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
