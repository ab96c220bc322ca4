"""The candidate rule: case by case, against its plain twin, and in both directions of z."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins.candidates_twin import candidates_of

from overseg.kernels.scan import scan_array
from overseg.kernels.tables import Candidates
from overseg.pipeline.candidates import find_candidates, search

ALL = np.s_[0:10, 0:10]


def found(array: np.ndarray, max_gap: int = 2, **options: object) -> Candidates:
    return find_candidates(*scan_array(array, max_gap), max_gap, **options)


def keys(candidates: Candidates) -> list[tuple[int, int, int, int]]:
    c = candidates
    return list(zip(c.a.tolist(), c.b.tolist(), c.z.tolist(), c.gap.tolist(), strict=True))


def stack(*layers: int | tuple[int, tuple[slice, slice]] | list) -> np.ndarray:
    """Layers of 10 x 10 pixels: one label for all of it, or a list of (label, place)."""
    array = np.zeros((len(layers), 10, 10), np.uint16)
    for z, layer in enumerate(layers):
        for label, place in [(layer, ALL)] if isinstance(layer, int) else layer:
            array[(z, *place)] = label
    return array


PART = np.s_[0:10, 0:2]  # 20 pixels
TINY = np.s_[0:2, 0:2]  # 4 pixels
FIVE = np.s_[0:1, 0:5]
QUARTER = np.s_[0:5, 0:5]


@pytest.mark.parametrize("gap", [1, 2])
def test_a_gap_between_two_labels(gap: int) -> None:
    c = found(stack(1, 1, *[0] * gap, 2, 2))
    assert keys(c) == [(1, 2, 1, gap)]
    assert (c.overlap[0], c.area_a[0], c.area_b[0]) == (100, 100, 100)
    assert not c.hole[0] and not c.sliver[0] and c.noise == ((),)


def test_wider_gaps_and_flat_splits_are_none() -> None:
    assert keys(found(stack(1, 1, 0, 0, 0, 2, 2))) == []
    assert keys(found(stack(1, 1, 2, 2))) == []
    assert keys(found(stack(1, 1, 0, 0, 2, 2), max_gap=1)) == []


def test_a_label_that_misses_layers() -> None:
    c = found(stack(1, 1, 0, 0, 1, 1))
    assert keys(c) == [(1, 1, 1, 2)]
    assert c.hole.tolist() == [True]
    assert c.overlap.tolist() == [100]


def test_a_neighbour_in_the_gap_does_not_hide_it() -> None:
    beside = np.full((6, 10, 14), 9, np.uint16)
    beside[:, :, :10] = stack(1, 1, 9, 2, 2, 2)
    assert keys(found(beside)) == [(1, 2, 1, 1)]


def test_what_goes_on_at_the_limit() -> None:
    assert keys(found(stack(1, 1, [(1, TINY)], 2, 2, 2))) == [(1, 2, 1, 1)]  # 4%
    c = found(stack(1, 1, [(1, FIVE)], 2, 2, 2))  # 5%, which is a sliver
    assert keys(c) == [(1, 2, 1, 1)]
    assert c.sliver.tolist() == [True]
    assert c.overlap.tolist() == [95]
    assert keys(found(stack(1, 1, [(1, QUARTER)], 2, 2, 2))) == []  # 25%


def test_both_faces_of_a_sliver_are_tried() -> None:
    c = found(stack(1, 1, [(1, PART)], 0, 2, 2))
    assert keys(c) == [(1, 2, 1, 2), (1, 2, 2, 1)]
    assert c.sliver.tolist() == [True, False]
    c = found(stack(2, 2, 0, [(1, PART)], 1, 1))
    assert keys(c) == [(2, 1, 1, 1), (2, 1, 1, 2)]
    assert c.sliver.tolist() == [False, True]


def test_a_label_that_narrows_and_widens_is_no_hole() -> None:
    assert keys(found(stack(1, 1, [(1, PART)], 1, 1))) == []


def test_small_labels_in_the_gap_are_noise() -> None:
    c = found(stack(1, 1, [(7, PART)], 2, 2))
    assert keys(c) == [(1, 2, 1, 1)]
    assert c.noise == ((7,),)
    c = found(stack(1, 1, [(7, PART)], [(5, TINY)], 1, 1))
    assert keys(c) == [(1, 1, 1, 2)]
    assert c.noise == ((5, 7),)


def test_noise_is_no_partner() -> None:
    # 7 ends at layer 2 and faces 2 across one layer, but it lies in the gap of 1 and 2.
    assert keys(found(stack(1, 1, [(7, PART)], 0, 2, 2))) == [(1, 2, 1, 2)]


def test_larger_labels_in_the_gap_make_a_chain() -> None:
    c = found(stack(1, 1, [(7, QUARTER)], 2, 2))
    assert keys(c) == [(1, 7, 1, 0), (7, 2, 2, 0)]
    assert c.overlap.tolist() == [25, 25]
    assert c.area_a.tolist() == [100, 25]
    assert keys(found(stack(1, 1, 7, 0, 2, 2))) == [(1, 7, 1, 0), (7, 2, 2, 1)]
    assert keys(found(stack(1, 1, 7, 1, 1))) == [(1, 7, 1, 0), (7, 1, 2, 0)]
    assert keys(found(stack(1, 1, 7, 8, 2, 2))) == [(1, 7, 1, 0), (7, 8, 2, 0), (8, 2, 3, 0)]


def test_a_label_that_goes_on_outside_the_gap_makes_no_chain() -> None:
    wide = np.zeros((5, 10, 20), np.uint16)
    wide[:, :, :10] = stack(1, 1, 7, 2, 2)
    wide[1:4, :, 10:] = 7
    assert keys(found(wide)) == [(1, 2, 1, 1)]


def test_the_published_rule() -> None:
    assert keys(found(stack(1, 1, 0, 2, 2), rule="paper")) == [(1, 2, 1, 1)]
    assert keys(found(stack(1, 1, 0, 0, 2, 2), rule="paper")) == []
    assert keys(found(stack(1, 0, 1, 1), rule="paper")) == []
    assert keys(found(stack(1, 1, [(1, TINY)], 2, 2), rule="paper")) == []
    assert keys(found(stack(1, 1, 7, 2, 2), rule="paper")) == [(1, 2, 1, 1)]


def test_excluded_labels_take_no_part() -> None:
    array = stack(1, 1, 7, 2, 2)
    assert keys(found(array, excluded=[7])) == [(1, 2, 1, 1)]
    assert found(array, excluded=[7]).noise == ((),)
    assert keys(found(array, excluded=np.array([1], np.uint64))) == []
    large = np.ones((5, 1500, 1500), np.uint8)
    large[2], large[3:] = 0, 2
    assert keys(found(large)) == []


def test_touching_labels_are_counted() -> None:
    def touching(array: np.ndarray, excluded: tuple[int, ...] = ()) -> int:
        return search(*scan_array(array, 2), 2, excluded=excluded).touching

    assert touching(stack(1, 1, 2, 2)) == 1
    assert touching(stack(1, 1, 2, 2), (2,)) == 0
    assert touching(stack(1, 1, 7, 2, 2)) == 0  # judged as the links of a chain
    assert touching(stack(1, 1, [(1, PART), (2, np.s_[0:10, 2:10])], 2, 2)) == 0  # a tilted border
    assert touching(np.zeros((4, 4, 4), np.uint8)) == 0


def test_nothing_is_found_in_nothing() -> None:
    assert keys(found(np.zeros((6, 4, 4), np.uint8))) == []
    assert keys(found(np.ones((6, 4, 4), np.uint8), rule="paper")) == []


@st.composite
def towers(draw: st.DrawFn) -> np.ndarray:
    """Towers of layers that end, go on, shrink, or are replaced, with stray voxels."""
    depth, towers = draw(st.integers(4, 8)), draw(st.integers(1, 3))
    array = np.zeros((depth, 5, 5 * towers), np.int64)
    labels = st.integers(0, 5)
    for tower in range(towers):
        for z in range(depth):
            label, kind = draw(labels), draw(st.sampled_from(["same", "same", "new", "empty", "shrunk"]))
            width = 1 if kind == "shrunk" else 5
            same = z and kind in ("same", "shrunk")
            value = 0 if kind == "empty" else array[z - 1, 0, 5 * tower] if same else label
            array[z, :, 5 * tower : 5 * tower + width] = value
    for _ in range(draw(st.integers(0, 4))):
        place = tuple(draw(st.integers(0, n - 1)) for n in array.shape)
        array[place] = draw(st.integers(0, 9))
    return array


@settings(max_examples=150, deadline=None)
@given(towers(), st.integers(1, 3))
def test_equals_the_plain_rule(array: np.ndarray, max_gap: int) -> None:
    c = found(array, max_gap)
    expected = candidates_of(array, max_gap)
    assert keys(c) == sorted(expected)
    facts = zip(c.sliver.tolist(), c.noise, c.overlap.tolist(), strict=True)
    assert dict(zip(keys(c), facts, strict=True)) == expected


@settings(max_examples=60, deadline=None)
@given(towers(), st.integers(1, 3), st.sampled_from(["default", "paper"]), st.permutations(range(1, 10)))
def test_flips_and_names_do_not_matter(array: np.ndarray, max_gap: int, rule: str, names: list[int]) -> None:
    """Flipped in z and renamed: the same candidates with a and b exchanged."""
    renamed = np.array([0, *names])[array][::-1]
    there = {number: label for label, number in enumerate(names, start=1)}
    depth = len(array)

    def facts(c: Candidates, turn: Callable[[tuple], tuple]) -> set[tuple]:
        more = zip(
            c.overlap.tolist(), c.area_a.tolist(), c.area_b.tolist(), c.sliver.tolist(), c.noise, strict=True
        )
        return {turn((*key, *rest)) for key, rest in zip(keys(c), more, strict=True)}

    def back(row: tuple) -> tuple:
        a, b, z, gap, overlap, area_a, area_b, sliver, noise = row
        noise = tuple(sorted(there[x] for x in noise))
        return there[b], there[a], depth - z - gap - 2, gap, overlap, area_b, area_a, sliver, noise

    here = facts(found(array, max_gap, rule=rule), lambda row: row)
    assert facts(found(renamed, max_gap, rule=rule), back) == here


@pytest.mark.parametrize("name", ["plant_membrane_patch/patch", "plant_ovule_nuclei/nuclei_1139"])
@pytest.mark.parametrize("rule", ["default", "paper"])
def test_real_cells_flipped(real: Callable[..., np.ndarray], name: str, rule: str) -> None:
    array = real(name)
    here, there = found(array, rule=rule), found(array[::-1], rule=rule)
    turned = sorted((b, a, len(array) - z - gap - 2, gap) for a, b, z, gap in keys(there))
    assert turned == sorted(keys(here))
    assert sorted(there.overlap.tolist()) == sorted(here.overlap.tolist())
    assert len(here) > 0 or rule == "paper"
