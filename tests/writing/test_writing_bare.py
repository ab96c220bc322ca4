"""Apply, undo and verify on bare arrays: the right voxels, once, and back again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from twins.writing import contents, edits, plan_for, store, tissue, truth

from overseg.cluster.executor import InlineExecutor
from overseg.pipeline.apply import apply
from overseg.pipeline.remap import load_edits
from overseg.pipeline.undo import undo
from overseg.pipeline.verify import verify
from overseg.settings import RunSettings
from overseg.volume.state import read_state

RUN = RunSettings()
INLINE = InlineExecutor(1, 1 << 30)
SHAPE = (20, 26, 30)


@pytest.mark.parametrize(
    ("chunks", "options", "dtype"),
    [
        ((8, 8, 8), {}, "uint32"),
        ((7, 26, 11), {"zarr_format": 2}, "uint16"),
        ((20, 26, 30), {}, "int64"),
        ((4, 4, 4), {"shards": (8, 16, 12)}, "uint64"),
        ((5, 9, 30), {"zarr_format": 2}, ">u2"),
    ],
)
def test_apply_verify_undo(
    tmp_path: Path, chunks: tuple[int, ...], options: dict[str, object], dtype: str
) -> None:
    data = tissue(SHAPE).astype(dtype)
    merges, fills = edits(SHAPE)
    volume = store(tmp_path / "tissue.zarr", data, chunks, **options)
    folder = tmp_path / "tissue.overseg"
    plan_for(volume, folder, merges, fills)
    assert verify(folder).ok

    result = apply(folder, RUN, INLINE)
    expected = truth(data, merges, fills)
    np.testing.assert_array_equal(contents(volume)[0], expected)
    assert result.voxels_changed == np.count_nonzero(expected != data)
    assert 0 < result.units_rewritten <= volume.grid(0).n
    found = verify(folder)
    assert found.ok and found.phase == "applied", found.problems

    again = apply(folder, RUN, INLINE)
    assert again.units_rewritten == 0 and again.phase == "applied"

    back = undo(folder, RUN)
    np.testing.assert_array_equal(contents(volume)[0], data)
    assert back.units_rewritten == result.units_rewritten
    assert verify(folder).ok and verify(folder).phase == "undone"
    assert undo(folder, RUN).units_rewritten == 0

    apply(folder, RUN, INLINE)
    np.testing.assert_array_equal(contents(volume)[0], expected)
    assert [entry.phase for entry in read_state(volume).plans] == ["undone", "applied"]


def test_a_volume_behind_a_url(tmp_path: Path) -> None:
    import fsspec

    data = tissue(SHAPE).astype(np.uint16)
    merges, fills = edits(SHAPE)
    objects = fsspec.filesystem("memory").store
    volume = store("memory://bucket/tissue.zarr", data, (8, 8, 8))
    before = {key: bytes(value.getvalue()) for key, value in objects.items()}
    folder = tmp_path / "tissue.overseg"
    plan_for(volume, folder, merges, fills)
    apply(folder, RUN, INLINE)
    np.testing.assert_array_equal(contents(volume)[0], truth(data, merges, fills))
    assert verify(folder).ok
    undo(folder, RUN)
    after = {key: bytes(value.getvalue()) for key, value in objects.items() if ".overseg" not in key}
    assert after == before
    objects.clear()


def test_fills_in_many_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overseg.pipeline.planfile._ROWS_PER_GROUP", 5)
    data = tissue(SHAPE).astype(np.uint32)
    merges, fills = edits(SHAPE)
    volume = store(tmp_path / "tissue.zarr", data, (6, 9, 8))
    folder = tmp_path / "tissue.overseg"
    plan = plan_for(volume, folder, merges, fills)
    assert pq.read_metadata(folder / "plan" / "fills.parquet").num_row_groups > 4
    for unit in range(volume.grid(0).n):
        found = load_edits(str(folder), plan.hash, volume, 0, [unit]).fills
        z, y, x = volume.grid(0).box(unit)
        here = (fills.z >= z.start) & (fills.z < z.stop) & (fills.y >= y.start) & (fills.y < y.stop)
        here &= (fills.x1 > x.start) & (fills.x0 < x.stop)
        for name, column in vars(fills).items():
            np.testing.assert_array_equal(getattr(found, name), column[here])
    apply(folder, RUN, INLINE)
    np.testing.assert_array_equal(contents(volume)[0], truth(data, merges, fills))
