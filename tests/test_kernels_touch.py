"""The contact kernel equals its definition, however the volume is cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from twins.touch_twin import contacts_of, surfaces_of

from overseg.kernels.reduce import CONTACT_COLUMNS, SURFACE_COLUMNS, Columns
from overseg.kernels.touch import TouchScanner

DTYPES = [np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64]
BACKGROUNDS = [(0,), (), (1,), (0, 1), (0, 2, 5)]


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    """Small volumes of few labels, some of them far apart, most of them in stretches."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    high = min(np.iinfo(dtype).max, 2**63)
    ids = st.sampled_from(sorted({0, 1, 2, 3, 5, high - 1, high}))
    shape = draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))
    stretch = draw(st.sampled_from([1, 1, 2, 30]))
    return np.repeat(draw(arrays(dtype, shape, elements=ids)), stretch, axis=2)


def rows(columns: Columns, keys: int) -> dict:
    listed = list(zip(*(values.tolist() for values in columns.values()), strict=True))
    return {row[0] if keys == 1 else row[:keys]: list(row[keys:]) for row in listed}


def scanned(array: np.ndarray, background: tuple[int, ...] = (0,), place=(0, 0, 0)) -> TouchScanner:
    scanner = TouchScanner(background)
    scanner.add(array, 0, place)
    return scanner


def same(one: TouchScanner, other: TouchScanner) -> None:
    for found, expected in zip(one.tables(), other.tables(), strict=True):
        for name in expected:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@settings(max_examples=120, deadline=None)
@given(volumes(), st.sampled_from(BACKGROUNDS))
def test_equals_the_definition(array: np.ndarray, background: tuple[int, ...]) -> None:
    contacts, surfaces = scanned(array, background).tables()
    assert tuple(contacts) == CONTACT_COLUMNS and tuple(surfaces) == SURFACE_COLUMNS
    expected = contacts_of(array, background)
    assert rows(contacts, 2) == expected and list(rows(contacts, 2)) == sorted(expected)
    expected = surfaces_of(array, background)
    assert rows(surfaces, 1) == expected and list(rows(surfaces, 1)) == sorted(expected)


@settings(max_examples=80, deadline=None)
@given(volumes(), st.data())
def test_any_cut_gives_the_same(array: np.ndarray, data: st.DataObject) -> None:
    """Segments along z have a layer of context; tiles in y and x are joined by planes."""
    cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=3))}) for n in array.shape]
    zs, ys, xs = (list(itertools.pairwise(edges)) for edges in cuts)
    scanner = TouchScanner()
    pieces = [(z, y, x) for z in zs for y in ys for x in xs]
    for (z0, z1), (y0, y1), (x0, x1) in data.draw(st.permutations(pieces)):
        context = min(z0, data.draw(st.integers(1, 3)))
        scanner.add(array[z0 - context : z1, y0:y1, x0:x1], context, (z0 - context, y0, x0))
        if y0:
            one, two = array[z0:z1, y0 - 1, x0:x1], array[z0:z1, y0, x0:x1]
            scanner.planes(one, two, 1, (z0, y0, x0))
        if x0:
            one, two = array[z0:z1, y0:y1, x0 - 1], array[z0:z1, y0:y1, x0]
            scanner.planes(one, two, 2, (z0, y0, x0))
    same(scanner, scanned(array))


@settings(max_examples=40, deadline=None)
@given(volumes(), st.integers(0, 2), st.data())
def test_planes_join_two_halves(array: np.ndarray, axis: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, array.shape[axis]))
    one, two = np.split(array, [at], axis)
    scanner = TouchScanner()
    scanner.add(one, 0, (0, 0, 0))
    place = tuple(at * (i == axis) for i in range(3))
    scanner.add(two, 0, place)
    if 0 < at < array.shape[axis]:
        scanner.planes(one.take(-1, axis), two.take(0, axis), axis, place)
    same(scanner, scanned(array))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 200), (1, 70, 1), (5, 1, 1), (0, 4, 4), (3, 0, 2)])
def test_thin_and_empty_arrays(shape: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint16)
    contacts, surfaces = scanned(array).tables()
    assert rows(contacts, 2) == contacts_of(array)
    assert rows(surfaces, 1) == surfaces_of(array)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", ">u4", ">i2"])
def test_many_labels_in_wide_rows(kind: str) -> None:
    """Tables that have to grow, stretches over several words."""
    rng = np.random.default_rng(1)
    array = np.repeat(rng.integers(0, 120, (4, 12, 70)), 3, axis=2).astype(kind)
    array[:, 6:] = array[:, 5:6, :1]
    contacts, surfaces = scanned(array).tables()
    assert len(contacts["a"]) > 512
    assert rows(contacts, 2) == contacts_of(array)
    assert rows(surfaces, 1) == surfaces_of(array)


def test_sums_are_about_the_volume_s_origin_modulo_2_to_the_64() -> None:
    """A box far away has the sums of one at the origin, moved."""
    array = np.random.default_rng(2).integers(0, 3, (3, 4, 5)).astype(np.uint8)
    place = (10**6, 2 * 10**9, 3 * 10**9)
    near, far = (scanned(array, (0,), where).tables()[0] for where in ((0, 0, 0), place))
    for k in "zyx":
        for axis, shift in zip("zyx", place, strict=True):
            n, s, ss = (near[f"{k}_{name}"].astype(object) for name in ("n", f"s{axis}", f"s{axis}{axis}"))
            for name, value in (
                (f"s{axis}", s + 2 * shift * n),
                (f"s{axis}{axis}", ss + 4 * shift * (s + shift * n)),
            ):
                found = far[f"{k}_{name}"].view(np.uint64).tolist()
                assert found == [int(v) % 2**64 for v in value]


def test_the_area_vector_of_a_closed_surface_is_zero() -> None:
    array = np.ones((7, 8, 9), np.uint8)
    array[2:5, 2:6, 3:7] = 2
    contacts, _ = scanned(array).tables()
    assert [contacts[f"{k}_signed"].tolist() for k in "zyx"] == [[0], [0], [0]]
    assert [contacts[f"{k}_n"].tolist() for k in "zyx"] == [[32], [24], [24]]
