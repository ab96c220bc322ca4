"""The scan by sorting, which runs on graphics cards, gives the tables of the compiled one to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from overseg.kernels.reduce import ScanTables
from overseg.kernels.scan import Scanner, scan_block
from overseg.kernels.scan_gpu import CardScanner, find_cupy, scan_block_on


def same(one: ScanTables, other: ScanTables) -> None:
    for table in ("layers", "pairs", "stacked"):
        left, right = getattr(one, table), getattr(other, table)
        assert list(left) == list(right)
        for name in left:
            assert left[name].dtype == right[name].dtype, name
            np.testing.assert_array_equal(left[name], right[name], err_msg=f"{table}.{name}")


@settings(max_examples=50, deadline=None)
@given(
    st.data(),
    st.integers(1, 3),
    st.sampled_from([(0,), (0, 2), (7,), (1, 2, 3)]),
    st.tuples(st.integers(0, 99), st.integers(0, 2**33), st.integers(0, 2**33)),
)
def test_sorting_gives_the_tables(
    data: st.DataObject, gap: int, background: tuple[int, ...], origin: tuple[int, int, int]
) -> None:
    shape = data.draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))
    ids = st.sampled_from([0, 1, 2, 3, 5, 2**63 - 1, 2**63])
    block = data.draw(arrays(np.uint64, shape, elements=ids))
    first = data.draw(st.sampled_from([0, 0, min(gap + 1, len(block) - 1)]))
    same(
        scan_block_on(np, block, first, origin, gap, background),
        scan_block(block, first, origin, gap, background),
    )


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 3), (3, 3, 3)])
def test_nothing_in_it(shape: tuple[int, int, int]) -> None:
    block = np.zeros(shape, np.uint32)
    same(scan_block_on(np, block, 0, (0, 0, 0), 2), scan_block(block, 0, (0, 0, 0), 2))


def test_pieces_add_up_as_the_compiled_ones_do() -> None:
    block = np.random.default_rng(2).integers(0, 5, size=(9, 12, 10)).astype(">i2")
    card, compiled = CardScanner(np, 2), Scanner(0, (0, 0), 2)
    for scanner in (card, compiled):
        for top, first, bottom in ((0, 0, 4), (1, 3, 9)):
            for x in (0, 5):
                assert scanner.add(block[top:bottom, :, x : x + 5], first, (top, 0, x))
            scanner.step()
    same(card.tables(), compiled.tables())
    same(card.tables(), scan_block(block, 0, (0, 0, 0), 2))


@pytest.mark.parametrize(("dtype", "value"), [(np.int16, -1), (np.uint64, 2**63 + 1)])
def test_what_is_no_label_is_noticed(dtype: type, value: int) -> None:
    block = np.zeros((3, 4, 5), dtype)
    for label in (0, value):
        block[1, 2, 3] = label
        assert CardScanner(np, 2).add(block, 0, (0, 0, 0)) == (label == 0)
        assert Scanner(0, (0, 0), 2).add(block, 0, (0, 0, 0)) == (label == 0)


def test_on_a_card_if_there_is_one() -> None:
    xp = find_cupy() or np
    block = np.random.default_rng(4).integers(0, 40, size=(12, 50, 60)).astype(np.uint16)
    scanner = CardScanner(xp, 2)
    assert scanner.add(block, 0, (3, 4, 5))
    same(scanner.tables(), scan_block(block, 0, (3, 4, 5), 2))
