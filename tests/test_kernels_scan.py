"""The scan kernel equals the plain tables, however the volume is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from twins.scan_twin import layers_of, pairs_of, stacked_of

from overseg.errors import VolumeError
from overseg.kernels.reduce import ScanTables, layer_columns, layer_table, merge_tables
from overseg.kernels.scan import find_negative, scan_array, scan_block, scan_seam

DTYPES = [np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64]


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    """Small volumes of few labels, some of them far apart."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    high = min(np.iinfo(dtype).max, 2**63)
    ids = st.sampled_from(sorted({0, 1, 2, 3, 5, high - 1, high}))
    shape = draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))
    return draw(arrays(dtype, shape, elements=ids))


def plain(tables: ScanTables, lags: int) -> tuple[dict, dict, dict]:
    """The tables in the form of the twin."""

    def ints(columns: dict, *names: str) -> list[tuple[int, ...]]:
        return list(zip(*(columns[name].tolist() for name in names), strict=True))

    names = layer_columns(lags)[2:]
    layers = {
        key[:2]: dict(zip(names, key[2:], strict=True)) for key in ints(tables.layers, "label", "z", *names)
    }
    pairs = {key[:4]: key[4] for key in ints(tables.pairs, "a", "b", "z", "gap", "overlap")}
    stacked = {key[:2]: key[2:] for key in ints(tables.stacked, "a", "b", "n", "z_min", "z_max")}
    return layers, pairs, stacked


def same(one: ScanTables, other: ScanTables) -> None:
    for table in ("layers", "pairs", "stacked"):
        left, right = getattr(one, table), getattr(other, table)
        assert list(left) == list(right)
        for name in left:
            assert left[name].dtype == right[name].dtype, name
            np.testing.assert_array_equal(left[name], right[name], err_msg=f"{table}.{name}")


def cut(array: np.ndarray, zs: list[int], ys: list[int], xs: list[int], gap: int, whole: bool) -> ScanTables:
    """Tables of the pieces between the cuts, added up; z cuts are joined by context or by seams."""
    parts = []
    lags = gap + 1
    edges = [sorted({0, *cuts, n}) for cuts, n in zip((zs, ys, xs), array.shape, strict=True)]
    for y0, y1 in zip(edges[1][:-1], edges[1][1:], strict=True):
        for x0, x1 in zip(edges[2][:-1], edges[2][1:], strict=True):
            for z0, z1 in zip(edges[0][:-1], edges[0][1:], strict=True):
                top = max(z0 - lags, 0) if whole else z0
                piece = array[top:z1, y0:y1, x0:x1]
                parts.append(scan_block(piece, z0 - top, (top, y0, x0), gap))
                if not whole and z0:
                    piece = array[max(z0 - lags, 0) : z0 + lags, y0:y1, x0:x1]
                    parts.append(scan_seam(piece, min(z0, lags), (max(z0 - lags, 0), y0, x0), gap))
    return merge_tables(parts)


@settings(max_examples=60, deadline=None)
@given(volumes(), st.integers(1, 3), st.sampled_from([(0,), (0, 2), (7,), (1, 2, 3)]))
def test_equals_the_plain_tables(array: np.ndarray, gap: int, background: tuple[int, ...]) -> None:
    found = plain(scan_block(array, 0, (0, 0, 0), gap, background), gap + 1)
    assert found == (
        layers_of(array, gap + 1, background),
        pairs_of(array, gap, background),
        stacked_of(array, background),
    )


@settings(max_examples=60, deadline=None)
@given(volumes(), st.integers(1, 3), st.data())
def test_pieces_add_up_to_the_whole(array: np.ndarray, gap: int, data: st.DataObject) -> None:
    cuts = [data.draw(st.lists(st.integers(0, n), max_size=2)) for n in array.shape]
    whole = scan_block(array, 0, (0, 0, 0), gap)
    same(cut(array, *cuts, gap=gap, whole=True), whole)
    # Segments are never shorter than the window, which is what makes a seam of two enough.
    edges = sorted({0, *cuts[0], len(array)})
    if min(np.diff(edges), default=gap + 1) > gap:
        same(cut(array, *cuts, gap=gap, whole=False), whole)


