"""Rows added up, hashed, moved and looked up by compiled loops equal what NumPy and Python make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseg.kernels.faces import face_codes, rows_at, rows_of_ends
from overseg.kernels.hashing import sum_of_hashes
from overseg.kernels.reduce import ScanTables, group, layer_columns, layers_of, views_of, ways_of
from overseg.kernels.sums import add_up, in_32_bits, largest_rows
from overseg.pipeline.scantables import ScanFile, added_rows, columns_of, write_scan

SEEDS = st.integers(0, 10**6)
KEYS = {"layers": ("label", "z"), "pairs": ("a", "b", "z", "gap"), "stacked": ("a", "b")}
MASK = 2**64 - 1


def random_rows(rng: np.random.Generator, table: str, names: tuple[str, ...], size: int) -> np.ndarray:
    """Rows with few different keys, of labels on both sides of 2^63, and numbers that wrap when added."""
    rows = rng.integers(-(2**62), 2**62, size=(size, len(names)))
    for column, name in enumerate(names):
        if name in ("label", "a", "b"):
            rows[:, column] = rng.choice(np.array([1, 7, 2**63 - 1, -(2**63), -5]), size)
        elif name in KEYS[table]:
            rows[:, column] = rng.integers(0, 4, size)
    return rows


@pytest.mark.parametrize("table", list(KEYS))
@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(0, 60), st.integers(0, 6))
def test_rows_are_added_up_as_numpy_does(table: str, seed: int, size: int, cuts: int) -> None:
    rng, names, key = np.random.default_rng(seed), columns_of(table, 2), KEYS[table]
    rows = random_rows(rng, table, names, size)
    # Some stretches are in order and without equals, as scans leave them; some are not.
    stretches = np.array_split(rows, np.sort(rng.integers(0, size + 1, cuts)))
    for i in range(0, len(stretches), 2):
        if len(stretches[i]):
            sorted_ = group(views_of(stretches[i], names), key)
            stretches[i] = np.stack([values.view(np.int64) for values in sorted_.values()], axis=1)
    rows = np.concatenate(stretches)
    expected = group(views_of(rows, names), key)
    found = add_up(rows.copy(), 1 if table == "layers" else 2, ways_of(names, key))
    for name, values in views_of(found, names).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_rows_in_order_are_not_copied() -> None:
    rows = np.array([[1, 0, 5], [1, 2, 5], [2, 0, 5], [-1, 0, 5]])
    assert add_up(rows, 1, [0, 0, 1]) is rows


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 700), st.integers(1, 5), st.sampled_from([0, 3, 2**63 - 1]))
def test_hashes_are_those_of_splitmix64(seed: int, size: int, columns: int, first: int) -> None:
    rows = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, size=(size, columns))
    total = 0
    for half in range(2):
        mixed = np.full(size, 2 * first + half, np.uint64)
        for values in rows.T.astype(np.uint64):
            value = (mixed ^ values) + np.uint64(0x9E3779B97F4A7C15)
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = value ^ (value >> np.uint64(31))
        total += sum(mixed.tolist()) << (64 * half)
    assert sum_of_hashes(rows, first) == total % 2**128
    assert sum_of_hashes(rows[::-1], first) == total % 2**128


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 8), st.sampled_from([0, 10**6, 2**33]))
def test_moments_are_moved_to_corners_without_loss(seed: int, labels: int, far: int) -> None:
    rng = np.random.default_rng(seed)
    rows, expected = [], []
    for label in range(1, labels + 1):
        masks = [rng.integers(0, 30, size=(int(rng.integers(1, 9)), 2)) for _ in range(rng.integers(1, 4))]
        corner = np.concatenate(masks).min(axis=0)
        for z, mask in enumerate(masks):
            box = [f(mask[:, axis]) for axis in (0, 1) for f in (min, lambda v: max(v) + 1)]
            sides = [int(side) + far for side in box]
            for where, shift in ((rows, [far, far]), (expected, (-corner).tolist())):
                y, x = ([int(v) + by for v in column] for column, by in zip(mask.T, shift, strict=True))
                squares = [
                    sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((y, y), (x, x), (y, x))
                ]
                sums = [sum(y), sum(x), *squares]
                wrapped = [(value + 2**63 & MASK) - 2**63 for value in sums]
                where.append([label, z, len(mask), *wrapped, *sides, 0])
    shape = (-1, len(layer_columns(1)))
    matrix = np.array(rows, np.int64).reshape(shape)
    table, boxes = layers_of(matrix)
    np.testing.assert_array_equal(matrix, np.array(expected, np.int64).reshape(shape))
    assert table.labels.tolist() == list(range(1, labels + 1))
    np.testing.assert_array_equal(np.repeat(table.labels, np.diff(table.start)), table.label)
    assert not table.too_large.any()
    for label, (y0, y1, x0, x1) in zip(table.labels, boxes.T, strict=True):
        mine = table.label == label
        assert (table.y0[mine].min(), table.y1[mine].max()) == (y0, y1)
        assert (table.x0[mine].min(), table.x1[mine].max()) == (x0, x1)
    np.testing.assert_array_equal([table.corner_y, table.corner_x], boxes[[0, 2]])


def random_layers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, starts of their rows, layers and areas."""
    labels = np.sort(rng.choice(40, rng.integers(0, 9), replace=False)).astype(np.uint64)
    layers = [np.sort(rng.choice(12, rng.integers(1, 9), replace=False)) for _ in labels]
    start = np.append(0, np.cumsum([len(z) for z in layers])).astype(np.int64)
    z = np.concatenate([np.zeros(0, np.int64), *layers])
    return labels, start, z, rng.choice([1, 2, 3, 8, 40, 200], len(z))


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_rows_of_layers_and_ends_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, start, z, area = random_layers(rng)
    member = np.repeat(np.arange(len(labels)), np.diff(start))
    assert largest_rows(start, area).tolist() == np.lexsort([z, -area, member])[start[:-1]].tolist()
    places = {key: row for row, key in enumerate(zip(labels[member].tolist(), z.tolist(), strict=True))}
    ends = rng.integers(0, 3, len(z))
    who, layer = rng.integers(0, 41, 60).astype(np.uint64), rng.integers(-1, 13, 60)
    if seed % 2:
        who.sort()
    expected = [places.get(key, -1) for key in zip(who.tolist(), layer.tolist(), strict=True)]
    assert rows_at(labels, start, z, who, layer).tolist() == expected
    which, rows = rows_of_ends(labels, start, z, ends, who, layer)
    assert which.tolist() == [i for i, row in enumerate(expected) if row >= 0 and ends[row]]
    assert rows.tolist() == [expected[i] for i in which]


