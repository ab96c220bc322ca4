"""Where a zarr hierarchy lies: a local folder or a URL, picklable, and silent about credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overseg.errors import InputError, VolumeError
from overseg.volume.files import Files, LocalFiles
from overseg.volume.remote import S3, RemoteFiles, impatient, patient, secrets_of

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_SAVE = "save it first: `zarr.save_array('volume.zarr', data)`, or pass a NumPy array to `overseg.correct`"


@dataclass(frozen=True)
class Place:
    """One node of a zarr hierarchy.

    Attributes
    ----------
    location : str
        Real path, or URL without user, password and query.
    local : bool
        A folder on this machine, or one mounted on it.
    """

    location: str
    local: bool
    _url: str = field(default="", repr=False, compare=False)
    _options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, source: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Place:
        """The place that a path or URL names.

        Raises
        ------
        InputError
            If a URL chains file systems, carries a query, or credentials for S3.
        """
        text = os.fspath(source)
        if "::" in text and "://" in text:
            raise InputError(
                "chained URLs are not supported",
                where=text.partition("::")[0] + "::",
                remedy="copy the volume to a disk or bucket of its own first",
            )
        match = _SCHEME.match(text)
        if match is None:
            return cls(os.path.realpath(Path(text).expanduser()), True)
        scheme = match[1].lower()
        rest = text[match.end() :]
        if scheme in ("file", "local"):
            return cls(os.path.realpath("/" + rest.lstrip("/")), True)
        host, slash, path = rest.partition("/")
        public = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".partition("?")[0].rstrip("/")
        if "?" in text and scheme.startswith("http"):
            raise InputError(
                "a URL with a query (after '?') cannot be the address of a zarr volume",
                where=public,
                remedy="give the address alone; put tokens into the fsspec configuration",
            )
        if scheme in S3 and "@" in host:
            raise InputError(
                "an address in S3 cannot carry credentials",
                where=public,
                remedy="give the address alone; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        return cls(public, False, f"{scheme}://{rest}".rstrip("/"), dict(options or {}))

    @classmethod
    def of_store(cls, store: Any, path: str) -> Place:
        """The place of an open zarr array or group, so that other processes can open it as well.

        Raises
        ------
        VolumeError
            If the store lives in memory or is of a kind that cannot be opened again by name.
        """
        from zarr.storage import FsspecStore, LocalStore

        if isinstance(store, LocalStore):
            return cls.of(Path(store.root) / path)
        if isinstance(store, FsspecStore):
            fs = getattr(store.fs, "sync_fs", store.fs)
            options = {k: v for k, v in fs.storage_options.items() if k not in ("asynchronous", "loop")}
            inside = "/".join(part for part in (store.path.strip("/"), path) if part)
            return cls.of(fs.unstrip_protocol(inside), options)
        raise VolumeError(
            f"a volume in a {type(store).__name__} cannot be opened by other processes",
            where=repr(type(store).__name__),
            remedy=_SAVE,
        )

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.location.rstrip("/").rsplit("/", 1)[-1]

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may show."""
        return () if self.local else secrets_of(self._url, self.location, self._options)

    @property
    def files(self) -> Files:
        """Raw bytes below this place."""
        if self.local:
            return LocalFiles(self.location)
        return RemoteFiles(self._url, self.location, self._options)

    def child(self, key: str) -> Place:
        """A node below this one; itself for an empty key."""
        if not key:
            return self
        url = f"{self._url}/{key}" if self._url else ""
        return Place(f"{self.location}/{key}", self.local, url, self._options)

    def parent(self) -> Place | None:
        """The node above, ``None`` at the top."""
        top, _, name = self.location.rstrip("/").rpartition("/")
        if not name or not top or top.endswith((":", "/")):
            return None
        return Place(top, self.local, self._url.rpartition("/")[0], self._options)

    def store(self, *, read_only: bool = True) -> Any:
        """A zarr store rooted here."""
        from zarr.storage import FsspecStore, LocalStore

        if self.local:
            return LocalStore(self.location, read_only=read_only)
        options = patient(self._url, self._options)
        store = FsspecStore.from_url(self._url, storage_options=options, read_only=read_only)
        impatient(store.fs)
        return store
