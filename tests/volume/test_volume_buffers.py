"""What is compared with the fill value before a chunk is stored, and what then lies on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from overseg.volume import buffers
from overseg.volume.create import create_labels


@hypothesis(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint16, hnp.array_shapes(max_dims=3, max_side=5), elements=st.integers(0, 1)))
def test_uniform_by_the_definition(data: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "_PIECE", 3)
        for value in (0, 1, np.uint16(1)):
            expected = bool((data == value).all())
            assert buffers.is_uniform(data, value) == expected
            assert buffers.is_uniform(np.asfortranarray(data), value) == expected
            assert buffers.LabelBuffer(data).all_equal(value) == expected
    assert not buffers.LabelBuffer(data).all_equal(None)


@pytest.mark.parametrize("shards", [None, (8, 8, 8)])
def test_empty_chunks_are_not_stored_and_stored_ones_stay(
    tmp_path: Path, shards: tuple[int, ...] | None
) -> None:
    volume = create_labels(tmp_path / "a.zarr", (8, 8, 12), np.uint16, (4, 4, 4), shards=shards)
    empty = np.zeros(volume.grid(0).extent(0), np.uint16)
    volume.write_unit(0, empty)
    assert volume.unit_stamp(0) == "absent"
    labels = empty.copy()
    labels[-1, -1, -1] = 7
    volume.write_unit(0, labels)
    np.testing.assert_array_equal(volume.read_unit(0), labels)
    if shards:  # seven of the eight chunks in it are empty and take no room
        size = (tmp_path / "a.zarr" / volume.unit_key(0)).stat().st_size
        volume.write_unit(0, np.tile(labels[4:, 4:, 4:], (2, 2, 2)))
        assert (tmp_path / "a.zarr" / volume.unit_key(0)).stat().st_size > size
    volume.write_unit(0, empty)
    assert volume.unit_stamp(0) != "absent" and not volume.read_unit(0).any()
