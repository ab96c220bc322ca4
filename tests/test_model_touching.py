"""Features of touching labels equal their definition, and know neither names, units nor directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from twins.touching_twin import Tissue, features

from overseg.kernels.bodies import Neighbours
from overseg.kernels.solids import touch_array
from overseg.kernels.symmetric import along, determinant, eigen
from overseg.measure.cutting import cut_cells
from overseg.measure.tissue import generate_tissue
from overseg.model.touching import TOUCHING, touching_features

SIZE = (2.0, 0.7, 1.0)


def measured(array: np.ndarray, size=SIZE, background=(0,)) -> dict[tuple[int, int], np.ndarray]:
    solids, touches = touch_array(array, background)
    box = tuple((0, n) for n in array.shape)
    rows = touching_features(Neighbours.of(solids, touches), touches.a, touches.b, size, box)
    assert rows.shape == (len(touches), len(TOUCHING)) and np.isfinite(rows).all()
    return dict(zip(zip(touches.a.tolist(), touches.b.tolist(), strict=True), rows, strict=True))


def same(found: np.ndarray, expected: np.ndarray, within: float, about: object) -> None:
    far = np.abs(found - expected) > within
    names = np.array(TOUCHING)
    assert not far.any(), (about, names[far].tolist(), found[far].tolist(), expected[far].tolist())


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    """Small volumes of a few labels that touch in every way; some of them in coarse blocks."""
    labels = st.sampled_from([0, 1, 2, 3, 5, 2**63 - 1])
    array = draw(arrays(np.uint64, array_shapes(min_dims=3, max_dims=3, max_side=4), elements=labels))
    for axis in range(3):
        array = np.repeat(array, draw(st.sampled_from([1, 1, 2, 3])), axis)
    return array


def tissue(seed: int = 1, shape=(24, 36, 40)) -> np.ndarray:
    return cut_cells(generate_tissue(shape, n_cells=25, seed=seed), SIZE, rate=0.5, seed=seed)[0]


def shell() -> np.ndarray:
    array = np.ones((9, 9, 9), np.uint8)
    array[2:7, 3:6, 3:6] = 2
    return array


DEGENERATE = {
    "shell": shell(),
    "shell within a cell": np.pad(shell(), 3, constant_values=3),
    "an off-centre shell": np.pad(shell(), ((0, 3), (2, 0), (1, 1)), constant_values=1),
    "two halves": np.repeat(np.array([1, 2], np.uint8), 4)[:, None, None] * np.ones((1, 5, 6), np.uint8),
    "single faces": np.array([[[1, 2, 0], [0, 3, 4], [5, 0, 0]]], np.uint8),
    "one layer": np.random.default_rng(0).integers(0, 4, (1, 7, 9)),
    "stacked sheets": np.arange(1, 7, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8),
    "checkers": 1 + np.indices((6, 6, 6)).sum(0) % 2,
    "cubes": np.kron(np.arange(1, 28).reshape(3, 3, 3), np.ones((4, 4, 4), int)),
    "far apart in a long box": np.concatenate(
        [np.ones((1, 1, 900), np.uint8), np.r_[np.zeros(897), 2, 2, 2].astype(np.uint8)[None, None]], axis=1
    ),
}


@settings(max_examples=60, deadline=None)
@given(volumes(), st.sampled_from([(0,), (), (0, 2)]))
def test_equal_their_definition(array: np.ndarray, background: tuple[int, ...]) -> None:
    found = measured(array, SIZE, background)
    twin = Tissue(array, SIZE, background)
    assert list(found) == twin.pairs()
    for pair, row in found.items():
        expected = features(twin, *pair)
        same(row, np.array([expected[name] for name in TOUCHING]), 1e-8, pair)


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), SIZE])
def test_degenerate_pairs_equal_their_definition(name: str, size: tuple[float, float, float]) -> None:
    array = DEGENERATE[name]
    twin = Tissue(array, size)
    for pair, row in measured(array, size).items():
        expected = features(twin, *pair)
        same(row, np.array([expected[name] for name in TOUCHING]), 1e-8, pair)


def test_a_tissue_equals_the_definition() -> None:
    array = tissue()
    twin, found = Tissue(array, SIZE), measured(array)
    for pair in list(found)[::5]:
        expected = features(twin, *pair)
        same(found[pair], np.array([expected[name] for name in TOUCHING]), 1e-8, pair)


CASES = {**DEGENERATE, "tissue": tissue(2)}


@pytest.mark.parametrize("name", CASES)
def test_names_do_not_matter(name: str) -> None:
    array = CASES[name]
    top = int(array.max())
    found, swapped = measured(array), measured(np.where(array > 0, top + 1 - array.astype(int), 0))
    assert len(found) == len(swapped) > 0
    for (a, b), row in found.items():
        same(swapped[top + 1 - b, top + 1 - a], row, 1e-9, (a, b))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("factor", [1e-9, 1 / 3, 400.0])
def test_units_do_not_matter(name: str, factor: float) -> None:
    found, scaled = measured(CASES[name]), measured(CASES[name], tuple(factor * k for k in SIZE))
    for pair, row in found.items():
        same(scaled[pair], row, 1e-9, pair)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_directions_do_not_matter(name: str, axis: int) -> None:
    found, flipped = measured(CASES[name]), measured(np.ascontiguousarray(np.flip(CASES[name], axis)))
    assert list(found) == list(flipped)
    for pair, row in found.items():
        same(flipped[pair], row, 1e-9, pair)


@settings(max_examples=60, deadline=None)
@given(volumes(), st.integers(0, 2), st.sampled_from([1e-6, 3.0, 7.7]))
def test_any_small_volume_flipped_renamed_and_in_other_units(
    array: np.ndarray, axis: int, factor: float
) -> None:
    found = measured(array)
    top = np.uint64(2**63)
    other = np.where(array > 0, top - array, np.uint64(0))
    again = measured(np.ascontiguousarray(np.flip(other, axis)), tuple(factor * k for k in SIZE))
    assert len(found) == len(again)
    for (a, b), row in found.items():
        same(again[int(top) - b, int(top) - a], row, 1e-9, (a, b))


@settings(max_examples=40, deadline=None)
@given(volumes(), st.permutations([0, 1, 2]))
def test_axes_do_not_matter(array: np.ndarray, order: list[int]) -> None:
    found = measured(array)
    turned = measured(np.ascontiguousarray(array.transpose(order)), tuple(SIZE[k] for k in order))
    flatness, distance = TOUCHING.index("flatness"), TOUCHING.index("distance")
    for pair, row in found.items():
        # One wrapped around the other about the same centre: no direction is theirs.
        if row[flatness] > 0 or row[distance] > 1e-9:
            same(turned[pair], row, 1e-8, pair)


def test_a_row_depends_on_its_own_cells_alone() -> None:
    array = tissue(3)
    solids, touches = touch_array(array)
    around, box = Neighbours.of(solids, touches), tuple((0, n) for n in array.shape)
    whole = touching_features(around, touches.a, touches.b, SIZE, box)
    rows = np.random.default_rng(0).permutation(len(touches))[:20]
    some = touching_features(around, touches.a[rows], touches.b[rows], SIZE, box)
    np.testing.assert_array_equal(some, whole[rows])


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, (3, 3), elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3))))
def test_eigen_is_that_of_numpy(matrix: np.ndarray) -> None:
    matrix = matrix + matrix.T
    values, vectors = np.empty(3), np.empty((3, 3))
    eigen(matrix, values, vectors)
    scale = max(float(np.abs(matrix).max()), 1e-300)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), rtol=0, atol=1e-13)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(determinant(matrix), np.linalg.det(matrix), rtol=0, atol=1e-12 * scale**3)
    np.testing.assert_allclose(along(matrix, vectors[:, 0].copy()), values[0], rtol=0, atol=1e-12 * scale)
