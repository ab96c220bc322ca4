"""Volumes in S3, on a real server: the same answer, no secrets anywhere, and ailing stores."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs
import zarr
from twins import objects
from twins.objects import Proxy, first, voxels_read, voxels_written

import overseg
from overseg.cluster import executor as executors
from overseg.errors import InputError, LockedError, StorageError
from overseg.measure import generate_tissue, simulate_splits
from overseg.volume import create, create_labels, open_volume, remote
from overseg.volume.create import fill
from overseg.volume.lock import locked

pytestmark = pytest.mark.cluster

ALL = np.s_[0:24, 0:64, 0:64]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with objects.server() as found:
        yield found


@pytest.fixture
def proxy(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """S3 as this process and its children see it: behind the proxy."""
    found = Proxy(port)
    for name, value in objects.environment(found.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "ANSWER", 1)
    monkeypatch.setattr(executors, "_PAUSES", (0.0,))
    s3fs.S3FileSystem.clear_instance_cache()
    yield found
    found.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, str]:
    """Broken voxels, corrected ones, and the plan's hash, of a volume on disk."""
    tissue = generate_tissue((24, 64, 64), n_cells=60, seed=4)
    broken = simulate_splits(tissue, rate=0.5, seed=4)[0].astype(np.uint32)
    path = tmp_path_factory.mktemp("local") / "v.zarr"
    zarr.create_array(str(path), data=broken, chunks=(8, 32, 32))
    plan = overseg.correct(path, workers=1)
    return broken, zarr.open_array(str(path), mode="r")[:], plan.hash


@pytest.fixture
def url(proxy: Proxy, local: tuple[np.ndarray, np.ndarray, str], tmp_path: Path) -> Iterator[str]:
    """The broken volume in the bucket; plans go into the working directory."""
    place = f"s3://{objects.BUCKET}/{tmp_path.name}.zarr"
    vol = create_labels(place, local[0].shape, local[0].dtype, (8, 32, 32))
    fill(vol, lambda box: local[0][box])
    before = os.getcwd()
    os.chdir(tmp_path)
    yield place
    os.chdir(before)


def stored(url: str) -> dict[str, bytes]:
    fs = fsspec.filesystem("s3")
    fs.invalidate_cache()
    names = [name for name in fs.find(url) if "/.overseg/" not in name]
    return {name: fs.cat_file(name) for name in names}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "overseg", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_the_whole_job_gives_the_same_and_no_secret_is_kept(
    url: str, local: tuple[np.ndarray, np.ndarray, str], tmp_path: Path
) -> None:
    before = stored(url)
    words = ("--workers", "2", "--memory", "512MiB")
    said = [command("plan", url, "--out", "p.overseg", *words)]
    said.append(command("apply", "p.overseg", *words))
    np.testing.assert_array_equal(open_volume(url).read(ALL), local[1])
    said.append(command("verify", "p.overseg"))
    said.append(command("show", "p.overseg"))
    said.append(command("undo", url))
    assert [each.returncode for each in said] == [0] * 5, [each.stderr for each in said]
    assert overseg.load("p.overseg").hash == local[2]
    assert stored(url) == before
    np.testing.assert_array_equal(open_volume(url).read(ALL), local[0])
    fsspec.filesystem("s3").rm(f"{url}/c/1/1/1")
    fsspec.filesystem("s3").pipe_file(f"{url}/c/0/0/0", b"nonsense")
    said.append(command("plan", url, *words))
    said.append(command("plan", f"{url}-not-there"))
    assert [each.returncode for each in said[5:]] == [1, 1]
    texts = [text.encode() for each in said for text in (each.stdout, each.stderr)]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    inside = [fsspec.filesystem("s3").cat_file(name) for name in fsspec.filesystem("s3").find(url)]
    assert len(files) > 20
    for secret in (objects.KEY, objects.SECRET):
        assert not [data for data in texts + files + inside if secret.encode() in data]


def test_a_copy_in_the_bucket(url: str, local: tuple[np.ndarray, np.ndarray, str]) -> None:
    before = stored(url)
    overseg.correct(url, output=f"{url[:-5]}-copy.zarr", workers=1)
    np.testing.assert_array_equal(open_volume(f"{url[:-5]}-copy.zarr").read(ALL), local[1])
    assert stored(url) == before


