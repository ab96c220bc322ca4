"""Known splits: what is broken, what is not, and that the truth says so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from overseg.errors import InputError
from overseg.kernels.scan import scan_array
from overseg.measure import cut_cells, evaluate, generate_tissue, read_truth, simulate, simulate_splits
from overseg.measure.simulation import KINDS
from overseg.pipeline.candidates import find_candidates


@pytest.fixture(scope="module")
def tissue():
    return generate_tissue((32, 96, 96), 60, seed=3)


def test_a_tissue_is_what_was_asked_for():
    one, two = generate_tissue((20, 40, 40), 30, 5), generate_tissue((20, 40, 40), 30, 5)
    assert one.shape == (20, 40, 40) and one.dtype == np.uint32
    assert np.array_equal(one, two)
    assert not np.array_equal(one, generate_tissue((20, 40, 40), 30, 6))
    assert set(np.unique(one)) == set(range(one.max() + 1))
    assert (generate_tissue((20, 40, 40), 30, 5, "packed") > 0).all()
    assert (generate_tissue((20, 40, 40), 30, 5, "columns") > 0).all()
    assert (generate_tissue((20, 40, 40), 30, 5, "loose") == 0).mean() > 0.2


def heights(labels):
    """Layers of each cell over the width of its largest one, in the middle."""
    out = []
    for label in range(1, int(labels.max()) + 1):
        areas = (labels == label).sum(axis=(1, 2))
        out.append((areas > 0).sum() / np.sqrt(areas.max()))
    return np.median(out)


def test_palisades_are_long_and_sheets_are_bent():
    palisade, packed, sheets = (
        generate_tissue((60, 60, 60), 60, 2, style) for style in ("palisade", "packed", "sheets")
    )
    assert heights(palisade) > 1.5 * heights(packed)
    # Flat cells that lie aslant reach through many layers.
    assert heights(sheets) > 1.2 * heights(packed)


def test_divided_cells_lie_side_by_side():
    whole, divided = (generate_tissue((40, 60, 60), 60, 2, style) for style in ("mixed", "dividing"))
    assert divided.max() > 1.2 * whole.max()
    assert np.array_equal(whole > 0, divided > 0)
    for label in range(1, int(divided.max()) + 1):
        assert len(np.unique(whole[divided == label])) == 1


@pytest.mark.parametrize(
    "options",
    [{"shape": (4, 4)}, {"shape": (0, 4, 4)}, {"n_cells": 0}, {"seed": -1}, {"style": "odd"}],
)
def test_a_tissue_that_cannot_be_is_refused(options):
    with pytest.raises(InputError):
        generate_tissue(**options)


@pytest.mark.parametrize("holes", ["exact", "dilated", "jittered"])
def test_the_truth_names_every_label_of_the_broken_volume(tissue, holes):
    broken, truth = simulate_splits(tissue, seed=4, holes=holes, hard=0.8)
    assert truth.label.tolist() == np.unique(broken).tolist()
    assert set(truth.true_of(np.unique(broken)).tolist()) == set(np.unique(tissue).tolist())
    assert {split.kind for split in truth.splits} == set(KINDS)
    assert truth.natural and truth.hard


def test_parts_lie_above_and_below_their_gap(tissue):
    broken, truth = simulate_splits(tissue, seed=1)
    for split in truth.splits:
        mask = tissue == split.true
        lower = mask.copy()
        lower[: split.z + split.gap + 1] = False
        upper = mask.copy()
        upper[split.z + 1 :] = False
        blanked = broken == 0
        assert set(np.unique(broken[lower & ~blanked])) <= {split.lower}
        assert set(np.unique(broken[upper & ~blanked])) <= {split.upper}
        assert split.kind == "hole" or split.upper != split.lower
        middle = broken[split.z + 1 : split.z + split.gap + 1][mask[split.z + 1 : split.z + split.gap + 1]]
        assert not np.isin(middle, [split.upper, split.lower]).any()
        if split.kind in ("missing", "hole"):
            assert not middle.any()
        if split.kind in ("swallowed", "shared", "stray"):
            assert middle.all()


def test_every_split_is_a_candidate_and_every_gap_is_between_cells(tissue):
    broken, truth = simulate_splits(tissue, seed=2, rate=0.4)
    found = find_candidates(*scan_array(broken, 2), 2)
    keys = set(zip(found.a.tolist(), found.b.tolist(), found.z.tolist(), found.gap.tolist(), strict=True))
    plain = [s for s in truth.splits if s.kind not in ("half", "stray", "noise")]
    assert all((s.upper, s.lower, s.z, s.gap) in keys for s in plain)
    for gap in (*truth.natural, *truth.hard):
        one, two = truth.true_of([gap.upper, gap.lower])
        assert one != two
        assert (tissue[gap.z] == one).any() and (tissue[gap.z + gap.gap + 1] == two).any()


def test_voxels_away_from_splits_are_untouched(tissue):
    broken, truth = simulate_splits(tissue, seed=1, rate=0.1, hard=0)
    layers = {z for s in truth.splits for z in range(s.z + 1, s.z + s.gap + 1)}
    rest = [z for z in range(len(tissue)) if z not in layers]
    assert np.array_equal(truth.true_of(broken[rest]), tissue[rest])


def test_nothing_is_broken_at_rate_zero(tissue):
    broken, truth = simulate_splits(tissue, rate=0, hard=0)
    assert np.array_equal(broken, tissue)
    assert truth.splits == () and truth.hard == ()


@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 5, 5), (5, 1, 1)])
def test_volumes_too_thin_to_break_stay_whole(shape):
    labels = np.arange(1, np.prod(shape) + 1).reshape(shape)
    broken, truth = simulate_splits(labels, rate=1, hard=1)
    assert np.array_equal(broken, labels) and truth.splits == ()


def test_the_seed_decides(tissue):
    one, two = simulate_splits(tissue, seed=7), simulate_splits(tissue, seed=7)
    assert np.array_equal(one[0], two[0]) and one[1].splits == two[1].splits
    assert not np.array_equal(one[0], simulate_splits(tissue, seed=8)[0])


def test_a_narrow_type_is_widened_for_fresh_labels():
    labels = np.zeros((12, 20, 20), np.uint8)
    labels[:, 2:9, 2:9], labels[:, 10:18, 10:18] = 254, 255
    broken, truth = simulate_splits(labels, rate=1, kinds=("missing",))
    assert broken.dtype == np.uint16
    assert sorted(s.lower for s in truth.splits) == [256, 257]


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 1.5},
        {"hard": -1},
        {"seed": -1},
        {"kinds": ()},
        {"kinds": ("odd",)},
        {"gaps": ()},
        {"gaps": (0,)},
        {"holes": "odd"},
    ],
)
def test_options_that_cannot_be_are_refused(tissue, options):
    with pytest.raises(InputError):
        simulate_splits(tissue, **options)


@pytest.mark.parametrize("bad", [np.zeros((3, 3), int), np.zeros((3, 3, 3)), np.full((3, 3, 3), -1)])
def test_arrays_that_are_no_labels_are_refused(bad):
    with pytest.raises(InputError):
        simulate_splits(bad)


def test_volume_and_truth_come_back_from_disk(tissue, tmp_path):
    truth = simulate(tissue, tmp_path / "cells.zarr", seed=4, voxel_size=(2.0, 1.0, 1.0))
    again = read_truth(tmp_path / "cells.truth")
    assert again.splits == truth.splits and again.natural == truth.natural and again.hard == truth.hard
    assert np.array_equal(again.label, truth.label) and np.array_equal(again.true, truth.true)
    with pytest.raises(InputError, match="exists"):
        simulate(tissue, tmp_path / "cells.zarr")
    undone = evaluate(tmp_path / "cells.truth/labels.zarr", tmp_path / "cells.truth")
    assert undone.splits_repaired == undone.splits == len(truth.splits)
    assert undone.natural_kept == undone.natural and undone.hard_kept == undone.hard
    left = evaluate(tmp_path / "cells.zarr", tmp_path / "cells.truth")
    assert left.splits_repaired == 0 and left.mean_ap < 1


def test_cuts_and_their_truth_come_back_from_disk(tissue, tmp_path):
    options = {"voxel_size": (2.0, 1.0, 1.0), "seed": 4}
    truth = simulate(tissue, tmp_path / "cells.zarr", kind="tilted", **options)
    assert truth.cuts == cut_cells(tissue, **options)[1] and not truth.splits
    again = read_truth(tmp_path / "cells.truth")
    assert again.cuts == truth.cuts and again.seed == 4
    assert np.array_equal(again.label, truth.label) and np.array_equal(again.true, truth.true)
    names = {"truth": tmp_path / "cells.truth", "broken": tmp_path / "cells.zarr"}
    left = evaluate(tmp_path / "cells.zarr", **names)
    assert (left.cuts, left.cuts_joined, left.merges_right) == (len(truth.cuts), 0, 0)
    undone = evaluate(tmp_path / "cells.truth/labels.zarr", **names)
    assert undone.cuts_joined == undone.cuts == undone.merges_right
    assert undone.merges_wrong == 0 and undone.voi_split == pytest.approx(0)


def test_a_truth_without_cuts_is_read_as_ever(tissue, tmp_path):
    simulate(tissue, tmp_path / "cells.zarr", seed=4)
    path = tmp_path / "cells.truth/truth.json"
    content = json.loads(path.read_text())
    assert content.pop("cuts") == []
    path.write_text(json.dumps(content))
    assert read_truth(tmp_path / "cells.truth").cuts == ()


def test_an_unknown_kind_is_refused(tissue, tmp_path):
    with pytest.raises(InputError, match="odd"):
        simulate(tissue, tmp_path / "cells.zarr", kind="odd")
    assert not list(tmp_path.iterdir())


def test_a_damaged_truth_is_refused(tissue, tmp_path):
    simulate(tissue, tmp_path / "cells.zarr", seed=4)
    (tmp_path / "cells.truth/truth.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_truth(tmp_path / "cells.truth")
    with pytest.raises(InputError, match="no truth"):
        read_truth(tmp_path / "nowhere.truth")


def test_some_cells_break_twice_and_their_parts_are_named_from_the_top_down():
    tissue = generate_tissue((60, 60, 60), 30, 1, "palisade")
    broken, truth = simulate_splits(tissue, rate=0.9, hard=0, seed=2, kinds=("missing", "hole"))
    places = {}
    for split in truth.splits:
        places.setdefault(split.true, []).append(split)
    twice = [sorted(found, key=lambda split: split.z) for found in places.values() if len(found) == 2]
    assert twice and max(map(len, places.values())) == 2
    for above, below in twice:
        assert above.lower == below.upper and above.z + above.gap + 1 < below.z
        assert (above.upper == above.lower) == (above.kind == "hole")
        assert np.unique(broken[(tissue == below.true) & (broken > 0)]).tolist() == sorted(
            {above.upper, above.lower, below.lower}
        )


def test_a_layer_can_be_broken_for_every_cell(tissue):
    broken, truth = simulate_splits(tissue, rate=0, hard=0, layers=2, seed=3)
    blank = [z for z in range(len(tissue)) if not broken[z].any()]
    assert len(blank) == 2
    assert {split.z + 1 for split in truth.splits} == set(blank)
    for z in blank:
        tall = {
            label
            for label in np.unique(tissue[z])[1:].tolist()
            if min((tissue[z + k] == label).sum() for k in (-2, -1, 1, 2)) >= 6
            and (tissue[z] == label).sum() >= 6
        }
        assert {split.true for split in truth.splits if split.z + 1 == z} == tall
    rest = [z for z in range(len(tissue)) if z not in blank]
    assert np.array_equal(truth.true_of(broken[rest]), tissue[rest])
