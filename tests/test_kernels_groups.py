"""Merged labels have the bodies and contacts of the relabelled array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from overseg.kernels.bodies import Neighbours, mirrored
from overseg.kernels.groups import Groups, grouped, joined_contacts, run_sums
from overseg.kernels.solids import Solids, Touches, touch_array
from overseg.pipeline.graph import Graph, candidates_among, graph_task

LABELS = [0, 1, 2, 3, 5, 8, 2**40, 2**63 - 1]


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    shape = array_shapes(min_dims=3, max_dims=3, max_side=5)
    return draw(arrays(np.uint64, shape, elements=st.sampled_from(LABELS)))


def merges_of(array: np.ndarray, colours: list[int]) -> tuple[Groups, np.ndarray]:
    """Labels of one colour are merged; the relabelled array by the definition."""
    cells = [label for label in np.unique(array).tolist() if label]
    colour = dict(zip(cells, colours, strict=False))
    names = {label: min(other for other in cells if colour[other] == colour[label]) for label in cells}
    old = [label for label in cells if names[label] != label]
    groups = Groups(np.array(old, np.uint64), np.array([names[label] for label in old], np.uint64))
    relabelled = array.copy()
    for label in old:
        relabelled[array == label] = names[label]
    return groups, relabelled


def assert_same(found: Solids | Touches, expected: Solids | Touches, *but: str) -> None:
    assert len(found) == len(expected)
    for name, values in vars(expected).items():
        if name not in but:
            np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)


@settings(max_examples=150, deadline=None)
@given(volumes(), st.lists(st.integers(0, 4), min_size=7, max_size=7))
def test_merged_is_relabelled(array: np.ndarray, colours: list[int]) -> None:
    groups, relabelled = merges_of(array, colours)
    found = grouped(Neighbours.of(*touch_array(array)), groups)
    expected = Neighbours.of(*touch_array(relabelled))
    assert_same(found.solids, expected.solids)
    assert_same(found.touches, expected.touches)
    np.testing.assert_array_equal(found.start, expected.start)
    assert_same(joined_contacts(mirrored(touch_array(array)[1]), groups), expected.touches)


@settings(max_examples=60, deadline=None)
@given(volumes(), st.lists(st.integers(0, 4), min_size=7, max_size=7), st.integers(0, 6))
def test_twice_merged_is_merged_at_once(array: np.ndarray, colours: list[int], again: int) -> None:
    first, once = merges_of(array, colours)
    second, twice = merges_of(once, [c % (again + 1) for c in range(7)])
    found = grouped(grouped(Neighbours.of(*touch_array(array)), first), second)
    expected = Neighbours.of(*touch_array(twice))
    assert_same(found.solids, expected.solids)
    assert_same(found.touches, expected.touches)


def test_roots_and_members() -> None:
    groups = Groups(np.array([4, 7, 2**63], np.uint64), np.array([2, 2, 5], np.uint64))
    labels = np.array([2**63, 1, 2, 4, 5, 7, 9], np.uint64)
    assert groups.root(labels).tolist() == [5, 1, 2, 2, 5, 2, 9]
    assert groups.members(np.array([2, 9], np.uint64)).tolist() == [2, 4, 7, 9]
    assert groups.members(labels[:0]).tolist() == []
    assert Groups.none().root(labels).tolist() == labels.tolist()


class Folder:
    """What `Graph` asks of a layer store, with each label's part given by its remainder."""

    def __init__(self, place: Path, array: np.ndarray, parts: int) -> None:
        self.place, self.parts = place, parts
        self.solids, self.touches = touch_array(array)

    def part_of(self, labels: np.ndarray) -> np.ndarray:
        return (labels % np.uint64(self.parts)).astype(np.int64)

    def path(self, part: int, suffix: str = "") -> Path:
        return self.place / f"{part}{suffix and '.'}{suffix}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Graphs of arrays, with `parts` parts on disk."""
    from overseg.pipeline import graph, sections

    def save(array: np.ndarray, parts: int) -> Folder:
        store = Folder(tmp_path, array, parts)
        for part in range(parts):
            own = store.touches.take(store.part_of(store.touches.a) == part)
            own = own.take(np.argsort(store.part_of(own.b), kind="stable"))
            ends = np.searchsorted(store.part_of(own.b), np.arange(parts + 1))
            written = {"contacts": own.matrix, "contact_offsets": ends}
            sections.write_sections(store.path(part), written)
        for part in range(parts):
            graph_task(store, part, "mark")
        return store

    class Bodies:
        def __init__(self, store: Folder) -> None:
            self.all = store.solids

        def solids(self, labels: np.ndarray) -> Solids:
            return self.all.take(self.all.index(np.unique(labels)))

    monkeypatch.setattr(graph, "SolidStore", Bodies)
    return save


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_the_graph_on_disk_is_that_of_the_relabelled_array(folder, parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = np.kron(rng.integers(0, 25, (3, 4, 4)), np.ones((1, 2, 2), int)).astype(np.uint64)
    store = folder(array, parts)
    # Colours above the number of labels leave them alone.
    groups, relabelled = merges_of(array, rng.integers(0, 14, 30).tolist())
    graph, expected = Graph(store, groups), Neighbours.of(*touch_array(relabelled))
    some = rng.permutation(expected.solids.label)[:4]
    found = graph.around(some)
    for label in some.tolist():
        i, j = (int(where.solids.index(np.uint64(label))) for where in (found, expected))
        one, two = (
            where.touches.take(np.arange(where.start[at], where.start[at + 1]))
            for where, at in ((found, i), (expected, j))
        )
        assert_same(one, two)
        everyone = np.append(two.b, np.uint64(label))
        assert_same(
            found.solids.take(found.solids.index(everyone)),
            expected.solids.take(expected.solids.index(everyone)),
            "faces",  # of a neighbour those within a group may count: its contacts are not read
        )
        assert found.solids.faces[i].tolist() == expected.solids.faces[j].tolist()
    rows = [graph.of_part(part) for part in range(parts)]
    whole = Touches.of(np.concatenate([each.matrix for each in rows]))
    assert_same(whole.take(np.lexsort([whole.b, whole.a])), expected.touches)
    for part, each in enumerate(rows):
        assert (store.part_of(each.a) == part).all()
    assert_same(graph.cells(some), expected.solids.take(expected.solids.index(np.sort(some))), "faces")


def test_marks_tell_merges_apart(folder) -> None:
    store = folder(np.arange(1, 9, dtype=np.uint64).reshape(2, 2, 2), 1)
    groups = [Groups.none(), Groups(np.uint64([3]), np.uint64([1])), Groups(np.uint64([3]), np.uint64([2]))]
    marks = [Graph(store, each).mark for each in groups]
    assert len(set(marks)) == 3 and marks[1] == Graph(store, groups[1]).mark


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 7, 2**63]), st.integers(0, 5), st.integers(0, 5), st.integers(0, 9),
            st.integers(1, 5),
        ),
        max_size=12,
        unique_by=lambda run: run[1:3],
    )
)  # fmt: skip
def test_runs_are_their_voxels(runs: list[tuple[int, ...]]) -> None:
    array = np.zeros((6, 6, 14), np.uint64)
    for label, z, y, x, n in runs:
        array[z, y, x : x + n] = label
    columns = np.array([run[1:] for run in runs], np.int64).reshape(-1, 4).T
    label = np.array([run[0] for run in runs], np.uint64)
    found = run_sums(label, *columns[:3], columns[2] + columns[3])
    assert_same(found, touch_array(array)[0], "faces", "bare", "flags")
    assert not found.faces.any() and not found.bare.any() and not found.flags.any()