def test_a_pyramid_in_the_bucket(
    proxy: Proxy, local: tuple[np.ndarray, np.ndarray, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "_SMALLEST_TOP", 16)
    monkeypatch.chdir(tmp_path)
    url = f"s3://{objects.BUCKET}/{tmp_path.name}.ome.zarr"
    volume = create_labels(url, local[0].shape, local[0].dtype, (8, 32, 32), ome=True, levels=2)
    fill(volume, lambda box: local[0][box])
    assert len(volume.levels) == 2
    before = stored(url)
    plan = overseg.correct(url, workers=1)
    assert plan.hash == local[2] and overseg.verify(plan, workers=1).ok
    np.testing.assert_array_equal(open_volume(url).read(ALL), local[1])
    coarse = np.s_[0:12, 0:32, 0:32]
    np.testing.assert_array_equal(open_volume(url).read(coarse, 0, 1), local[1][::2, ::2, ::2])
    overseg.undo(url, workers=1)
    assert stored(url) == before


def test_a_lock_whose_answer_got_lost_is_ours(url: str, proxy: Proxy) -> None:
    before = stored(url)
    proxy.fault = first(1, "cut", lambda method, path: method == "PUT" and "/lock/" in path)
    overseg.correct(url, workers=1)
    assert proxy.struck == 1
    overseg.undo(url, workers=1)
    assert stored(url) == before
    assert not open_volume(url).files.list(".overseg/lock")


def test_one_writer_at_a_time(url: str) -> None:
    volume = open_volume(url)
    assert volume.files.create(".overseg/lock/x", b"1")
    assert not volume.files.create(".overseg/lock/x", b"2")
    assert volume.files.read(".overseg/lock/x") == b"1"
    volume.files.delete(".overseg/lock/x")
    with locked(volume):
        refused = command("correct", url, "--yes", "--workers", "1")
        assert refused.returncode == 1 and "another run is writing" in refused.stderr
        with pytest.raises(LockedError):
            overseg.correct(url, workers=1)


@pytest.mark.parametrize("kind", ["500", "503", "cut", "slow"])
def test_a_store_that_fails_now_and_then(
    url: str, proxy: Proxy, local: tuple[np.ndarray, np.ndarray, str], kind: str
) -> None:
    proxy.fault = first(2, kind, voxels_read)
    plan = overseg.plan(url, workers=1)
    assert plan.hash == local[2] and not plan.unread
    proxy.fault = first(2, kind, voxels_written)
    overseg.apply(plan, workers=1)
    assert proxy.struck == 4
    np.testing.assert_array_equal(open_volume(url).read(ALL), local[1])
    assert overseg.verify(plan, workers=1).ok


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["500", "503", "cut", "slow"])
@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_a_store_that_fails_for_good(
    url: str,
    proxy: Proxy,
    local: tuple[np.ndarray, np.ndarray, str],
    kind: str,
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "TRIES", 2)
    monkeypatch.setattr(executors, "_TRIES", 1)
    if verb == "apply":
        overseg.plan(url, workers=1)
    where = voxels_read if verb == "plan" else voxels_written
    proxy.fault = first(10**9, kind, where)
    with pytest.raises(StorageError) as caught:
        overseg.correct(url, workers=1)
    assert "chunk c/" in str(caught.value) and "run the same command again" in str(caught.value)
    assert 1 < proxy.struck < 60
    # Cured, the same command goes on.
    proxy.fault = first(0, kind, where)
    assert overseg.correct(url, workers=1).hash == local[2]
    np.testing.assert_array_equal(open_volume(url).read(ALL), local[1])
    overseg.undo(url, workers=1)
    np.testing.assert_array_equal(open_volume(url).read(ALL), local[0])


@pytest.mark.fault
def test_a_driver_killed_while_it_writes_to_the_bucket(
    url: str, local: tuple[np.ndarray, np.ndarray, str]
) -> None:
    overseg.plan(url, workers=1, out="p.overseg")
    words = [sys.executable, "-m", "overseg", "apply", "p.overseg", "--workers", "2", "--memory", "512MiB"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = Path("p.overseg/run/journal")
    for _ in range(600):
        if any(path.stat().st_size > 0 for path in journal.glob("*/*.journal")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    overseg.apply("p.overseg", workers=1)
    np.testing.assert_array_equal(open_volume(url).read(ALL), local[1])
    overseg.undo(url, workers=1)
    np.testing.assert_array_equal(open_volume(url).read(ALL), local[0])
    shutil.rmtree("p.overseg")


def test_limits_are_ours_only_where_nobody_set_any(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"config_kwargs": {"read_timeout": 7}}
    assert remote.patient("s3://b/k", mine)["config_kwargs"] == {
        "connect_timeout": remote.CONNECT,
        "read_timeout": 7,
        "retries": {"mode": "standard", "total_max_attempts": remote.TRIES},
    }
    assert remote.patient("memory://k", {}) == {}
    assert remote.patient("s3://b/k", {})["config_kwargs"]["read_timeout"] == remote.ANSWER
    monkeypatch.setitem(fsspec.config.conf, "s3", mine)
    for scheme in remote.S3:
        assert remote.patient(f"{scheme}://b/k", {})["config_kwargs"]["read_timeout"] == 7


def test_credentials_come_from_the_environment_alone(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot carry credentials") as caught:
        open_volume(f"s3://{objects.KEY}:{objects.SECRET}@{objects.BUCKET}/v.zarr")
    assert objects.KEY not in str(caught.value) and objects.SECRET not in str(caught.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID"):
        open_volume(f"s3://{objects.BUCKET}/v.zarr")
