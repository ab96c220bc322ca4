"""Accuracy on small real volumes: floors for the shipped models, and that training can be repeated."""

from __future__ import annotations

import numpy as np
import pytest

from overseg.measure import generate_tissue
from overseg.measure.examples import make_case
from overseg.measure.training import full_of, moments_of, train
from overseg.model import load

pytestmark = pytest.mark.accuracy
VOXEL = (0.28, 0.127, 0.127)


@pytest.mark.parametrize("holes", ["exact", "dilated", "jittered"])
def test_shipped_model_on_real_nuclei(real, holes):
    model = load()
    right = wrong = same = other = 0
    for number in (1135, 1136, 1137, 1139, 1170):
        labels = real(f"plant_ovule_nuclei/nuclei_{number}")
        case = make_case(labels, VOXEL, number, rate=0.5, hard=0.6, holes=holes)
        p = model.probability(moments_of(case, np.arange(len(case.candidates))), "moments")
        truth, merged = case.same_cell(), p >= model.threshold
        same, right = same + truth.sum(), right + (truth & merged).sum()
        other, wrong = other + (~truth).sum(), wrong + (~truth & merged).sum()
    assert same >= 60 and right / same >= 0.96
    assert wrong <= 1


def test_second_stage_on_a_real_ovule(real):
    model = load()
    case = make_case(real("plant_ovule_crop/ovule_crop"), (0.235, 0.15, 0.15), 5, rate=0.6, hard=0.6)
    rows = np.arange(0, len(case.candidates), 2)
    p, truth = model.probability(full_of(case, rows), "full"), case.same_cell()[rows]
    assert (p[truth] >= model.threshold).mean() >= 0.9
    assert (p[~truth] < model.threshold).mean() >= 0.9


def test_untouched_volumes_are_left_alone(real):
    model = load()
    for name in ("plant_ovule_crop/ovule_crop", "plant_ovule_nuclei/nuclei_1135"):
        case = make_case(real(name), VOXEL, 0, rate=0, hard=0)
        p = model.probability(moments_of(case, np.arange(len(case.candidates))), "moments")
        assert not (p[~case.candidates.hole] >= model.threshold).any()


def test_training_can_be_repeated_to_the_bit(tmp_path):
    volumes = [generate_tissue((20, 36, 36), 16, seed) for seed in (1, 2)]
    one, two = (train(volumes, tmp_path / f"{name}.safetensors", epochs=3) for name in "ab")
    assert one.digest == two.digest
    assert set(one.heads) == {"moments", "full"}
    assert [volume["shape"] for volume in one.card["trained_on"]] == [[20, 36, 36]] * 2
    assert len(one.card["left_out_tissue"]) == 2


def test_the_published_method_can_be_trained(tmp_path):
    model = train(
        [generate_tissue((20, 36, 36), 16, 1)], tmp_path / "m.safetensors", epochs=2, preset="paper"
    )
    assert set(model.heads) == {"paper"} and model.threshold == 0.5
    assert model.card["candidate_rule"] == "paper"
    mean = model.heads["paper"].mean
    assert len(set(mean[:10].tolist())) == 1
