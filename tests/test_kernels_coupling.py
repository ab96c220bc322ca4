"""The plan between two outlines: what POT finds, whatever the curves."""

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overseg.kernels.contours import transport_cost
from overseg.kernels.coupling import coupling
from overseg.kernels.raster import outline


def dense(cost):
    flow = np.zeros(cost.shape, np.int64)
    source, goal, units = coupling(cost)
    np.add.at(flow, (source, goal), units)
    assert (units > 0).all() and len(units) < sum(cost.shape)
    assert (flow.sum(axis=1) == cost.shape[1]).all() and (flow.sum(axis=0) == cost.shape[0]).all()
    return flow


def by_pot(cost):
    n, m = cost.shape
    flow = ot.emd(np.full(n, float(m)), np.full(m, float(n)), cost.astype(float), 10**7)
    return np.rint(flow).astype(np.int64)


def plain_cost(source, goal):
    """The definition of `transport_cost`, in Python's integers."""
    n, m = len(source), len(goal)
    drift = (goal.sum(axis=0) * n - source.sum(axis=0) * m) // (n * m)
    squares = ((goal[None] - drift - source[:, None]) ** 2).sum(axis=2)
    bits = min(max(46 - int(squares.max()).bit_length() - (n * m).bit_length(), 0), 16)
    cost = np.empty((n, m), np.int64)
    for k, square in enumerate(squares.ravel().tolist()):
        mixed = (k + 1) * 0x9E3779B97F4A7C15 % 2**64
        mixed = (mixed ^ (mixed >> 31)) * 0xBF58476D1CE4E5B9 % 2**64
        cost.flat[k] = (square * n * m << bits) + ((mixed >> 40) & (2**bits - 1))
    return cost


curves = st.integers(1, 14).flatmap(lambda n: arrays(np.int64, (n, 2), elements=st.integers(-9, 300)))


@settings(max_examples=150, deadline=None)
@given(curves, curves)
def test_the_plan_is_the_one_that_pot_finds(source, goal):
    cost = transport_cost(source, goal)
    assert np.array_equal(cost, plain_cost(source, goal))
    ours, theirs = dense(cost), by_pot(cost)
    assert (ours * cost).sum() == (theirs * cost).sum()


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 7), st.integers(1, 7))
def test_whatever_the_costs(data, n, m):
    # Most of them equal: ties, and supplies that fill demands exactly.
    cost = data.draw(arrays(np.int64, (n, m), elements=st.integers(0, 3)))
    assert (dense(cost) * cost).sum() == (by_pot(cost) * cost).sum()


@pytest.mark.parametrize("shift", [(0, 0), (7, -3)])
def test_outlines_of_real_nuclei_get_the_same_plan(real, shift):
    volume = real("plant_ovule_nuclei/nuclei_1136")
    compared = 0
    for cell in np.unique(volume)[1:]:
        layers = np.flatnonzero((volume == cell).any(axis=(1, 2)))
        for z in layers[:-2:9]:
            source = outline(volume[z] == cell)[0]
            goal = outline(np.roll(volume[z + 2] == cell, shift, (0, 1)))[0]
            if len(source) and len(goal):
                cost = transport_cost(source, goal)
                assert np.array_equal(dense(cost), by_pot(cost))
                compared += 1
    assert compared > 25
