"""Volumes behind URLs: the same voxels, the same refusals, and no credentials in what anybody can see."""

from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from overseg.errors import InputError, MissingPackageError, OversegError, StorageError, VolumeError
from overseg.volume import copy_volume, create_labels, open_volume
from overseg.volume.create import fill
from overseg.volume.files import Files, LocalFiles
from overseg.volume.place import Place
from overseg.volume.remote import RemoteFiles

DATA = np.random.default_rng(5).integers(0, 90, (6, 40, 40)).astype(np.uint32)
ALL = np.s_[0:6, 0:40, 0:40]


class Vault(MemoryFileSystem):
    """A store that wants a key and says it aloud when something goes wrong."""

    protocol = "vault"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    cachable = False
    broken = False

    def __init__(self, key: str = "", **options: Any) -> None:
        super().__init__(key=key, **options)
        self.key = key

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("vault://").rpartition("@")[2].strip("/")

    def cat_file(self, path: str, *args: Any, **options: Any) -> bytes:
        if Vault.broken:
            raise OSError(f"refused: vault://user:hunter2@host{path} with key {self.key}")
        return super().cat_file(path, *args, **options)


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty place in fsspec's memory."""
    yield "memory://room"
    fs = fsspec.filesystem("memory")
    if fs.exists("/room"):
        fs.rm("/room", recursive=True)


@pytest.fixture
def vault() -> Iterator[str]:
    fsspec.register_implementation("vault", Vault, clobber=True)
    yield "vault://user:hunter2@host/cells.zarr"
    Vault.broken = False
    Vault.store.clear()


@pytest.mark.parametrize("options", [{}, {"shards": (4, 16, 16)}, {"zarr_format": 2}], ids=str)
def test_bare_arrays_are_read_and_written(memory: str, options: dict[str, Any]) -> None:
    vol = create_labels(f"{memory}/cells.zarr", DATA.shape, DATA.dtype, (2, 16, 16), **options)
    fill(vol, lambda box: DATA[box])
    assert vol.location == "memory://room/cells.zarr" and vol.name == "cells"
    vol.check_writable()
    np.testing.assert_array_equal(vol.read(ALL), DATA)
    other = pickle.loads(pickle.dumps(vol))
    other.write_unit(1, other.read_unit(1) + 1)
    np.testing.assert_array_equal(vol.read_unit(1), DATA[vol.grid().slices(1)] + 1)
    assert not [key for key in vol.files.list() if "probe" in key]
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"/room/cells.zarr/{vol.unit_key(2)}", b"")
    with pytest.raises(VolumeError, match="truncated") as caught:
        vol.read(ALL)
    assert "unit 2" in (caught.value.where or "")


def test_ome_zarr_and_open_objects(memory: str) -> None:
    url = f"{memory}/cells.ome.zarr"
    vol = create_labels(url, DATA.shape, DATA.dtype, (2, 16, 16), ome=True, label="cells")
    fill(vol, lambda box: DATA[box])
    assert open_volume(url) == open_volume(f"{url}/labels") == open_volume(f"{url}/labels/cells/") == vol
    array = zarr.open_array(f"{url}/labels/cells/0", mode="r")
    np.testing.assert_array_equal(open_volume(array).read(ALL), DATA)


def test_refusals_name_the_address(memory: str) -> None:
    with pytest.raises(VolumeError, match="no zarr array or group") as caught:
        open_volume(f"{memory}/nothing.zarr")
    assert caught.value.where == "memory://room/nothing.zarr"
    with pytest.raises(InputError, match="chained"):
        open_volume("simplecache::s3://bucket/cells.zarr")
    with pytest.raises(InputError, match="query") as refusal:
        open_volume("https://host/cells.zarr?token=hunter2")
    assert "hunter2" not in str(refusal.value)
    with pytest.raises(OversegError):
        open_volume("nosuchscheme://bucket/cells.zarr")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(url: str, **options: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingPackageError, match="s3://") as caught:
        open_volume("s3://bucket/cells.zarr")
    assert "pip install" in (caught.value.remedy or "")


