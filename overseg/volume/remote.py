"""Behind an fsspec URL: raw bytes, and how patient we are with a store that does not answer.

Credentials come from the environment, or from the files that the store's own library looks into; they are no
part of a plan, a log or a message.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from overseg.errors import MissingPackageError
from overseg.volume.faults import storage
from overseg.volume.files import Files, Keys, is_leftover

#: For S3, where nothing else is configured: seconds to connect and to wait for the next bytes, and tries of
#: one request. botocore would wait a minute five times over, and s3fs tries all that up to 25 times.
CONNECT, ANSWER, TRIES = 10, 10, 3
S3 = ("s3", "s3a")
_AGAIN = 2  # times that s3fs tries all of that again


@dataclass(frozen=True)
class RemoteFiles(Files):
    """Files behind a URL. One object is written by one request, which object stores make atomic.

    `create` takes an object with the very same bytes for its own: no two callers may offer the same. It is
    exclusive where the store answers a conditional put (Amazon S3, Google Cloud Storage).
    Elsewhere fsspec looks first and then writes, or the store ignores the condition: two runs that start in
    the same instant may then both believe that they made the file. Nothing is fsynced: that is the store's
    business.

    Attributes
    ----------
    url : str
        The prefix, with credentials if it came with any.
    location : str
        The same without credentials, for messages.
    options : mapping
        fsspec storage options.
    """

    url: str = field(repr=False)
    location: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def _secrets(self) -> tuple[str, ...]:
        return secrets_of(self.url, self.location, self.options)

    def _open(self, key: str) -> tuple[Any, str]:
        fs, path = open_filesystem(self.url, self.location, self.options)
        return fs, f"{path.rstrip('/')}/{key}" if key else path

    def _where(self, key: str) -> str:
        return f"{self.location}/{key}" if key else self.location

    def read(self, key: str) -> bytes | None:
        with storage("cannot read the object", self._where(key), self._secrets):
            fs, path = self._open(key)
            try:
                return bytes(fs.cat_file(path))
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None

    def write(self, key: str, data: bytes, fence: Callable[[], None] | None = None) -> None:
        with storage("cannot write the object", self._where(key), self._secrets):
            fs, path = self._open(key)
            if fence is not None:
                fence()
            fs.pipe_file(path, data)

    def create(self, key: str, data: bytes) -> bool:
        with storage("cannot create the object", self._where(key), self._secrets):
            fs, path = self._open(key)
            try:
                fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return self._is_ours(key, data)
            except OSError as error:
                # how S3-compatible stores other than Amazon's say that the condition failed
                if error.errno == errno.EINVAL and fs.exists(path):
                    return self._is_ours(key, data)
                raise
            return True

    def _is_ours(self, key: str, data: bytes) -> bool:
        """Whether what is in the way was stored by a try of ours whose answer got lost."""
        return self.read(key) == data

    def delete(self, key: str) -> None:
        with storage("cannot delete the object", self._where(key), self._secrets):
            fs, path = self._open(key)
            try:
                fs.rm_file(path)
            except (FileNotFoundError, NotADirectoryError):
                return

    def list(self, prefix: str = "") -> Keys:
        with storage("cannot list the objects", self._where(prefix), self._secrets):
            fs, top = self._open("")
            fs.invalidate_cache()
            _, path = self._open(prefix.rstrip("/"))
            try:
                found = fs.find(path)
            except FileNotFoundError:
                return []
            start = len(top.rstrip("/")) + 1
            return sorted(name[start:] for name in found if not is_leftover(name))

    def children(self, prefix: str = "") -> Keys:
        with storage("cannot list the objects", self._where(prefix), self._secrets):
            fs, path = self._open(prefix.rstrip("/"))
            fs.invalidate_cache()
            try:
                entries = fs.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError, NotImplementedError):
                return []
            folders = [entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"]
            return sorted(name.rsplit("/", 1)[-1] for name in folders)

    def stamp(self, key: str) -> str | None:
        with storage("cannot look at the object", self._where(key), self._secrets):
            fs, path = self._open(key)
            fs.invalidate_cache()
            try:
                facts = fs.info(path)
            except FileNotFoundError:
                return "absent"
            mark = facts.get("ETag") or facts.get("etag") or facts.get("LastModified") or facts.get("mtime")
            return None if mark is None else f"{facts.get('size')}:{mark}"


def open_filesystem(url: str, location: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path inside it. Raises `MissingPackageError`."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url, **patient(url, options))
        return impatient(fs), str(path)
    except ImportError as error:
        scheme = location.split(":", 1)[0]
        raise MissingPackageError(
            f"reading {scheme}:// needs a package that is not installed ({error})",
            where=location,
            remedy="install it, for example `pip install s3fs`, `gcsfs` or `adlfs`",
        ) from None


def patient(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """fsspec options with limits on how long a request may take; those that the user has set stay.

    Parameters
    ----------
    url : str
        Its scheme decides.
    options : mapping
        The user's; those of the fsspec configuration count as well.
    """
    from fsspec.config import conf

    scheme = url.partition("://")[0].lower()
    if scheme not in S3:
        return dict(options)
    limits = {
        "connect_timeout": CONNECT,
        "read_timeout": ANSWER,
        "retries": {"mode": "standard", "total_max_attempts": TRIES},
    }
    theirs = {**conf.get("s3", {}), **conf.get("s3a", {}), **options}.get("config_kwargs") or {}
    return {**options, "config_kwargs": {**limits, **theirs}}


def impatient(fs: Any) -> Any:
    """The same file system, which tries no request more than a few times."""
    if hasattr(fs, "retries"):
        fs.retries = _AGAIN
    return fs


def secrets_of(url: str, location: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Strings that no message may show: the raw URL's user part and every text among the options."""
    secrets = [] if url == location else [url.split("://", 1)[-1].split("@", 1)[0], url]
    values: list[Any] = list(options.values())
    while values:
        value = values.pop()
        if isinstance(value, Mapping):
            values += value.values()
        elif isinstance(value, list | tuple):
            values += value
        elif isinstance(value, str) and len(value) > 3:
            secrets.append(value)
    return tuple(sorted(secrets, key=len, reverse=True))