def plain_code(row: int, step: int, rows: dict[int, int], z: np.ndarray, area: np.ndarray, back: np.ndarray):
    """The rule of `face_codes`, for one row in one direction; `rows` are those of its label by layer."""
    code, slivers = 0, 0
    for lag in range(1, back.shape[1] + 1):
        other = rows.get(int(z[row]) + step * lag)
        remains, goes_on = (0, 0) if other is None else (area[other], back[max(row, other), lag - 1])
        if 4 * remains >= area[row]:
            break
        if 20 * goes_on >= area[row]:
            slivers = lag
        if slivers < lag:
            code |= 1 << lag | (1 << (lag + 32) if slivers else 0)
    return code


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 4))
def test_codes_of_faces_follow_the_rule(seed: int, lags: int) -> None:
    rng = np.random.default_rng(seed)
    _, start, z, area = random_layers(rng)
    back = rng.integers(0, 4, size=(len(z), lags)) * rng.integers(0, 2, size=(len(z), lags))
    ends, starts = face_codes(start, z, area, back)
    for first, after in zip(start[:-1].tolist(), start[1:].tolist(), strict=True):
        rows = {int(z[row]): row for row in range(first, after)}
        for row in range(first, after):
            assert ends[row] == plain_code(row, 1, rows, z, area, back)
            assert starts[row] == plain_code(row, -1, rows, z, area, back)


@pytest.mark.parametrize("value", [0, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**63 - 1])
@pytest.mark.parametrize("last", [False, True])
def test_numbers_take_half_the_room_where_they_fit(value: int, last: bool) -> None:
    rows = np.arange(12).reshape(3, 4)
    rows[(-1, -1) if last else (0, 0)] = value
    found = in_32_bits(rows[:, :] if last else np.asfortranarray(rows))
    assert found.dtype == (np.int32 if -(2**31) <= value < 2**31 else np.int64)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("lags", [2, 17])
@pytest.mark.parametrize("partitions", [1, 6])
def test_files_of_several_tasks_are_added_up(tmp_path: Path, lags: int, partitions: int) -> None:
    rng, names = np.random.default_rng(lags), {table: columns_of(table, lags) for table in KEYS}
    rows = {table: random_rows(rng, table, names[table], 300) for table in KEYS}
    for i in range(3):
        parts = [group(views_of(rows[table][i::3], names[table]), KEYS[table]) for table in KEYS]
        write_scan(tmp_path / f"{i}.tables", {4: ScanTables(*parts)}, lags, partitions)
    files = [ScanFile(tmp_path / f"{i}.tables", lags) for i in range(3)]
    for table, key in KEYS.items():
        expected = group(views_of(rows[table], names[table]), key)
        parts = [added_rows(files, 4, table, lags, range(p, p + 1)) for p in range(partitions)]
        found = group(views_of(np.concatenate(parts), names[table]), key)
        assert sum(map(len, parts)) == len(next(iter(expected.values())))
        for name in names[table]:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        assert len(added_rows(files, 5, table, lags, range(partitions))) == 0
