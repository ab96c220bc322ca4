"""Brackets of earth mover's distances against the exact distance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overseg.errors import InputError
from overseg.kernels.emd_features import centred, layer_points
from overseg.kernels.transport import emd_points, mask_points

torch = pytest.importorskip("torch")
from overseg.kernels import brackets as module  # noqa: E402
from overseg.kernels.brackets import brackets  # noqa: E402

some = settings(max_examples=25, deadline=None)
masks = arrays(bool, (6, 8)).filter(np.any)
sizes = st.tuples(st.sampled_from([1.0, 0.3, 40.0]), st.sampled_from([1.0, 0.11, 7.5]))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def disc(radius, y=0, x=0, stretch=1.0):
    at = np.mgrid[-60:61, -60:61]
    return mask_points(at[0] ** 2 + stretch * at[1] ** 2 <= radius**2, (y, x))


def blobs(number):
    """Pairs of ellipses, small ones and larger ones in turn, always the same."""
    rng = np.random.default_rng(3)
    draw = rng.uniform([2, 2, -5, -5, 0.6], [14, 14, 6, 6, 1.5], (number, 5))
    return [(disc(r), disc(q, int(y), int(x), s)) for r, q, y, x, s in draw]


def widths(pairs, size=(1.0, 1.0), **how):
    """Checks the bounds of all pairs; their relative widths."""
    low, high = brackets(pairs, size, "cpu", **how)
    exact = np.array([emd_points(one, two, size) for one, two in pairs])
    assert low.dtype == high.dtype == np.float64
    assert np.all(low <= exact) and np.all(exact <= high)
    return (high - low) / np.maximum(high, 1e-300)


@some
@given(st.lists(st.tuples(masks, masks, st.integers(-9, 9)), min_size=1, max_size=4), sizes)
def test_small_masks(drawn, size):
    pairs = [(mask_points(a), mask_points(b, (step, 2))) for a, b, step in drawn]
    assert widths(pairs, size, iterations=2000).max() < 0.02


@some
@given(masks, masks, st.sampled_from([1, 40, 120]), st.randoms())
def test_order_of_voxels_and_of_masks(a, b, iterations, random):
    one, two = mask_points(a), mask_points(b)
    mixed = one[random.sample(range(len(one)), len(one))]
    pairs = [(one, two), (mixed, two), (two, mixed), (one + 10**6, two + 10**6)]
    assert np.ptp(widths(pairs, iterations=iterations)) < 1e-6


def test_layers_of_real_cells(real):
    rng = np.random.default_rng(5)
    pairs = []
    for name in (1135, 1139):
        labels = real(f"plant_ovule_nuclei/nuclei_{name}")
        for label in rng.permutation(np.arange(1, labels.max() + 1))[:15]:
            layers = [layer for layer in layer_points(labels, label) if len(layer)]
            at = int(rng.integers(max(1, len(layers) - 2)))
            pairs += list(zip(layers[at : at + 1], layers[at + 2 :], strict=False))
    assert len(pairs) > 20
    for size, chosen in (((1.0, 1.0), pairs), ((0.127, 0.2), [centred(*pair) for pair in pairs])):
        relative = widths(chosen, size)
        assert np.mean(relative <= 0.01) >= 0.95
        assert np.median(relative) <= 0.005


def test_long_voxels():
    assert np.mean(widths(blobs(12), (4.0, 0.5)) <= 0.01) >= 0.8


def test_how_problems_are_batched_does_not_matter():
    pairs = blobs(16)
    together = widths(pairs)
    backwards = widths(pairs[::-1])[::-1]
    small = widths(pairs, memory=40 * 700 * 300)
    alone = np.array([widths([pair])[0] for pair in pairs])
    for relative in (together, backwards, small, alone):
        assert np.mean(relative <= 0.0051) >= 0.95


def test_batches_keep_to_the_memory(monkeypatch):
    memory, seen = 40 * 200 * 200, []
    build = module._batch

    def watched(levels, *rest):
        batch = build(levels, *rest)
        seen.append(4 * module.MATRICES * batch.cost.numel())
        return batch

    monkeypatch.setattr(module, "_batch", watched)
    widths([(disc(3), disc(3, 0, step)) for step in range(1, 9)] * 40, memory=memory, iterations=40)
    assert len(seen) > 5
    assert max(seen) <= memory


def test_one_large_problem_among_many_small_ones():
    y, x = np.mgrid[:3, :3]
    small = [(np.array([[k, 0]]), np.stack([y.ravel(), x.ravel() + k], 1)) for k in range(300)]
    pairs = [*small[:150], (disc(28), disc(25, 3, 9, 1.3)), *small[150:]]
    relative = widths(pairs)
    assert relative.max() <= 0.0051


@pytest.mark.parametrize("entries", [200, 2_000, 20_000, 200_000])
def test_too_large_for_voxels_is_bracketed_by_blocks(monkeypatch, entries):
    monkeypatch.setattr(module, "MOST_ENTRIES", entries)
    pairs = [(disc(22), disc(20, 30, 25, 1.4)), (disc(22), disc(20, 2, 3)), (disc(20), disc(19))]
    relative = widths(pairs)
    if entries >= 20_000:
        assert relative[0] < 0.03
    assert widths(pairs, memory=1).max() <= 1


def test_equal_masks_are_at_no_distance():
    low, high = brackets([(disc(5), disc(5)[::-1]), (disc(5), disc(4)), (disc(2), disc(2))], (1, 2), "cpu")
    assert low[[0, 2]].tolist() == high[[0, 2]].tolist() == [0, 0]
    assert 0 < low[1] <= high[1]


def test_single_voxels():
    pairs = [(np.array([[0, 0]]), np.array([[y, x]])) for y, x in ((3, 4), (0, 1), (-7, 0))]
    low, high = brackets(pairs, (1.0, 1.0), "cpu")
    assert low == pytest.approx([5, 1, 7], rel=1e-8)
    assert high == pytest.approx([5, 1, 7], rel=1e-8)


def test_nothing_to_do():
    low, high = brackets([], (1.0, 1.0), "cpu")
    assert low.shape == high.shape == (0,)


def test_an_empty_mask_is_refused():
    with pytest.raises(InputError, match="pair 1"):
        brackets([(disc(2), disc(3)), (disc(2), np.empty((0, 2), np.int64))], (1.0, 1.0), "cpu")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -1e30, 0.0])
def test_a_solver_that_diverges_has_valid_bounds(monkeypatch, value):
    def broken(batch):
        batch.newest.fill_(value)
        batch.u.fill_(value)
        batch.u[:, :1] = -value

    monkeypatch.setattr(module, "_step", broken)
    assert np.all(np.isfinite(widths(blobs(6), iterations=80)))


def test_no_iterations():
    relative = widths(blobs(6), iterations=0)
    assert np.all((relative > 0) & (relative <= 1))
