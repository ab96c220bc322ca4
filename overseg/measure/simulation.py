"""Known splits, made in any labelled volume, so that a correction can be judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError
from overseg.measure.breaking import KINDS, Holes, Voxels, Work, break_cell, check, padded, start
from overseg.measure.cutting import cut_cells, cut_truth
from overseg.measure.truth import Gap, Split, Truth, write_truth

#: A part keeps at least so many layers, and a broken mask has at least so many voxels.
_LEAST_LAYERS = 2
_LEAST_AREA = 6
#: Of the broken cells so many are broken in a second place, where there is room.
_TWICE = 1 / 7


class _Pair(NamedTuple):
    """Two cells, by their compact labels, facing each other from layer z over a gap."""

    a: int
    b: int
    z: int
    gap: int


def simulate_splits(
    labels: Voxels,
    *,
    rate: float = 0.3,
    hard: float = 0.3,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    gaps: Sequence[int] = (1, 2),
    holes: Holes = "exact",
    layers: int = 0,
    background: Sequence[int] = (0,),
) -> tuple[Voxels, Truth]:
    """Break cells of a labelled volume in a known way.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
        Any labelled volume; it is not changed. It is worked on whole, in about four times its own memory.
    rate : float
        Part of the cells that is broken, 0 .. 1; one in seven of them in two places, where there is room.
    hard : float
        Part of the touching, stacked pairs of different cells between which a gap is opened, 0 .. 1.
    seed : int
        The same seed does the same.
    kinds : sequence of str
        What may be done, from `KINDS`; each equally often.
    gaps : sequence of int
        Numbers of layers that may be broken.
    holes : {"exact", "dilated", "jittered"}
        Whether the neighbours' masks end where the broken mask was, stand back from it at random, or also
        grow into it at random, so that no hole of the mask's exact shape is left.
    layers : int
        Whole layers that are blanked, so that every cell is broken there at once.
    background : sequence of int
        Labels that are no cells.

    Returns
    -------
    broken : ndarray of int, shape (z, y, x)
        The dtype of `labels`, or the smallest wider one that holds the fresh labels. The part above a gap
        keeps the cell's label, the part below gets a fresh one.
    Truth
        What was done.

    Raises
    ------
    InputError
        If the array is no label volume, or an option cannot be.
    """
    _check(labels, rate, hard, seed, kinds, gaps, holes, layers)
    work = start(labels, background, seed)
    natural = _natural(work, max(gaps))
    blank, whole = _plan_layers(work, layers)
    splits = [*whole, *_plan_splits(work, rate, kinds, gaps, {cell for cell, _ in whole})]
    pairs = _open_gaps(work, hard, gaps)
    done = [break_cell(work, cell, split, holes) for cell, split in splits]
    work.broken[blank] = work.blank
    return work.broken, _truth(work, done, natural, pairs, seed)


def simulate(
    labels: Any,
    out: str | Path,
    *,
    kind: Literal["gap", "tilted"] = "gap",
    rate: float = 0.3,
    hard: float = 0.3,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    gaps: Sequence[int] = (1, 2),
    holes: Holes = "exact",
    layers: int = 0,
    background: Sequence[int] = (0,),
    label: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
) -> Truth:
    """Break cells of a labelled volume in a known way, and write the result and the truth beside it.

    Parameters
    ----------
    labels : path, URL, zarr.Array, zarr.Group or ndarray of int, shape (z, y, x)
        Any labelled volume; it is read whole and not changed.
    out : str or Path
        A new Zarr array ``NAME.zarr``. The truth goes to the folder ``NAME.truth`` beside it: ``truth.json``,
        ``labels.parquet``, and the unbroken labels as ``labels.zarr``.
    kind : {"gap", "tilted"}
        Whether layers are broken, or cells are cut in parts that touch, by planes of any tilt.
    rate, seed, background
        See `simulate_splits`, or for ``tilted`` `overseg.measure.cutting.cut_cells`.
    hard, kinds, gaps, holes, layers
        See `simulate_splits`; nothing to ``tilted``.
    label : str, optional
        Which labels of an OME-Zarr image.
    voxel_size : tuple of float, optional
        (z, y, x); overrules the metadata.

    Returns
    -------
    Truth
        What was done.

    Raises
    ------
    InputError
        If the labels or an option cannot be used, or the output exists.
    ResourceError
        If the volume does not fit the memory.
    """
    from overseg.measure.source import open_source
    from overseg.volume.arrays import store_array

    if kind not in ("gap", "tilted"):
        raise InputError(f"unknown kind of split {kind!r}", remedy="choose gap or tilted")
    out = Path(out)
    folder = out.with_suffix(".truth")
    for path in (out, folder):
        if path.exists():
            raise InputError("the output exists", where=str(path), remedy="choose another name or remove it")
    source = open_source(labels, label, voxel_size)
    whole = source.read_all(copies=6)
    if kind == "tilted":
        broken, cuts = cut_cells(whole, source.voxel_size, rate=rate, seed=seed, background=background)
        truth = cut_truth(broken, cuts, seed)
    else:
        broken, truth = simulate_splits(
            whole, rate=rate, hard=hard, seed=seed, kinds=kinds, gaps=gaps, holes=holes, layers=layers,
            background=background,
        )  # fmt: skip
    store_array(out, broken, source.voxel_size)
    write_truth(truth, folder)
    store_array(folder / "labels.zarr", whole, source.voxel_size)
    return truth


def _check(
    labels: Voxels,
    rate: float,
    hard: float,
    seed: int,
    kinds: Sequence[str],
    gaps: Sequence[int],
    holes: str,
    layers: int,
) -> None:
    check(labels, seed, rate=rate, hard=hard)
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise InputError(f"unknown kinds of split: {unknown or 'none given'}", remedy=f"choose from {KINDS}")
    if not gaps or min(gaps) < 1 or max(gaps) > 16:
        raise InputError(f"gaps of {tuple(gaps)} layers cannot be made", remedy="give numbers from 1 to 16")
    if layers < 0:
        raise InputError(f"{layers} layers cannot be blanked", remedy="give a number from 0 on")
    if holes not in ("exact", "dilated", "jittered"):
        raise InputError(f"unknown holes {holes!r}", remedy="choose exact, dilated or jittered")


def _natural(work: Work, max_gap: int) -> list[_Pair]:
    """Pairs of different cells that are candidates in the unbroken volume."""
    from overseg.kernels.scan import scan_array
    from overseg.pipeline.candidates import find_candidates

    max_gap = min(max_gap, max(1, work.compact.shape[0] - 2))
    found = find_candidates(*scan_array(work.compact, max_gap, tuple(work.background)), max_gap)
    rows = zip(found.a.tolist(), found.b.tolist(), found.z.tolist(), found.gap.tolist(), strict=True)
    return [_Pair(*row) for row in rows if row[0] != row[1]]


def _layers_of(work: Work, cell: int) -> npt.NDArray[np.int64]:
    """Voxels of a cell in each layer of its box."""
    voxels: npt.NDArray[np.int64] = np.count_nonzero(work.compact[work.boxes[cell]] == cell, axis=(1, 2))
    return voxels


def _plan_splits(
    work: Work, rate: float, kinds: Sequence[str], gaps: Sequence[int], broken_before: set[int]
) -> list[tuple[int, Split]]:
    """Choose cells, places and kinds, and rename the lower parts. Gap layers are left for later."""
    cells = sorted(set(work.boxes) - broken_before - set(work.background))
    least = 2 * _LEAST_LAYERS + min(gaps)
    cells = [c for c in cells if work.boxes[c][0].stop - work.boxes[c][0].start >= least]
    wanted = round(rate * len(cells))
    splits: list[tuple[int, Split]] = []
    broken = 0
    for cell in work.rng.permutation(np.array(cells, np.int64)).tolist():
        if broken >= wanted:
            break
        places = [_place(work, cell, gaps)]
        if places[0] is not None and work.rng.random() < _TWICE:
            places.append(_place(work, cell, gaps))
        found = sorted(place for place in places if place is not None)
        broken += bool(found)
        what = [str(kinds[(len(splits) + i) % len(kinds)]) for i in range(len(found))]
        splits += _parts(work, cell, [(*place, kind) for place, kind in zip(found, what, strict=True)])
    return splits


def _parts(work: Work, cell: int, places: list[tuple[int, int, str]]) -> list[tuple[int, Split]]:
    """Give the parts of a cell below each place, from the top down, a label of their own."""
    name = upper = int(work.names[cell])
    splits = []
    for z, gap, kind in places:
        lower = upper if kind == "hole" else work.new_label(cell)
        below = (slice(z + gap + 1, work.boxes[cell][0].stop), *work.boxes[cell][1:])
        work.broken[below][work.compact[below] == cell] = lower
        splits.append((cell, Split(name, upper, lower, z, gap, kind)))
        upper = lower
    return splits


def _plan_layers(work: Work, layers: int) -> tuple[list[int], list[tuple[int, Split]]]:
    """Choose whole layers to be blanked, and break there all cells that go on beyond."""
    splits: list[tuple[int, Split]] = []
    inside = np.arange(_LEAST_LAYERS, len(work.compact) - _LEAST_LAYERS)
    rows: dict[int, list[int]] = {}
    chosen = sorted(work.rng.permutation(inside)[:layers].tolist())
    for z in chosen:
        work.taken[z - 1 : z + 2] = True
        for cell in sorted(set(np.unique(work.compact[z]).tolist()) - {0, *work.background}):
            around = [(work.compact[z + k][work.boxes[cell][1:]] == cell).sum() for k in (-2, -1, 0, 1, 2)]
            if min(around) >= _LEAST_AREA and z - 2 not in rows.get(cell, []):
                rows.setdefault(cell, []).append(z - 1)
    for cell, places in sorted(rows.items()):
        splits += _parts(work, cell, [(z, 1, "missing") for z in places])
    return chosen, splits


def _place(work: Work, cell: int, gaps: Sequence[int]) -> tuple[int, int] | None:
    """A layer and a gap where a cell can be broken, away from everything done before."""
    area = _layers_of(work, cell)
    top = work.boxes[cell][0].start
    for gap in work.rng.permutation(np.array(gaps)).tolist():
        ends = np.arange(_LEAST_LAYERS - 1, len(area) - gap - _LEAST_LAYERS)
        for end in work.rng.permutation(ends)[:6].tolist():
            if area[end : end + gap + 2].min() < _LEAST_AREA:
                continue
            z = top + end
            box = padded(work, cell, z, z + gap + 2)
            upper, lower = work.compact[z][box[1:]], work.compact[z + gap + 1][box[1:]]
            if not work.taken[box].any() and ((upper == cell) & (lower == cell)).any():
                work.taken[box] = True
                return z, gap
    return None


def _open_gaps(work: Work, rate: float, gaps: Sequence[int]) -> list[_Pair]:
    """Blank the last layers of a cell and the first of the one below it, so that a gap opens between them."""
    upper, lower = work.compact[:-1], work.compact[1:]
    barred = work.background
    touch = (upper != lower) & ~np.isin(upper, barred) & ~np.isin(lower, barred)
    found = np.unique(np.stack([upper[touch], lower[touch]], 1).astype(np.int64), axis=0)
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    wanted, done = round(rate * len(found)), list[_Pair]()
    for a, b in work.rng.permutation(found, axis=0).tolist():
        if len(done) >= wanted:
            break
        gap = int(work.rng.choice(np.array(gaps)))
        one, two = work.boxes[a][0], work.boxes[b][0]
        # The gap's place: at most two layers of either cell are lost, two remain.
        first = int(work.rng.integers(one.stop - 2, one.stop + 1))
        after = first + gap
        kept = first - one.start >= _LEAST_LAYERS and two.stop - after >= _LEAST_LAYERS
        if not kept or not two.start - 1 <= first <= two.start + 2 or after < two.start or after >= two.stop:
            continue
        box_a, box_b = padded(work, a, first - 1, one.stop + 1), padded(work, b, two.start - 1, after + 1)
        if work.taken[box_a].any() or work.taken[box_b].any():
            continue
        faces = work.compact[first - 1] == a, work.compact[after] == b
        smaller = min(faces[0].sum(), faces[1].sum())
        if smaller < _LEAST_AREA or (faces[0] & faces[1]).sum() < 0.2 * smaller:
            continue
        for cell, layers in ((a, slice(first, one.stop)), (b, slice(two.start, after))):
            box = (layers, *work.boxes[cell][1:])
            work.broken[box][work.compact[box] == cell] = work.blank
        work.taken[box_a] = work.taken[box_b] = True
        done.append(_Pair(a, b, first - 1, gap))
    return done


def _truth(work: Work, splits: list[Split], natural: list[_Pair], hard: list[_Pair], seed: int) -> Truth:
    import fastremap

    label = np.sort(fastremap.unique(work.broken)).astype(np.uint64)
    true = np.array([work.owner.get(name, name) for name in label.tolist()], np.uint64)
    gaps = [tuple(g for g in (_gap(work, pair) for pair in pairs) if g) for pairs in (natural, hard)]
    return Truth(label, true, tuple(splits), gaps[0], gaps[1], seed)


def _gap(work: Work, pair: _Pair) -> Gap | None:
    """The pair under the labels its faces have now; nothing where a face is gone."""
    names = []
    for cell, z in ((pair.a, pair.z), (pair.b, pair.z + pair.gap + 1)):
        box = (z, *work.boxes[cell][1:])
        there = np.unique(work.broken[box][work.compact[box] == cell]).tolist()
        mine = [name for name in there if work.owner.get(name, name) == work.names[cell]]
        if len(there) != 1 or not mine:
            return None
        names.append(mine[0])
    return Gap(names[0], names[1], pair.z, pair.gap)