def test_credentials_are_never_shown(vault: str) -> None:
    fs = Vault(key="open-sesame")
    store = zarr.storage.FsspecStore(
        fsspec.implementations.asyn_wrapper.AsyncFileSystemWrapper(fs, asynchronous=True),
        path="host/cells.zarr",
    )
    array = zarr.create_array(store, shape=DATA.shape, dtype=DATA.dtype, chunks=(4, 16, 16))
    array[:] = DATA
    vol = open_volume(array)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(vol)).read(ALL), DATA)
    seen = [repr(vol), vol.location, repr(vol.files), repr(vol.place), vol.unit_name(0)]
    Vault.broken = True
    for action in (
        lambda: vol.read(ALL),
        lambda: copy.copy(vol).read_unit(0),
        lambda: vol.files.read("zarr.json"),
        lambda: open_volume(array),
    ):
        with pytest.raises(StorageError, match="refused") as caught:
            action()
        seen += [str(caught.value), repr(caught.value)]
    place = Place.of(vault, {"key": "open-sesame", "client_kwargs": {"secret": "abracadabra"}})
    seen += [repr(place), repr(place.files), place.location, repr(place.child("0"))]
    for text in seen:
        assert not any(word in text for word in ("open-sesame", "hunter2", "abracadabra")), text
    assert (
        set(place.secrets) >= {"open-sesame", "abracadabra"} and place.location == "vault://host/cells.zarr"
    )


@pytest.fixture(params=["local", "remote"])
def files(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> Files:
    if request.param == "local":
        return LocalFiles(str(tmp_path / "new"))
    return RemoteFiles(f"{memory}/new", f"{memory}/new")


def test_files_keep_what_they_are_given(files: Files) -> None:
    assert files.read("a/b") is None and files.list() == [] and files.children() == []
    assert files.stamp("a/b") == "absent"
    files.write("a/b", b"one")
    files.write("a/b", b"two")
    assert files.read("a/b") == b"two" and files.read("a") is None
    assert files.create("a/c", b"first") and not files.create("a/c", b"second")
    assert files.read("a/c") == b"first"
    assert files.list() == ["a/b", "a/c"] == files.list("a") and files.list("z") == []
    assert files.children() == ["a"]
    files.delete("a/b")
    files.delete("a/b")
    assert files.list("a/") == ["a/c"]


def test_only_one_of_many_creates(tmp_path: Path) -> None:
    import threading

    files, won = LocalFiles(str(tmp_path)), []
    barrier = threading.Barrier(8)

    def run(number: int) -> None:
        barrier.wait()
        if files.create("lock", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and files.read("lock") == b"%d" % won[0] and files.list() == ["lock"]


def test_a_condition_that_failed_in_the_words_of_other_stores(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RemoteFiles(memory, memory)
    put = MemoryFileSystem.pipe_file

    def strange(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if mode == "create" and self.exists(path):
            raise OSError(errno.EINVAL, "PreconditionFailed")
        put(self, path, value, mode=mode, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", strange)
    assert files.create("lock", b"x") and not files.create("lock", b"y")
    assert files.read("lock") == b"x"


def test_create_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    files = LocalFiles(str(tmp_path))
    assert files.create("lock", b"x") and not files.create("lock", b"y")
    assert files.read("lock") == b"x" and [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_failed_write_leaves_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = LocalFiles(str(tmp_path))
    files.write("state.json", b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        files.write("state.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"] and files.read("state.json") == b"old"


def test_copies_between_disk_and_url(tmp_path: Path, memory: str) -> None:
    vol = create_labels(tmp_path / "a.zarr", DATA.shape, DATA.dtype, (2, 16, 16))
    fill(vol, lambda box: DATA[box])
    up = open_volume(copy_volume(vol, f"{memory}/b.zarr"))
    down = open_volume(copy_volume(up, tmp_path / "c.zarr"))
    np.testing.assert_array_equal(down.read(ALL), DATA)
    assert up.files.list() == vol.files.list() == down.files.list()
    with pytest.raises(InputError, match="exists already"):
        copy_volume(vol, f"{memory}/b.zarr")
    with pytest.raises(InputError, match="inside each other"):
        copy_volume(up, f"{memory}/b.zarr/inside")
