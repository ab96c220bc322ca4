"""What cross-sections tell: areas, overlaps, grooves, points for the transport solver."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overseg.kernels.crosscut import REACHES, areas, groove, overlaps, section_points
from overseg.kernels.resample import Sections, reslice
from overseg.kernels.transport import emd_points

FIELDS = arrays(np.float32, (5, 4, 6), elements=st.floats(-3, 3, width=32))
SECTIONS = st.builds(Sections, FIELDS, FIELDS, st.sampled_from([1.0, 0.5]), st.floats(0, 4))


def soft(field: np.ndarray, spacing: float) -> np.ndarray:
    return np.clip(field.astype(float) / spacing + 0.5, 0, 1)


@settings(deadline=None)
@given(SECTIONS)
def test_areas_are_soft_sums(sections):
    both, a, b = areas(sections)
    inside, side = soft(sections.inside, sections.spacing), soft(sections.side, sections.spacing)
    square = sections.spacing**2
    np.testing.assert_allclose(both, inside.sum((1, 2)) * square, atol=1e-9)
    np.testing.assert_allclose(a, (inside * side).sum((1, 2)) * square, atol=1e-9)
    np.testing.assert_allclose(a + b, both, atol=1e-9)


@settings(deadline=None)
@given(SECTIONS, st.integers(1, 6))
def test_overlaps_are_soft_jaccard_indices(sections, lag):
    inside = soft(sections.inside, sections.spacing)
    found = overlaps(sections, lag)
    assert len(found) == max(5 - lag, 0)
    for i, value in enumerate(found):
        common, either = np.minimum(inside[i], inside[i + lag]), np.maximum(inside[i], inside[i + lag])
        assert value == pytest.approx(common.sum() / either.sum() if either.sum() else 0, abs=1e-9)


@settings(deadline=None)
@given(SECTIONS)
def test_a_groove_is_always_finite_and_zero_where_missing(sections):
    found = groove(sections)
    for values in (found.linear, found.parabolic, found.rim, found.grooved):
        assert np.isfinite(values).all()
        assert (values[found.missing] == 0).all()
    assert (found.linear <= 1).all() and (found.parabolic <= 1).all()
    assert ((found.grooved >= 0) & (found.grooved <= 1)).all()


@settings(deadline=None)
@given(SECTIONS)
def test_points_of_both_labels_make_up_the_section(sections):
    both, a, b = (set(map(tuple, section_points(sections, 2, part))) for part in ("both", "a", "b"))
    assert a | b == both and not a & b


# ------------------------------------------------------------------ solids


def solid(box: np.ndarray, voxel_size=(1.0, 1.0, 1.0), normal=(1.0, 0.0, 0.0), depth=14.0) -> Sections:
    point = (np.array(box.shape) - 1) / 2 * voxel_size
    return reslice(box, 1, 2, voxel_size, point, normal, depth, 24)


def tilted(inside, factor: int = 1) -> np.ndarray:
    """Half of a solid is 1, half 2, split at right angles to (0.6, 0, 0.8); `inside(height, distance)`."""
    z, y, x = np.meshgrid(np.arange(0, 61, factor), np.arange(61), np.arange(61), indexing="ij")
    height = (z - 30) * 0.6 + (x - 30) * 0.8
    across = (x - 30) * 0.6 - (z - 30) * 0.8
    return np.where(inside(height, np.hypot(across, y - 30)), np.where(height < 0, 1, 2), 0)


def dumbbell(height, distance):
    return distance < 10 + 0.5 * np.abs(height)


SOLIDS = {
    "cylinder": lambda height, distance: distance < 14,
    "cone": lambda height, distance: distance < 14 + 0.3 * height,
    "ball": lambda height, distance: np.hypot(height, distance) < 22,
}


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("name", SOLIDS)
def test_what_was_cut_has_no_groove(name, factor):
    found = groove(solid(tilted(SOLIDS[name], factor), (float(factor), 1.0, 1.0), (0.6, 0, 0.8)))
    assert not found.missing.any()
    assert found.linear.max() < 0.02
    assert abs(found.parabolic).max() < 0.03
    assert found.rim.max() < 0.02


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_what_has_a_waist_has_a_groove(factor):
    found = groove(solid(tilted(dumbbell, factor), (float(factor), 1.0, 1.0), (0.6, 0, 0.8)))
    assert not found.missing.any()
    assert found.radius == pytest.approx(10, abs=0.6)
    # Half a radius away the outline is a quarter of it further out, and as slanted as that.
    assert found.rim[2] == pytest.approx(0.25 * np.cos(np.arctan(0.5)), abs=0.05)
    assert found.linear[2] == pytest.approx(1 - 1 / 1.1875**2, abs=0.04 + 0.02 * factor)
    assert (np.diff(found.rim) > 0).all() and (found.grooved > 0.9).all()


def test_a_pair_too_short_is_missing_where_it_ends():
    box = np.zeros((12, 40, 40), np.uint8)
    box[3:6, 8:32, 8:32], box[6:9, 8:32, 8:32] = 1, 2
    found = groove(solid(box))
    assert found.missing.tolist() == [False, True, True]
    assert found.rim[1:].tolist() == [0, 0]
    assert groove(solid(box, depth=1.0)).missing.all()
    assert len(REACHES) == 3


def test_layers_of_a_slanted_prism_move_as_they_should():
    z, y, x = np.ogrid[:20, :40, :40]
    box = np.where((abs(y - 20) < 6) & (abs(x - 10 - z) < 6), np.where(z < 10, 1, 2), 0)
    sections = solid(box, depth=6)
    masks = [section_points(sections, layer) for layer in (4, 7)]
    assert emd_points(*masks, (1.0, 1.0)) == pytest.approx(3, abs=0.1)
    assert overlaps(sections, 3)[4] == pytest.approx(8 / 14, abs=0.05)
