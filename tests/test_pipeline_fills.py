"""Fills over a whole volume: independent of batches and chunks, and settled where they meet."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.errors import StorageError
from overseg.kernels.fill import FREE, NOISE, SWALLOWED
from overseg.kernels.scan import scan_array
from overseg.kernels.tables import Candidates
from overseg.pipeline.boxes import Reader, along_a_curve
from overseg.pipeline.candidates import find_candidates
from overseg.pipeline.decide import FILL, MERGE, Verdicts
from overseg.pipeline.fills import fill_batches, fill_task, peak_bytes, wanted_fills
from overseg.pipeline.settle import (
    Claims,
    concatenate,
    overlapping,
    read_claims,
    read_depth,
    settle,
    write_claims,
)
from overseg.volume import open_volume

MAX_GAP = 2


def tissue():
    """4 x 4 columns of cells, 9 x 9 voxels each with seams between, broken at random layers by 1 or 2."""
    rng = np.random.default_rng(3)
    volume = np.zeros((16, 40, 40), np.uint16)
    truth = volume.copy()
    for k, (i, j) in enumerate(np.ndindex(4, 4)):
        place = (slice(1 + 10 * i, 10 + 10 * i), slice(1 + 10 * j, 10 + 10 * j))
        upper, lower = 2 * k + 1, 2 * k + 2
        z, gap = rng.integers(4, 9), rng.integers(1, 3)
        truth[(slice(1, 15), *place)] = upper
        volume[(slice(1, z + 1), *place)] = upper
        volume[(slice(z + gap + 1, 15), *place)] = lower
    return volume, truth


def all_accepted(volume):
    layers, pairs, stacked = scan_array(volume, MAX_GAP)
    candidates = find_candidates(layers, pairs, stacked, MAX_GAP)
    same = candidates.a == candidates.b
    old, new = np.maximum(candidates.a, candidates.b)[~same], np.minimum(candidates.a, candidates.b)[~same]
    order = np.argsort(old)
    decision = np.where(same, FILL, MERGE)
    return layers, candidates, Verdicts(decision, decision, old[order], new[order])


def stored(tmp_path, volume, chunks, name="v"):
    path = tmp_path / f"{name}.zarr"
    zarr.create_array(path, shape=volume.shape, chunks=chunks, dtype=volume.dtype)[:] = volume
    return open_volume(path)


def sizes(labels, voxels):
    """What `settle` asks: how many voxels labels have."""
    known = dict(zip(np.asarray(labels).tolist(), np.asarray(voxels).tolist(), strict=True))
    return lambda _, asked: np.array([known[label] for label in asked.tolist()], np.int64)


def apply(volume, settled, verdicts):
    out = verdicts.root(volume.ravel().astype(np.uint64)).reshape(volume.shape)
    fills = settled.fills
    for z, y, x0, x1, new in zip(fills.z, fills.y, fills.x0, fills.x1, fills.new, strict=True):
        out[z, y, x0:x1] = new
    return out


@pytest.mark.parametrize("chunks", [(16, 40, 40), (3, 7, 11), (1, 40, 40)])
@pytest.mark.parametrize("size", [1, 5, 99])
def test_a_broken_tissue_is_whole_again_however_it_is_cut(tmp_path, chunks, size):
    volume, truth = tissue()
    layers, candidates, verdicts = all_accepted(volume)
    place = stored(tmp_path, volume, chunks)
    wanted = wanted_fills(candidates, verdicts, layers)
    assert len(wanted) == 16
    paths = []
    for start in range(0, len(wanted), size):
        paths.append(tmp_path / f"{start}.parquet")
        receipt = fill_task(place, wanted[start : start + size], (0,), "all", str(paths[-1]))
        assert receipt["fills"] == len(wanted[start : start + size]) and not receipt["empty"]
    voxels = np.array([np.count_nonzero(volume == label) for label in layers.labels])
    settled = settle(paths[::-1], sizes(layers.labels, voxels))
    assert np.array_equal(apply(volume, settled, verdicts), truth)
    assert settled.contested == len(settled.lost) == len(settled.spared) == 0


class Counting:
    """A volume that counts what is decoded of it."""

    def __init__(self, volume):
        self._volume, self.reads = volume, []

    def __getattr__(self, name):
        return getattr(self._volume, name)

    def _chunks(self, level):
        """Nothing is read past `read`."""

    def read(self, box, t=0):
        self.reads.append(tuple((part.start, part.stop) for part in box))
        return self._volume.read(box, t)


BOXES = [((start, start + 4), (start, start + 10), (0, 40)) for start in range(0, 12, 3)]


@pytest.mark.parametrize("chunks", [(5, 8, 8), (16, 40, 40), (1, 40, 40)])
@pytest.mark.parametrize("held", [1, 10**4, 1 << 26])
def test_boxes_are_read_whatever_the_chunks_and_the_cap(tmp_path, monkeypatch, chunks, held):
    monkeypatch.setattr("overseg.pipeline.boxes.HELD_BYTES", held)
    monkeypatch.setattr("overseg.pipeline.boxes._LEAST_VOXELS", 1)
    volume, _ = tissue()
    place = Counting(stored(tmp_path, volume, chunks))
    reader = Reader(place, 0, BOXES)
    for box in [*BOXES, ((2, 9), (3, 30), (11, 12)), BOXES[1], BOXES[1]]:
        found = reader.read(*box)
        assert np.array_equal(found, volume[tuple(slice(*span) for span in box)])
        assert found.dtype == np.uint64
        # No more is held than may be, but for a single box that is larger.
        assert len(reader._held) == 1 or sum(data.nbytes for data in reader._held.values()) <= held
    for read in place.reads:  # never more than one chunk
        assert all(a // n == (b - 1) // n for (a, b), n in zip(read, chunks, strict=True))


def test_a_task_decodes_each_chunk_once(tmp_path, monkeypatch):
    monkeypatch.setattr("overseg.pipeline.boxes._LEAST_VOXELS", 1)
    volume, _ = tissue()
    layers, candidates, verdicts = all_accepted(volume)
    place = Counting(stored(tmp_path, volume, (4, 20, 20)))
    wanted = wanted_fills(candidates, verdicts, layers)
    fill_task(place, wanted, (0,), "all", str(tmp_path / "c"))
    chunks = [tuple(a // n for (a, _), n in zip(read, (4, 20, 20), strict=True)) for read in place.reads]
    assert len(chunks) == len(set(chunks)) <= 16
    monkeypatch.setattr("overseg.pipeline.boxes._LEAST_VOXELS", 4 * 40 * 40)
    place.reads.clear()
    fill_task(place, wanted, (0,), "all", str(tmp_path / "d"))
    assert len(place.reads) == len({z for (z, _), _, _ in place.reads}) <= 4
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()


def test_a_region_is_not_left(tmp_path):
    volume = np.zeros((5, 20, 20), np.uint8)
    volume[:2, 5:12, 5:12], volume[3:, 5:12, 5:12] = 1, 2
    volume[2, 4:14, 4:14] = 3
    volume[2, 5:13, 5:12] = 0  # a hole with one row more
    layers, candidates, verdicts = all_accepted(volume)
    wanted = wanted_fills(candidates, verdicts, layers)
    place = stored(tmp_path, volume, (5, 20, 20))
    for stop, filled in ((20, 56), (12, 49)):
        fill_task(place, wanted, (0,), "all", str(tmp_path / "c"), bounds=((0, 5), (0, stop), (0, 20)))
        assert read_claims(tmp_path / "c").size.sum() == filled


def test_a_part_of_a_mask_under_a_third_label_is_completed(tmp_path):
    volume = np.zeros((7, 20, 20), np.uint16)
    volume[:3, 5:15, 5:15], volume[4:, 5:15, 5:15], volume[3, 5:11, 5:15] = 1, 2, 3
    layers, candidates, _ = all_accepted(volume)
    assert candidates.gap.tolist() == [0, 0]  # two links by way of the third label
    links = Verdicts(np.array([MERGE, MERGE]), np.array(["", ""]), *np.array([[2, 3], [1, 1]], np.uint64))
    wanted = wanted_fills(candidates, links, layers)
    assert [(each.a, each.b, each.z, each.gap, each.own) for each in wanted] == [(1, 2, 2, 1, (1, 2, 3))]
    receipt = fill_task(stored(tmp_path, volume, (4, 9, 9)), wanted, (0,), "all", str(tmp_path / "c"))
    assert receipt["free"] == 40
    alone = Verdicts(np.array([MERGE, "keep"]), np.array(["", ""]), *np.array([[3], [1]], np.uint64))
    assert wanted_fills(candidates, alone, layers) == []


def test_batches_hold_all_and_neighbours_together(tmp_path, monkeypatch):
    volume, _ = tissue()
    layers, candidates, verdicts = all_accepted(volume)
    wanted = wanted_fills(candidates, verdicts, layers)
    place = stored(tmp_path, volume, (16, 20, 20))
    assert [len(batch) for batch in fill_batches(place, wanted)] == [16]
    monkeypatch.setattr("overseg.pipeline.boxes._LEAST_VOXELS", 1)
    monkeypatch.setattr("overseg.pipeline.fills._BATCH_WORK", 700_000)
    batches = list(fill_batches(place, wanted))
    assert sorted(each.row for batch in batches for each in batch) == sorted(each.row for each in wanted)
    assert 2 < len(batches) < 9
    quarter = [{(each.box[0] // 20, each.box[2] // 20) for each in batch} for batch in batches]
    assert max(len(each) for each in quarter) <= 2
    assert list(fill_batches(place, [])) == []


def test_a_curve_that_turns_late_goes_through_layers_of_chunks():
    index = np.stack(np.unravel_index(np.arange(4 * 8 * 8), (4, 8, 8)), axis=1)
    plain, late = index[along_a_curve(index)], index[along_a_curve(index, (3, 0, 0))]
    assert (plain[:8] < 2).all() and (np.sort(plain[:64].max(axis=0)) == 3).all()
    assert late[:, 0].tolist() == np.repeat(np.arange(4), 64).tolist()
    assert (late[:16, 1:] < 4).all()
    far = np.array([[2**21 - 1, 0, 0], [0, 2**21 - 1, 0], [2**21 - 2, 0, 0]])
    assert along_a_curve(far, (5, 0, 40)).tolist() == [1, 2, 0]  # there is room for no more bits


def test_the_predicted_memory_holds(tmp_path):
    import tracemalloc

    volume = np.zeros((4, 400, 400), np.uint32)
    volume[0, 20:380, 20:380], volume[-1, 20:380, 20:380] = 1, 2
    layers, candidates, verdicts = all_accepted(volume)
    wanted = wanted_fills(candidates, verdicts, layers)
    place = stored(tmp_path, volume, (4, 100, 100))
    small = [each.__class__(**{**vars(each), "box": (20, 40, 20, 40)}) for each in wanted]
    assert peak_bytes(place, []) < peak_bytes(place, small) < peak_bytes(place, wanted)
    fill_task(place, small, (0,), "all", str(tmp_path / "warm"))
    tracemalloc.start()
    fill_task(place, wanted, (0,), "all", str(tmp_path / "c"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < peak_bytes(place, wanted)


def test_nothing_accepted_wants_nothing():
    volume, _ = tissue()
    layers, candidates, verdicts = all_accepted(volume)
    keep = np.full(len(candidates), "keep")
    assert wanted_fills(candidates, Verdicts(keep, keep, verdicts.old[:0], verdicts.new[:0]), layers) == []
    none = Candidates(*(getattr(candidates, f)[:0] for f in candidates.__dataclass_fields__))
    assert wanted_fills(none, Verdicts(keep[:0], keep[:0], verdicts.old[:0], verdicts.new[:0]), layers) == []


@st.composite
def claims_of_fills(draw):
    """Rows as fills make them: each candidate one root, its voxels once, one label and reason per row."""
    parts = []
    for row in range(draw(st.integers(0, 5))):
        new = draw(st.integers(1, 3))
        for z, y in sorted(draw(st.sets(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=3))):
            x0 = draw(st.integers(0, 6))
            size = draw(st.integers(1, 5))
            depth = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
            values = [[v] for v in (0, row, z, y, x0, x0 + size)]
            parts.append(
                Claims(*np.array(values, np.int64), np.array([new], np.uint64), np.array([50 + z], np.uint64),
                       np.array([[FREE, NOISE][y]], np.uint8), np.array(depth, np.int64))
            )  # fmt: skip
    return parts


@settings(max_examples=120, deadline=None)
@given(claims_of_fills(), st.randoms(use_true_random=False), st.integers(1, 3), st.sampled_from([3, 1 << 20]))
def test_settling_equals_voting_voxel_by_voxel(tmp_path_factory, parts, random, files, slab):
    votes = {}
    for part in parts:
        for i, x in enumerate(range(part.x0[0], part.x1[0])):
            key = (int(part.z[0]), int(part.y[0]), x)
            votes.setdefault(key, []).append((-int(part.depth[i]), int(part.new[0])))
    random.shuffle(parts)
    folder = tmp_path_factory.mktemp("claims")
    for k in range(files):
        write_claims(folder / str(k), concatenate(parts[k::files]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("overseg.pipeline.settle._SLAB", slab)
        patch.setattr("overseg.pipeline.settle._ROWS", slab)
        settled = settle([folder / str(k) for k in range(files)], sizes([50, 51], [10**6, 10**6]))
    owners = {}
    fills = settled.fills
    for z, y, x0, x1, new in zip(fills.z, fills.y, fills.x0, fills.x1, fills.new, strict=True):
        for x in range(x0, x1):
            assert (z, y, x) not in owners
            owners[int(z), int(y), x] = int(new)
    assert owners == {key: min(claims)[1] for key, claims in votes.items()}
    assert settled.contested == sum(len({new for _, new in claims}) > 1 for claims in votes.values())


def row(x0, x1, new, old, why, depth=1, t=0, candidate=0):
    values = [[v] for v in (t, candidate, 4, 7, x0, x1)]
    return Claims(
        *np.array(values, np.int64), np.array([new], np.uint64), np.array([old], np.uint64),
        np.array([why], np.uint8), np.full(x1 - x0, depth, np.int64),
    )  # fmt: skip


def test_noise_that_is_gone_is_lost_and_neighbours_are_spared(tmp_path):
    path = tmp_path / "c"
    parts = [
        row(0, 4, 1, 60, NOISE),
        row(4, 6, 1, 61, NOISE, t=1),
        row(6, 9, 1, 62, SWALLOWED),
        row(9, 12, 1, 63, SWALLOWED),
        row(12, 15, 1, 0, FREE),
    ]
    write_claims(path, concatenate(parts))
    at = [sizes([60, 61, 62, 63], [4, 2, 4, 3]), sizes([61], [2])]
    settled = settle([path], lambda t, labels: at[t](t, labels))
    assert settled.lost.tolist() == [[0, 60], [1, 61]]
    assert settled.spared.tolist() == [[0, 63]]
    assert (settled.fills.x1 - settled.fills.x0).sum() == 4 + 2 + 3 + 3
    assert settled.fills.x1.tolist() == [4, 9, 15, 6]


def test_claims_come_back_from_their_file(tmp_path):
    parts = [row(0, 4, 1, 60, NOISE, depth=3), row(2, 4, 2, 0, FREE, depth=9), row(8, 9, 2, 0, FREE)]
    write_claims(tmp_path / "c", concatenate(parts))
    again = read_claims(tmp_path / "c")
    assert again.old.tolist() == [60, 0, 0] and again.size.tolist() == [4, 2, 1]
    assert read_depth(tmp_path / "c", np.array([1, 2])).tolist() == [9, 9, 1]
    assert overlapping(again).tolist() == [True, True, False]
    with pytest.raises(StorageError, match="cannot write fills"):
        write_claims(tmp_path / "c" / "d", concatenate(parts))


def test_nothing_to_settle(tmp_path):
    settled = settle([], sizes([], []))
    assert len(settled.fills.t) == settled.contested == 0


def test_a_row_of_thin_labels_too_long_for_a_gap_is_left_alone():
    volume = np.zeros((12, 12, 12), np.uint16)
    for label, z in ((1, slice(0, 4)), (3, 4), (4, 5), (5, 6), (2, slice(7, 12))):
        volume[z, 2:10, 2:10] = label
    layers, *_ = scan_array(volume, MAX_GAP)
    a, b = np.array([1, 3, 4, 5], np.uint64), np.array([3, 4, 5, 2], np.uint64)
    z, zero = np.array([3, 4, 5, 6]), np.zeros(4, np.int64)
    links = Candidates(a, b, z, zero, zero + 64, zero + 64, zero + 64, zero > 0, zero > 0, ((),) * 4)
    words = np.full(4, MERGE)
    merged = np.array([2, 3, 4, 5], np.uint64), np.ones(4, np.uint64)
    assert wanted_fills(links, Verdicts(words, words, *merged), layers) == []
    some = np.array([MERGE, MERGE, "keep", "keep"])
    wanted = wanted_fills(links, Verdicts(some, some, *(part[1:3] for part in merged)), layers)
    assert [(each.a, each.b, each.z, each.gap, each.own) for each in wanted] == [(1, 4, 3, 1, (1, 3, 4))]


def test_a_layer_that_is_lost_everywhere_is_shared_by_its_cells(real, tmp_path):
    truth = np.ascontiguousarray(real("plant_meristem/meristem")[120:150:3, 120:300, 120:300]).astype(
        np.uint16
    )
    volume = truth.copy()
    volume[5] = 0
    layers, candidates, _ = all_accepted(volume)
    decision = np.where(candidates.hole & (candidates.z == 4), FILL, "keep")
    none = np.zeros(0, np.uint64)
    wanted = wanted_fills(candidates, Verdicts(decision, decision, none, none), layers)
    fill_task(stored(tmp_path, volume, (4, 64, 64)), wanted, (0,), "all", str(tmp_path / "c"))
    settled = settle([tmp_path / "c"], lambda _, labels: layers.facts(labels).voxels)
    after = apply(volume, settled, Verdicts(decision, decision, none, none))
    cells = np.isin(truth[5], [each.a for each in wanted])
    assert len(wanted) > 40
    assert settled.contested > 0
    assert (after[5] == truth[5])[cells].mean() > 0.9
    assert (after[5] == 0)[cells].mean() < 0.08


@pytest.mark.parametrize("whys", [(NOISE, SWALLOWED), (SWALLOWED, NOISE)])
def test_why_a_voxel_is_taken_does_not_depend_on_the_order_of_candidates(tmp_path, whys):
    # A flipped volume numbers its candidates in another order.
    one = np.ones(1, np.int64)
    paths = []
    for row, why in enumerate(whys):
        labels = {"new": np.array([3], np.uint64), "old": np.array([9], np.uint64)}
        place = {"t": 0 * one, "z": one, "y": one, "x0": 0 * one, "x1": one, "depth": 4 * one}
        claims = Claims(candidate=row * one, why=np.array([why], np.uint8), **place, **labels)
        paths.append(tmp_path / f"{row}.parquet")
        write_claims(paths[-1], claims)
    settled = settle(paths, sizes([3, 9], [5, 1]))
    assert settled.spared.tolist() == []
    assert settled.lost.tolist() == [[0, 9]]