def test_fills_are_added_to_their_cells_alone() -> None:
    array = np.zeros((4, 4, 6), np.uint64)
    array[0], array[3, :, :3], array[3, :, 3:] = 1, 2, 3
    groups = Groups(np.array([2], np.uint64), np.array([1], np.uint64))
    fills = run_sums(*(np.array(c) for c in ([1, 1, 9], [1, 2, 0], [0, 1, 0], [0, 0, 0], [6, 3, 4])))
    found = grouped(Neighbours.of(*touch_array(array)), groups, fills)
    array[array == 2], array[1, 0, :6], array[2, 1, :3] = 1, 1, 1
    expected, _ = touch_array(array)
    assert_same(found.solids, expected, "faces", "bare")


def test_candidates_are_large_enough_contacts_between_cells() -> None:
    array = np.zeros((8, 30, 30), np.uint64)
    array[:4], array[4:, :, :15], array[4:, 5:25, 20:] = 1, 2, 3
    array[0, 0, 0] = 4
    array[7, 14, 15] = 5  # touches 2 by one face
    solids, touches = touch_array(array)
    every = candidates_among(touches, solids, (1.0, 1.0, 1.0))
    assert every.all()
    solids.faces[solids.label == 5] = 100
    few = candidates_among(touches, solids, (1.0, 1.0, 1.0))
    assert [(a, b) for a, b in zip(touches.a[~few], touches.b[~few], strict=True)] == [(2, 5)]
    assert candidates_among(touches, solids, (1.0, 1.0, 1.0), slight=True).all()
    solids.flags[solids.label == 3] = 1
    barred = candidates_among(touches, solids, (1.0, 1.0, 1.0), slight=True)
    assert (barred == (touches.b != 3)).all()
