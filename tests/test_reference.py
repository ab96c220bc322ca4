"""The pipeline beside a slow, plain implementation of docs/methods.md that shares no code with it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import overseg
from benchmarks import reference
from benchmarks.reference import Cells, Row
from overseg.kernels.scan import scan_block
from overseg.kernels.transport import emd
from overseg.measure import generate_tissue, simulate_splits
from overseg.model.features import MOMENTS, moments_features
from overseg.pipeline.candidates import find_candidates
from overseg.pipeline.reconcile import from_tables

SIZE = (0.8, 1.3)
MAX_GAP = 3


def broken(seed: int) -> np.ndarray:
    """A small tissue, broken twice and with some trash: chains, noise, holes, swallowed and half masks."""
    rng = np.random.default_rng(seed)
    tissue = generate_tissue((18, 30, 36), 30, seed, ("packed", "loose", "mixed")[seed % 3])
    for again in range(2):
        tissue = simulate_splits(tissue, rate=0.6, seed=seed + again, gaps=(1, 2, 3))[0]
    if seed % 2:
        trash = rng.random(tissue.shape) < 0.02
        tissue[trash] = rng.integers(0, tissue.max() + 5, trash.sum())
    return tissue


@pytest.fixture(scope="module", params=range(4))
def case(request):
    """A volume, its cells as the reference sees them, and the pipeline's tables and candidates."""
    volume = broken(request.param)
    whole = tuple((0, n) for n in volume.shape)
    found = from_tables(scan_block(volume, 0, (0, 0, 0), MAX_GAP), 0, whole, volume.shape)
    candidates = find_candidates(
        found.layers, found.pairs, found.stacked, MAX_GAP, excluded=found.background_like
    )
    return volume, Cells(volume), found.layers, candidates


def rows_of(candidates) -> list[Row]:
    return [
        Row(*row) for row in zip(*(getattr(candidates, name).tolist() for name in Row._fields), strict=True)
    ]


def test_candidates_and_noise_are_the_same(case):
    _, cells, _, candidates = case
    found = dict(zip(rows_of(candidates), candidates.noise, strict=True))
    assert found == reference.candidates(cells, MAX_GAP)
    assert len(found) > 10
    for row, overlap in zip(rows_of(candidates), candidates.overlap.tolist(), strict=True):
        assert overlap == cells.overlap(row)


def test_features_are_the_same(case):
    _, cells, layers, candidates = case
    values = moments_features(candidates, layers, (1.0, *SIZE))
    for row, found in zip(rows_of(candidates), values, strict=True):
        expected = reference.features(cells, row, SIZE)
        assert set(expected) == set(MOMENTS)
        for name, value in zip(MOMENTS, found.tolist(), strict=True):
            if name == "growth_rank":  # equal growths may differ in the last bit, which decides a rank
                continue
            # Roots of differences near zero keep half of their digits.
            nearly = 1e-3 if "usual" in name else 1e-5 if name.startswith("shape") else 1e-9
            if name.endswith("usual_rank"):  # nor may equal changes be told from nearly equal ones
                nearly = 2 / 65
            assert value == pytest.approx(expected[name], rel=1e-9, abs=nearly), name


def test_distances_are_the_same(case):
    _, cells, _, candidates = case
    for row in rows_of(candidates)[:12]:
        one, two = cells.mask(row.a, row.z), cells.mask(row.b, row.z + row.gap + 1)
        assert emd(one, two, SIZE) == pytest.approx(reference.distance(one, two, SIZE), rel=1e-9)


def test_merges_and_fills_are_those_of_the_reference(case):
    volume, cells, _, candidates = case
    corrected, plan = overseg.correct(volume, workers=1, max_gap=MAX_GAP, threshold=0.3)
    table = plan.candidates.to_pydict()
    rows = [Row(*row) for row in zip(*(table[name] for name in Row._fields), strict=True)]
    assert rows == rows_of(candidates)
    strange = [reason.startswith("far outside") for reason in table["reason"]]
    merges = reference.merges(rows, table["p"], strange, 0.3)
    for root in set(merges.values()):
        members = {root, *(old for old, new in merges.items() if new == root)}
        if reference.over_the_guard(cells, members):
            merges = {old: new for old, new in merges.items() if new != root}
    expected = volume.copy()
    for old, new in merges.items():
        expected[volume == old] = new
    taken = np.zeros(volume.shape, bool)
    fills = plan.data.fills
    for z, y, x0, x1, new in zip(fills.z, fills.y, fills.x0, fills.x1, fills.new, strict=True):
        taken[z, y, x0:x1], expected[z, y, x0:x1] = True, new
    assert dict(zip(plan.data.merges.old.tolist(), plan.data.merges.new.tolist(), strict=True)) == merges
    np.testing.assert_array_equal(corrected, expected)

    accepted = [i for i in range(len(rows)) if table["decision"][i] in ("merge", "fill")]
    gaps = [(rows[i], candidates.noise[i]) for i in accepted]
    for one, two in product(gaps, gaps):  # two links by way of a thin label are one gap
        if one[0].a != one[0].b == two[0].a and one[0].z < two[0].z <= one[0].z + MAX_GAP:
            row = Row(one[0].a, two[0].b, one[0].z, two[0].z + two[0].gap - one[0].z)
            gaps.append((row, one[1] + two[1]))
    allowed = np.zeros(volume.shape, bool)
    for row, noise in gaps:
        for z, mask in reference.may_be_filled(cells, row, noise, (0,)).items():
            allowed[z] |= mask
    assert not (taken & ~allowed).any()
    if gaps:
        assert taken.any()