@settings(max_examples=30, deadline=None)
@given(volumes(), st.integers(0, 2**33), st.integers(0, 2**33))
def test_moments_are_exact_far_from_the_origin(array: np.ndarray, y: int, x: int) -> None:
    here = layer_table(scan_block(array, 0, (0, 0, 0), 2).layers)
    far = layer_table(scan_block(array, 0, (0, y, x), 2).layers)
    for name in ("label", "z", "area", "sy", "sx", "syy", "sxx", "syx", "back", "start"):
        np.testing.assert_array_equal(getattr(here, name), getattr(far, name))
    np.testing.assert_array_equal(here.corner_y + y, far.corner_y)


def test_layer_table_of_a_known_label() -> None:
    array = np.zeros((3, 4, 6), np.uint16)
    array[1, 1:3, 2:5] = 9
    layers, pairs, stacked = scan_array(array, max_gap=2)
    assert (layers.sy[0], layers.sx[0], layers.syy[0], layers.sxx[0], layers.syx[0]) == (3, 6, 3, 10, 3)
    assert (layers.corner_y[0], layers.corner_x[0]) == (1, 2)
    assert layers.start.tolist() == [0, 1]
    assert layers.back.tolist() == [[0, 0, 0]]
    assert len(pairs["a"]) == len(stacked["a"]) == 0


def test_a_label_of_millions_of_pixels_is_too_large() -> None:
    array = np.zeros((1, 1500, 1500), np.uint8)
    array[0, :1450] = 1
    array[0, 1450:, :50] = 2
    layers, _, _ = scan_array(array, max_gap=1)
    assert layers.too_large.tolist() == [True, False]


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 3), (3, 3, 3)])
def test_nothing_in_it(shape: tuple[int, int, int]) -> None:
    layers, pairs, stacked = scan_array(np.zeros(shape, np.uint32), max_gap=2)
    assert len(layers.label) == len(layers.labels) == len(pairs["a"]) == len(stacked["a"]) == 0
    assert layers.back.shape == (0, 3)


def test_thousands_of_labels_in_a_layer() -> None:
    rng = np.random.default_rng(3)
    array = rng.integers(1, 2**62, size=(4, 30, 30)).astype(np.uint64)
    array[2] = array[0]
    found = plain(scan_block(array, 0, (0, 0, 0), 2), 3)
    assert found == (layers_of(array, 3), pairs_of(array, 2), stacked_of(array))


@pytest.mark.parametrize("kind", [">i2", ">u4", "<i8", "u1"])
def test_byte_order_and_strides_do_not_matter(kind: str) -> None:
    array = np.random.default_rng(5).integers(0, 6, size=(5, 8, 12)).astype(kind)
    same(
        scan_block(array[:, ::2, 1::3], 0, (0, 0, 0), 2),
        scan_block(array[:, ::2, 1::3].astype("u8"), 0, (0, 0, 0), 2),
    )


def test_a_negative_label_is_refused_with_its_place() -> None:
    array = np.zeros((3, 4, 5), np.int16)
    array[1, 2, 3] = -7
    assert find_negative(array) == (1, 2, 3)
    with pytest.raises(VolumeError, match=r"negative label[\s\S]*\(1, 2, 3\)"):
        scan_array(array, max_gap=2)


@pytest.mark.parametrize(
    "array", [np.zeros((3, 4, 5)), np.zeros((3, 4, 5), bool), np.zeros((4, 5), np.uint8)]
)
def test_what_is_no_label_array_is_refused(array: np.ndarray) -> None:
    with pytest.raises(VolumeError, match="holds no labels"):
        scan_array(array, max_gap=2)
