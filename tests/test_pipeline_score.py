"""Scoring: distances are those of POT, stages ask each other as they should, batches change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zarr

from overseg.cluster import open_executor
from overseg.kernels.scan import scan_array
from overseg.kernels.transport import emd
from overseg.measure import generate_tissue, simulate_splits
from overseg.model import load
from overseg.model.features import FULL, MOMENTS, PAPER, moments_features
from overseg.pipeline import distances, firststage
from overseg.pipeline import score as scoring
from overseg.pipeline.candidates import find_candidates
from overseg.pipeline.decide import decide
from overseg.pipeline.distances import ALL, REACH, distance_rows, looks, measured
from overseg.pipeline.lazy import Limits
from overseg.pipeline.score import score
from overseg.settings import RunSettings, Settings
from overseg.volume import open_volume

SIZE = (2.0, 0.5, 0.75)


@pytest.fixture(scope="module")
def broken():
    return simulate_splits(generate_tissue((24, 44, 44), 24, seed=3), seed=1, rate=0.6)[0]


@pytest.fixture(scope="module")
def tables(broken):
    found = scan_array(broken, 2)
    return find_candidates(*found, 2), found[0]


@pytest.fixture
def scored(broken, tables, tmp_path):
    stored = zarr.create_array(
        tmp_path / "a.zarr", shape=broken.shape, dtype=broken.dtype, chunks=(9, 20, 33)
    )
    stored[:] = broken
    volume = open_volume(tmp_path / "a.zarr", voxel_size=SIZE)

    def run(settings, model, candidates=None, folder="run", device=None):
        with open_executor(RunSettings()) as executor:
            return score(
                tables[0] if candidates is None else candidates,
                tables[1],
                SIZE,
                model,
                settings,
                volume=volume,
                t=0,
                fingerprint=7,
                executor=executor,
                run=tmp_path / folder,
                device=device,
            )

    return run


def feature(scores, name):
    """One column of the features, as they come back from disk."""
    values = np.concatenate(
        [np.empty((0, len(scores.features.names))), *(b() for b in scores.features.blocks)]
    )
    return values[:, scores.features.names.index(name)]


def verdicts(tables, scores, limits):
    """What is made of all candidates."""
    found = decide(
        *tables,
        scores.p,
        threshold=limits.threshold,
        review_from=limits.review_from,
        out_of_range=scores.out_of_range,
        cut=np.zeros(0, np.uint64),
    )
    return found.decision.tolist(), found.reason.tolist()


@pytest.fixture
def eager(monkeypatch):
    """Nothing counts as certain: every distance that is wanted is worked out."""
    monkeypatch.setattr(scoring, "ranked", lambda candidates, p, limits: np.zeros(len(candidates), bool))


def listening(weight):
    """The shipped model, with a second stage that makes much of distances."""
    model = load()
    head = model.head("full")
    first = head.weights[0].copy()
    noise = np.random.default_rng(0).normal(size=(len(FULL) - len(MOMENTS), first.shape[1]))
    first[len(MOMENTS) :] += weight * noise
    heads = {**model.heads, "full": replace(head, weights=(first, *head.weights[1:]))}
    return replace(model, heads=heads, digest=f"listening {weight}")


def test_distances_through_the_gap_are_exact(broken, tables):
    found, layers = tables
    rows = np.arange(len(found))
    values = distance_rows(broken.__getitem__, looks(found, layers, rows, REACH), "full", SIZE[1:])
    for i in rows.tolist():
        one, two = broken[found.z[i]] == found.a[i], broken[found.z[i] + found.gap[i] + 1] == found.b[i]
        radius = np.sqrt((one.sum() + two.sum()) / 2 * SIZE[1] * SIZE[2] / np.pi)
        assert values[i, 0] == pytest.approx(emd(one, two, SIZE[1:]) / radius)
    assert np.isfinite(values).all()


def test_only_the_own_side_of_the_gap_is_looked_at(broken, tables):
    found, layers = tables
    rows = np.flatnonzero(found.gap > 0)
    wanted = looks(found, layers, rows, REACH)
    values = distance_rows(broken.__getitem__, wanted, "full", SIZE[1:])
    for i, row in enumerate(rows.tolist()):
        other = broken.copy()
        other[found.z[row] + 1 : found.z[row] + found.gap[row] + 1] = found.a[row]
        assert np.array_equal(
            distance_rows(other.__getitem__, wanted[i : i + 1], "full", SIZE[1:])[0], values[i]
        )


def test_fast_distances_are_within_one_percent_or_so(broken, tables):
    found, layers = tables
    wanted = looks(found, layers, np.arange(len(found)), REACH)
    exact = distance_rows(broken.__getitem__, wanted, "full", SIZE[1:])
    fast = distance_rows(broken.__getitem__, wanted, "full", SIZE[1:], "fast")
    assert not np.array_equal(exact[:, 0], fast[:, 0])
    assert fast[:, 0] == pytest.approx(exact[:, 0], rel=0.03)


@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0])
def test_fast_distances_never_decide_otherwise_than_exact_ones(scored, tables, weight):
    model = listening(weight)
    exact = scored(Settings(emd="all", transport="exact"), model, folder="exact")
    fast = scored(Settings(emd="all"), model, folder="fast")
    limits = Limits.of(model, Settings())
    assert verdicts(tables, exact, limits) == verdicts(tables, fast, limits)
    measured = (exact.stage == "full") & (fast.stage == "full")
    assert measured.any() and not np.array_equal(fast.p[measured], exact.p[measured])
    assert np.array_equal(fast.p[fast.stage == "moments"], exact.p[fast.stage == "moments"])


@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0])
def test_bounds_from_a_card_never_decide_otherwise_than_exact_distances(scored, tables, weight):
    # The card's code on the CPU: torch does not mind where it runs.
    model = listening(weight)
    exact = scored(Settings(emd="all", transport="exact"), model, folder="exact")
    card = scored(Settings(emd="all"), model, folder="card", device="cpu")
    limits = Limits.of(model, Settings())
    assert verdicts(tables, exact, limits) == verdicts(tables, card, limits)
    measured = (exact.stage == "full") & (card.stage == "full")
    assert measured.any() and (card.p[measured] != exact.p[measured]).any()


def test_a_worker_without_a_card_measures_on_its_processor(monkeypatch, broken, tables):
    monkeypatch.setattr(distances, "find_card", lambda: {"card": None})
    found, layers = tables
    wanted = looks(found, layers, np.arange(8), REACH)
    ways = [measured(broken.__getitem__, wanted, "full", SIZE[1:], way) for way in ("cuda", "fast")]
    assert np.array_equal(*ways)


def test_bounds_hold_for_exact_distances(broken, tables):
    found, layers = tables
    wanted = looks(found, layers, np.arange(len(found)), REACH)
    exact = measured(broken.__getitem__, wanted, "full", SIZE[1:], "exact")
    assert np.array_equal(exact[0], exact[1]) and np.array_equal(exact[0], exact[2])
    for way in ("fast", "cpu"):
        values, low, high = measured(broken.__getitem__, wanted, "full", SIZE[1:], way)
        assert ((low <= exact[0]) & (exact[0] <= high)).all()
        assert ((low <= values) & (values <= high)).all()


def test_near_a_border_fast_distances_are_worked_out_again_exactly(monkeypatch, scored):
    model = listening(1.0)
    exact = scored(Settings(emd="all", transport="exact"), model, folder="exact")
    monkeypatch.setattr(scoring, "MARGIN", 1.5)
    again = scored(Settings(emd="all"), model, folder="again")
    measured = again.stage == "full"
    assert measured.any() and np.array_equal(again.p[measured], exact.p[measured])
    for name in FULL[len(MOMENTS) :]:
        assert np.array_equal(feature(again, name)[measured], feature(exact, name)[measured])


def test_published_features_by_hand(broken):
    found = scan_array(broken, 1)
    candidates = find_candidates(*found, 1, rule="paper")
    values = distance_rows(
        broken.__getitem__, looks(candidates, found[0], np.arange(len(candidates)), ALL), "paper", SIZE[1:]
    )
    assert len(values)
    for i in range(len(candidates)):
        a, b, z = int(candidates.a[i]), int(candidates.b[i]), int(candidates.z[i])
        within = {
            label: [emd(broken[k] == label, broken[k + 1] == label) for k in range(len(broken) - 1) if
                    (broken[k] == label).any() and (broken[k + 1] == label).any()]
            for label in (a, b)
        }  # fmt: skip
        numbers = [np.percentile(within[x] or [0.0], [0, 25, 50, 75, 100]) for x in sorted((a, b))]
        through = emd(broken[z] == a, broken[z + 2] == b)
        assert values[i, : len(PAPER) - 1] == pytest.approx([*np.concatenate(numbers), through])
        assert 0 <= values[i, -1] <= 1


@pytest.mark.parametrize("emd", ["undecided", "all"])
@pytest.mark.parametrize("weight", [0.0, 0.01, 0.1, 1.0])
def test_what_is_certain_without_distances_is_decided_as_with_them(monkeypatch, scored, tables, emd, weight):
    settings, model = Settings(emd=emd, transport="exact"), listening(weight)
    limits = Limits.of(model, settings)
    lazy = scored(settings, model)
    monkeypatch.setattr(scoring, "ranked", lambda candidates, p, limits: np.zeros(len(candidates), bool))
    eager = scored(settings, model, folder="eager")

    assert verdicts(tables, lazy, limits) == verdicts(tables, eager, limits)
    spared = lazy.stage == "bounds"
    assert np.array_equal(lazy.p[~spared], eager.p[~spared])
    assert (np.isnan(feature(lazy, FULL[-1])) & (eager.stage == "full")).tolist() == spared.tolist()
    assert spared.any() if weight == 0.0 else (eager.stage != "bounds").all()


@pytest.mark.usefixtures("eager")
def test_the_second_stage_is_asked_where_the_first_is_unsure(scored, tables):
    model = load()
    found = scored(Settings(), model)
    first = model.head("moments")
    p = first.probability(moments_features(*tables, SIZE))
    unsure = (p > first.sure_low) & (p < first.sure_high)
    assert unsure.any() and (found.stage == "full").tolist() == unsure.tolist()
    assert np.array_equal(found.p[~unsure], p[~unsure])
    assert list(found.features.names) == list(FULL)
    assert np.array_equal(np.isfinite(feature(found, FULL[-1])), unsure)
    everywhere = scored(Settings(emd="all"), model)
    assert set(everywhere.stage.tolist()) == {"full"}
    assert np.array_equal(everywhere.p[unsure], found.p[unsure])
    only = replace(model, heads={"moments": first})
    assert np.array_equal(scored(Settings(), only).p, p)


def test_batches_change_nothing(monkeypatch, scored):
    model = listening(0.003)
    whole = scored(Settings(emd="all"), model)
    assert {"full", "bounds"} == set(whole.stage.tolist())
    monkeypatch.setattr(distances, "_BATCH_ROWS", 3)
    monkeypatch.setattr(firststage, "_BATCH", 7)
    monkeypatch.setattr(firststage, "_BATCH_ROWS", 100)
    parts = scored(Settings(emd="all"), model, folder="again")
    assert np.array_equal(whole.p, parts.p)
    assert whole.stage.tolist() == parts.stage.tolist()
    for name in FULL:
        assert np.array_equal(feature(whole, name), feature(parts, name), equal_nan=True)


@pytest.mark.usefixtures("eager")
def test_what_an_earlier_run_left_is_used(monkeypatch, scored):
    before = scored(Settings(emd="all"), load())
    monkeypatch.setattr(distances, "measured", None)
    monkeypatch.setattr(firststage, "moments_features", None)
    assert np.array_equal(scored(Settings(emd="all"), load()).p, before.p)


def test_the_published_preset_has_one_stage(scored, broken):
    found = scan_array(broken, 1)
    candidates = find_candidates(*found, 1, rule="paper")
    scores = scored(Settings(preset="paper", max_gap=1), load("paper"), candidates)
    assert len(scores.p) == len(candidates) and set(scores.stage.tolist()) == {"paper"}
    assert list(scores.features.names) == list(PAPER)
    assert ((scores.p >= 0) & (scores.p <= 1)).all()


def test_no_candidates_no_scores(scored, tables):
    found = tables[0]
    none = {name: getattr(found, name)[:0] for name in found.__dataclass_fields__}
    scores = scored(Settings(), load(), replace(found, **none))
    assert len(scores.p) == 0 and scores.features.names == FULL
    assert len(MOMENTS) < len(FULL)
