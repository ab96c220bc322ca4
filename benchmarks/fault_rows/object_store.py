"""An S3 server that answers 500, 503, not at all, or half of what it should; limits as shipped."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import s3fs
from twins import objects
from twins.objects import Proxy, first, voxels_read, voxels_written

import overseg
from benchmarks.fault_rows import Row, timed
from overseg.errors import StorageError
from overseg.measure import generate_tissue, simulate_splits
from overseg.volume import create_labels, open_volume
from overseg.volume.create import fill

KINDS = {"500": "answers 500", "503": "answers 503", "cut": "cut off midway", "slow": "does not answer"}
ALL = np.s_[0:24, 0:64, 0:64]


def rows(seed: int, seconds: float) -> list[dict[str, Any]]:
    """All kinds, once; neither chance nor time has a say."""
    return [row.plain() for row in ailing()]


def ailing(kinds: tuple[str, ...] = tuple(KINDS)) -> list[Row]:
    """Each kind twice for a while, then for good, while voxels are read and while they are written."""
    tissue = generate_tissue((24, 64, 64), n_cells=60, seed=4)
    broken = simulate_splits(tissue, rate=0.5, seed=4)[0].astype(np.uint32)
    corrected, plan = overseg.correct(broken)
    found, here = [], os.getcwd()
    with objects.server() as port, tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for kind in kinds:
                proxy = Proxy(port)
                os.environ.update(objects.environment(proxy.port))
                s3fs.S3FileSystem.clear_instance_cache()
                found.append(_row(kind, proxy, broken, corrected, plan.hash))
                proxy.close()
        finally:
            os.chdir(here)
    return found


def _row(kind: str, proxy: Proxy, broken: np.ndarray, corrected: np.ndarray, expected: str) -> Row:
    with timed(f"object store {KINDS[kind]}") as row:
        url = f"s3://{objects.BUCKET}/{kind}-{time.monotonic_ns()}.zarr"
        fill(create_labels(url, broken.shape, broken.dtype, (8, 32, 32)), lambda box: broken[box])
        told = []
        for what, where in (("read", voxels_read), ("written", voxels_written)):
            proxy.fault = first(10**9, kind, where)
            struck, begin = proxy.struck, time.monotonic()
            try:
                overseg.correct(url, workers=1)
                raise AssertionError("it went through")
            except StorageError as error:
                if "chunk c/" not in str(error) or "same command" not in str(error):
                    raise
            requests, seconds = proxy.struck - struck, time.monotonic() - begin
            told.append(f"{what}: a clear error after {requests} requests and {seconds:.0f} s")
            row.times += 1
            row.landed += proxy.struck > struck
            proxy.fault = first(2, kind, where)  # and now only for a while
            if what == "read":
                made = overseg.plan(url, workers=1)
                if made.hash != expected or made.unread:
                    raise AssertionError(made.hash)
        overseg.correct(url, workers=1)
        row.times += 2
        row.landed += 2
        np.testing.assert_array_equal(open_volume(url).read(ALL), corrected)
        if not overseg.verify(Path(f"{Path(url).stem}.overseg"), workers=1).ok:
            raise AssertionError("verify")
    row.result = f"{'; '.join(told)}; twice and then well: not noticed; run again: same hash, same voxels"
    return row


if __name__ == "__main__":
    for one in ailing():
        print(one.plain(), flush=True)
