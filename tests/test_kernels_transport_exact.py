"""The network simplex and its levels against POT on whole masks, on shapes that are hard for either."""

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overseg.kernels.levels import gathered, residual
from overseg.kernels.simplex import perturbation, transport
from overseg.kernels.transport import emd, emd_points, mask_points

some = settings(max_examples=60, deadline=None)
coordinates = st.integers(-40, 40)


def plain(points_a, points_b, spacing=(1.0, 1.0)):
    """POT on all voxels; `ot.dist` would be 1e-8 off for voxels that are near to each other."""
    step = (points_a[:, None] - points_b) * np.asarray(spacing)
    costs = np.hypot(step[..., 0], step[..., 1])
    m, n = len(points_a), len(points_b)
    return ot.emd2(np.full(m, float(n)), np.full(n, float(m)), costs, numItermax=10**7) / (m * n)


def same(mask_a, mask_b, spacing=(1.0, 1.0), offset=(0, 0)):
    value = emd(mask_a, mask_b, spacing, offset)
    assert value == pytest.approx(plain(mask_points(mask_a), mask_points(mask_b, offset), spacing), abs=1e-9)
    assert emd(mask_b, mask_a, spacing, (-offset[0], -offset[1])) == value


@some
@given(st.data(), st.integers(1, 12), st.integers(1, 12))
def test_any_points_with_any_masses(data, ns, nt):
    points = data.draw(
        st.lists(st.tuples(coordinates, coordinates), min_size=ns + nt, max_size=ns + nt, unique=True)
    )
    supply = np.array(data.draw(st.lists(st.integers(1, 10**6), min_size=ns, max_size=ns)))
    cuts = data.draw(st.lists(st.integers(1, 10**6), min_size=nt, max_size=nt))
    supply, demand = supply * sum(cuts), np.array(cuts) * supply.sum()
    places = np.array(points, float) * (0.3, 0.17)
    s, t = places[:ns], places[ns:]
    guess = np.array(data.draw(st.lists(st.floats(-30, 30), min_size=nt, max_size=nt)))
    wide, spread = np.full(ns, 2.0), np.full(nt, 0.25)
    total, most, potentials = transport(
        *np.ascontiguousarray(s.T), supply, wide, *np.ascontiguousarray(t.T), demand, spread, guess, 0.5
    )
    assert total < most <= total + 1.5 * supply.sum() * (1 + 1e-12)
    costs = ot.dist(s, t, metric="euclidean")
    whole = float(supply.sum())
    assert total / whole == pytest.approx(ot.emd2(supply / whole, demand / whole, costs), abs=1e-6)
    # Kantorovich's dual at the potentials returned, extended to the sinks, is the same number.
    dual = supply @ potentials + demand @ (costs - potentials[:, None]).min(axis=0)
    assert total / whole == pytest.approx(dual / whole, abs=1e-9)


@some
@given(arrays(bool, (14, 17)).filter(np.any), arrays(bool, (14, 17)).filter(np.any))
def test_ragged_masks_with_holes(a, b):
    same(a, b, (0.3, 0.15))


@pytest.mark.parametrize(
    ("a", "b", "offset"),
    [
        (np.ones((1, 1), bool), np.ones((1, 1), bool), (0, 0)),
        (np.ones((1, 1), bool), np.ones((9, 9), bool), (-4, -4)),
        (np.ones((1, 40), bool), np.ones((40, 1), bool), (-20, 20)),
        (np.ones((1, 64), bool), np.ones((1, 64), bool), (0, 32)),
        (np.ones((12, 12), bool), np.ones((12, 12), bool), (0, 500)),
        (np.ones((3, 3), bool), np.ones((30, 31), bool), (2000, -1000)),
        (np.eye(50, dtype=bool), np.eye(50, dtype=bool)[::-1], (0, 0)),
        (np.indices((20, 20)).sum(0) % 2 == 0, np.indices((20, 20)).sum(0) % 2 == 1, (0, 0)),
    ],
)
def test_points_lines_and_far_masks(a, b, offset):
    same(a, b, offset=offset)


def test_nested_masks_rings_and_pieces():
    y, x = np.mgrid[:30, :30]
    r2 = (y - 15) ** 2 + (x - 15) ** 2
    disc, small, ring = r2 < 150, r2 < 40, (r2 < 200) & (r2 > 100)
    pieces = ((y - 7) ** 2 + (x - 7) ** 2 < 25) | ((y - 23) ** 2 + (x - 21) ** 2 < 35)
    fewer = disc.copy()
    fewer[15, 4] = False
    same(disc, small)
    same(ring, disc)
    same(ring, pieces, (0.2, 0.5))
    same(disc, fewer)


@pytest.mark.parametrize("name", ["plant_ovule_crop/ovule_crop", "plant_ovule_nuclei/nuclei_1135"])
def test_real_cells(real, name):
    labels = real(name)
    rng = np.random.default_rng(5)
    seen = 0
    while seen < 6:
        label, z = int(rng.integers(2, labels.max())), int(rng.integers(len(labels) - 3))
        one, two = mask_points(labels[z] == label), mask_points(labels[z + 1 + seen % 3] == label)
        if min(len(one), len(two)) > 20 and max(len(one), len(two)) < 700:
            assert emd_points(one, two, (0.3, 0.2)) == pytest.approx(plain(one, two, (0.3, 0.2)), abs=1e-9)
            seen += 1


@some
@given(arrays(bool, (6, 9)).filter(np.any), arrays(bool, (6, 9)).filter(np.any))
def test_what_is_left_to_transport(a, b):
    sy, sx, supply, ty, tx, demand, whole = residual(
        *(np.ascontiguousarray(np.argwhere(mask)) for mask in (a, b))
    )
    left = np.zeros((40, 40), np.int64)
    np.add.at(left, (sy, sx), supply)
    np.add.at(left, (ty, tx), -demand)
    y, x = np.argwhere(a | b).min(axis=0)
    m, n = int(a.sum()), int(b.sum())
    difference = whole // m * a.astype(np.int64) - whole // n * b.astype(np.int64)
    assert np.array_equal(np.abs(left[: 6 - y, : 9 - x]), np.abs(difference[y:, x:]))
    assert whole == np.lcm(m, n) and len(sy) >= len(ty)
    assert supply.sum() == demand.sum()


@some
@given(arrays(np.int64, (7, 8), elements=st.integers(0, 5)).filter(np.any), st.sampled_from([2, 3, 4]))
def test_blocks_keep_mass_and_its_centre(weights, h):
    y, x = np.nonzero(weights)
    mass = weights[y, x]
    by, bx, total, spread = gathered(y, x, mass, h, np.array([0.5, 2.0]))
    about = total @ spread + total @ (by**2 + bx**2)
    assert about == pytest.approx(mass @ ((0.5 * y) ** 2 + (2.0 * x) ** 2))
    assert total.sum() == mass.sum()
    assert total @ by == pytest.approx(0.5 * (mass @ y))
    assert total @ bx == pytest.approx(2.0 * (mass @ x))
    assert len(total) == len(np.unique(np.stack([y // h, x // h]), axis=1).T)


def test_the_perturbation_is_above_twice_the_sources():
    assert [perturbation(n) for n in (1, 2, 3, 4, 511, 512)] == [4, 8, 8, 16, 1024, 2048]
