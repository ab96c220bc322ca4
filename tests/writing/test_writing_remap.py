"""Merges and fills in blocks: the same voxels as by the definition, however the volume is cut."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from twins.writing import truth

from overseg.kernels import relabel
from overseg.kernels.relabel import Runs, put_back
from overseg.pipeline.journal import Segment, read_image, read_journal, restore
from overseg.pipeline.plandata import Fills, Merges, sort_fills
from overseg.pipeline.remap import Edits, axis_map, rewrite

SHAPE = (5, 6, 7)
DTYPES = st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Merges, Fills]:
    """A volume of few labels, merges among them, and fills that do not overlap."""
    volume = draw(hnp.arrays(draw(DTYPES), SHAPE, elements=st.integers(0, 9)))
    old = np.array(
        sorted(draw(st.sets(st.integers(2, 2**40), max_size=3)) | draw(st.sets(st.integers(2, 9))))
    )
    merges = Merges(np.zeros(len(old), np.int64), old.astype(np.uint64), np.ones(len(old), np.uint64))
    rows = draw(st.sets(st.tuples(*(st.integers(0, n - 1) for n in SHAPE[:2])), max_size=6))
    starts = [draw(st.integers(0, 5)) for _ in rows]
    ends = [draw(st.integers(start + 1, 7)) for start in starts]
    z, y = (np.array([row[i] for row in sorted(rows)], np.int64) for i in (0, 1))
    new = np.array([draw(st.integers(1, 100)) for _ in rows], np.uint64)
    t = np.zeros(len(rows), np.int64)
    return volume, merges, Fills(t, z, y, np.array(starts, np.int64), np.array(ends, np.int64), new)


def changed(old: np.ndarray, new: np.ndarray) -> Runs:
    """The runs that change, by the definition: as long as can be, of one old value each."""
    before, after = old.reshape(-1), new.reshape(-1)
    found: list[list[int]] = []
    for at in np.flatnonzero(before != after):
        if found and sum(found[-1][:2]) == at and found[-1][2] == before[at]:
            found[-1][1] += 1
        else:
            found.append([int(at), 1, int(before[at])])
    starts, lengths, values = np.array(found, np.uint64).reshape(-1, 3).T
    return Runs(starts.astype(np.int64), lengths.astype(np.int64), values.astype(old.dtype))


def rewritten(block: np.ndarray, times: range, maps: list[np.ndarray], edits: Edits) -> np.ndarray:
    """The corrected copy of a block, whose notes were seen to be complete and as short as can be."""
    result = np.array(block, order="C")
    runs = rewrite(result, times, maps, edits)
    for name, expected in vars(changed(block, result)).items():
        np.testing.assert_array_equal(getattr(runs, name), expected, name)
        assert getattr(runs, name).dtype == expected.dtype
    back = result.reshape(-1).copy()
    put_back(back, runs)
    np.testing.assert_array_equal(back, block.reshape(-1))
    return result


@settings(max_examples=60, deadline=None)
@given(cases(), st.tuples(*(st.integers(1, n) for n in SHAPE)))
def test_blocks_equal_the_definition(
    case: tuple[np.ndarray, Merges, Fills], size: tuple[int, int, int]
) -> None:
    volume, merges, fills = case
    found = np.zeros_like(volume)
    for z in range(0, SHAPE[0], size[0]):
        for y in range(0, SHAPE[1], size[1]):
            for x in range(0, SHAPE[2], size[2]):
                here = tuple(slice(at, at + n) for at, n in zip((z, y, x), size, strict=True))
                block = volume[here]
                maps = [np.arange(at, at + n) for at, n in zip((z, y, x), block.shape, strict=True)]
                found[here] = rewritten(block[None], range(1), maps, Edits(merges, fills))[0]
    np.testing.assert_array_equal(found, truth(volume, merges, fills))


@settings(max_examples=40, deadline=None)
@given(cases(), st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=3, max_size=3))
def test_coarse_blocks_take_the_fills_of_their_nearest_voxels(
    case: tuple[np.ndarray, Merges, Fills], picks: list[list[int]]
) -> None:
    volume, merges, fills = case
    maps = [np.minimum(np.sort(pick), n - 1) for pick, n in zip(picks, SHAPE, strict=True)]
    block = volume[np.ix_(*maps)]
    found = rewritten(block[None], range(1), maps, Edits(merges, fills))[0]
    np.testing.assert_array_equal(found, truth(volume, merges, fills)[np.ix_(*maps)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 63, 64, 65, 130, 400]), st.booleans(), st.booleans())
def test_words_of_voxels_equal_a_table(seed: int, width: int, chained: bool, cut: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 30, (5, 9)).repeat(50, axis=1)[:, :width]
    volume = np.repeat(rows.astype(np.uint32), 4, axis=0).reshape(2, 10, -1)
    volume[rng.random(volume.shape) < 0.05] = rng.integers(1, 30)
    old = np.arange(12, 20, dtype=np.uint64)
    # Without chains nothing gets a label that is itself renamed.
    new = rng.integers(1, 25 if chained else 12, len(old)).astype(np.uint64)
    t = np.zeros(3, np.int64)
    z, y, x = np.array([0, 0, 1]), np.array([2, 7, 3]), rng.integers(0, volume.shape[2], (2, 3))
    labels = rng.integers(1, 25 if chained else 12, 3).astype(np.uint64)
    fills = Fills(t, z, y, x.min(axis=0), x.max(axis=0) + 1, labels)
    region = ((0, 2), (1, 9), (0, volume.shape[2] - 1)) if cut else None
    table = np.arange(30, dtype=np.uint32)
    table[old] = new
    expected = table[volume]
    for a, b, start, stop, label in zip(z, y, fills.x0, fills.x1, labels, strict=True):
        expected[a, b, start:stop] = label
    outside = np.full(volume.shape, cut)
    outside[tuple(slice(*span) for span in region or ((0, 0),))] = False
    for a, b, start, stop in zip(z, y, fills.x0, fills.x1, strict=True):
        outside[a, b, start:stop] = False
    expected[outside] = volume[outside]
    maps = [np.arange(n) for n in volume.shape]
    merges = Merges(np.zeros(len(old), np.int64), old, new)
    found = rewritten(volume[None], range(1), maps, Edits(merges, fills, region))[0]
    np.testing.assert_array_equal(found, expected)


def test_only_the_right_time_point_changes() -> None:
    block = np.full((3, 2, 2, 2), 5, np.uint16)
    one = np.array([1])
    merges = Merges(one, np.array([5], np.uint64), np.array([2], np.uint64))
    fills = Fills(np.array([2]), one, one, 0 * one, one, np.array([9], np.uint64))
    maps = [np.arange(2)] * 3
    found = rewritten(block, range(3), maps, Edits(merges, fills))
    assert (found[0] == 5).all() and (found[1] == 2).all()
    assert np.argwhere(found[2] == 9).tolist() == [[1, 1, 0]] and (found[2] == 5).sum() == 7


@given(
    st.integers(1, 40),
    st.sampled_from([0.065, 0.13, 0.26, 0.325, 1.0, 2.0]),
    st.sampled_from([1, 2, 3, 4]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_nearest_voxel_and_ties(n: int, size: float, factor: int, centred: bool) -> None:
    shift = (factor - 1) / 2 * size if centred else 0.0
    base = SimpleNamespace(shape=(1, 1, n), scale=(1, 1, size), translation=(0, 0, 3 * size))
    level = SimpleNamespace(scale=(1, 1, factor * size), translation=(0, 0, 3 * size + shift))
    m = -(-n // factor)
    found = axis_map(level, base, 2, 0, m)
    # In units of half a voxel of level 0 everything is an integer.
    centre = 2 * np.arange(m) * factor + (factor - 1 if centred else 0)
    distance = np.abs(centre[:, None] - 2 * np.arange(n)[None, :])
    np.testing.assert_array_equal(found, distance.argmin(axis=1))  # argmin takes the first: the smaller index


@settings(max_examples=60, deadline=None)
@given(cases(), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=3, max_size=3))
def test_nothing_is_renamed_outside_the_region(
    case: tuple[np.ndarray, Merges, Fills], region: list[tuple[int, int]]
) -> None:
    volume, merges, fills = case
    maps = [np.arange(n) for n in SHAPE]
    found = rewritten(volume[None], range(1), maps, Edits(merges, fills, tuple(region)))[0]
    none = Fills(*(column[:0] for column in vars(fills).values()))
    inside = tuple(slice(*span) if span[0] < span[1] else slice(0) for span in region)
    expected = volume.copy()
    expected[inside] = truth(volume, merges, none)[inside]
    np.testing.assert_array_equal(found, truth(expected, Merges(*[merges.t[:0]] * 3), fills))


def test_large_blocks_are_worked_on_in_pieces() -> None:
    volume = np.random.default_rng(0).integers(0, 6, (3, 100, 131)).astype(np.uint16)
    volume[1] = 4
    assert volume.size > 2 * relabel._PIECE
    zero = np.zeros(3, np.int64)
    merges = Merges(zero, np.array([2, 4, 5], np.uint64), np.array([1, 3, 3], np.uint64))
    row = np.zeros(1, np.int64)
    fills = Fills(row, row + 1, row + 7, row + 3, row + 90, np.array([9], np.uint64))
    maps = [np.arange(n) for n in volume.shape]
    found = rewritten(volume[None], range(1), maps, Edits(merges, fills))[0]
    np.testing.assert_array_equal(found, truth(volume, merges, fills))


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 2**63)), st.sets(st.integers(1, 2**63)), st.integers(0, 70))
def test_names_are_found_and_no_others(old: set[int], others: set[int], crowd: int) -> None:
    keys = np.array(sorted(old | set(range(1, crowd + 1))), np.uint64)
    table = relabel.names(keys, keys - np.uint64(1))
    for key in keys:
        assert relabel._renamed(table.old, table.new, key) == key - np.uint64(1)
    for key in others - set(keys.tolist()):
        assert relabel._renamed(table.old, table.new, np.uint64(key)) == key


@settings(max_examples=30, deadline=None)
@given(st.data(), DTYPES)
def test_the_journal_gives_back_what_was(tmp_path_factory: object, data: st.DataObject, dtype: type) -> None:
    folder: Path = tmp_path_factory.mktemp("journal")  # type: ignore[attr-defined]
    small = hnp.arrays(dtype, (3, 4, 5), elements=st.integers(0, 3))
    pairs = [(data.draw(small), data.draw(small)) for _ in range(3)]
    with Segment(folder, "attempt") as segment:
        for unit, (old, new) in enumerate(pairs):
            segment.image(1, unit, b"b" * 16, b"a" * 16, changed(old, new))
            segment.done(1, unit, b"b" * 16, b"a" * 16)
        segment.sync()
    journal = read_journal(folder)
    assert sorted(journal.images) == [(1, 0), (1, 1), (1, 2)] == sorted(journal.done)
    assert journal.lost() == []
    for unit, (old, new) in enumerate(pairs):
        image = journal.images[1, unit]
        for name, expected in vars(changed(old, new)).items():
            np.testing.assert_array_equal(getattr(read_image(folder, image), name), expected)
        restore(folder, image, new)
        np.testing.assert_array_equal(new, old)


def test_touching_runs_of_one_label_are_one() -> None:
    fills = Fills(*(np.array(column) for column in ([0, 0, 0], [1, 1, 1], [2, 2, 2], [4, 0, 2], [6, 2, 4])),
                  new=np.array([8, 8, 8], np.uint64))  # fmt: skip
    joined = sort_fills(fills)
    assert (joined.x0.tolist(), joined.x1.tolist()) == ([0], [6])


def test_records_after_a_torn_one_are_found(tmp_path: Path) -> None:
    old, new = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    for unit in range(3):  # one process, whose second record was cut short by a full disk
        with Segment(tmp_path, "attempt") as segment:
            segment.image(0, unit, b"b" * 16, b"a" * 16, changed(old, new))
        if unit == 1:
            segment.path.write_bytes(segment.path.read_bytes()[:-5])
    journal = read_journal(tmp_path)
    assert sorted(journal.images) == [(0, 0), (0, 2)]
    restore(tmp_path, journal.images[0, 2], new)
    np.testing.assert_array_equal(new, old)


def test_the_first_image_of_a_unit_counts(tmp_path: Path) -> None:
    first, second = np.zeros((2, 2), np.uint8), np.full((2, 2), 7, np.uint8)
    with Segment(tmp_path, "attempt") as segment:
        segment.image(0, 5, b"b" * 16, b"a" * 16, changed(first, second))
        segment.image(0, 5, b"a" * 16, b"c" * 16, changed(second, first))
    assert read_journal(tmp_path).images[0, 5].before == b"b" * 16
