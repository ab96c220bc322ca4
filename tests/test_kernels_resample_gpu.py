"""Many pairs at once on a device give what the kernels give."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from overseg.errors import InputError  # noqa: E402
from overseg.kernels.crosscut import areas, groove, overlaps  # noqa: E402
from overseg.kernels.resample import reslice  # noqa: E402
from overseg.kernels.resample_gpu import Cut, _batches, measures_on, reslice_on  # noqa: E402

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(scope="module")
def cuts() -> list[Cut]:
    rng = np.random.default_rng(3)
    found = []
    for k in range(24):
        shape = rng.integers(1 if k == 5 else 6, 24, 3)
        size = [(4.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.5, 0.3, 0.7)][k % 3]
        normal = rng.standard_normal(3)
        middle = (shape - 1) / 2
        places = (np.indices(shape).reshape(3, -1).T - middle) * size
        height = (places @ normal).reshape(shape)
        ball = (((places / size) / np.maximum(middle, 1)) ** 2).sum(1).reshape(shape) < rng.uniform(0.7, 2)
        box = np.where(ball, np.where(height + rng.normal(0, 0.3, shape) < 0, 5, 9), 0).astype(np.uint16)
        box.flat[0], box.flat[-1] = 5, 9
        goes_on = tuple(tuple(bool(e) for e in ends) for ends in rng.integers(0, 2, (3, 2)))
        depth, radius = rng.choice([0.0, 3.0, 6.0]) * min(size), rng.uniform(0, 12) * min(size)
        found.append(Cut(box, 5, 9, size, middle * size, normal, depth, radius, goes_on))
    return found


def kernel(cut: Cut):
    return reslice(
        cut.box, cut.a, cut.b, cut.voxel_size, cut.point, cut.normal, cut.depth, cut.radius, cut.goes_on
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory", [1, 2**31])
def test_sections_are_those_of_the_kernel(cuts, device, memory):
    for cut, found in zip(cuts, reslice_on(device, cuts, memory), strict=True):
        wanted = kernel(cut)
        np.testing.assert_allclose(found.inside, wanted.inside, atol=1e-5)
        np.testing.assert_allclose(found.side, wanted.side, atol=1e-5)
        assert found.spacing == wanted.spacing
        assert found.zero == pytest.approx(wanted.zero, abs=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lag", [1, 4])
def test_measures_are_those_of_the_kernel(cuts, device, lag):
    present = 0
    for cut, found in zip(cuts, measures_on(device, cuts, lag), strict=True):
        sections = kernel(cut)
        wanted = groove(sections)
        np.testing.assert_allclose(found.areas, areas(sections), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.overlaps, overlaps(sections, lag), atol=1e-5)
        assert found.groove.radius == pytest.approx(wanted.radius)
        assert (found.groove.missing == wanted.missing).all()
        for name in ("linear", "parabolic", "rim", "grooved"):
            np.testing.assert_allclose(getattr(found.groove, name), getattr(wanted, name), atol=1e-4)
        present += (~wanted.missing).sum()
    assert present > 10


def test_batches_hold_every_pair_once_and_keep_to_the_memory(cuts):
    whole, single = list(_batches(cuts, 2**31)), list(_batches(cuts, 1))
    assert sorted(k for numbers in whole for k in numbers) == list(range(len(cuts)))
    assert all(len(numbers) == 1 for numbers in single) and len(whole) < len(single)
    assert reslice_on("cpu", []) == [] and measures_on("cpu", []) == []


def test_refuses_what_the_kernel_refuses(cuts):
    cut = cuts[0]
    with pytest.raises(InputError, match="both labels"):
        reslice_on("cpu", [Cut(cut.box, 5, 77, cut.voxel_size, cut.point, cut.normal, 1.0, 1.0)])
