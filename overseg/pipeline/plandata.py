"""What a plan says, as values, and the hash that names it. See docs/architecture.md, section 6."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.tables import Bool, Int, Labels

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1

# The settings that enter the hash through what they stand for: the model's digest, the voxel size in force,
# the fingerprint of the labels. Their spelling (a path, a name, "not given") is not part of the answer.
_SPELLING = frozenset({"model", "label", "voxel_size"})
KEYS = ("t", "a", "b", "z", "gap", "overlap", "kind", "area_a", "area_b")


@dataclass(frozen=True)
class Merges:
    """Every relabelled id.

    Attributes
    ----------
    t : ndarray of int64, shape (n,)
        Time point.
    old, new : ndarray of uint64, shape (n,)
        The id, and the smallest id of its group, which it becomes.
    """

    t: Int
    old: Labels
    new: Labels


@dataclass(frozen=True)
class Fills:
    """Runs of voxels that take a new label.

    Attributes
    ----------
    t, z, y : ndarray of int64, shape (n,)
        Time point, layer and row of the run.
    x0, x1 : ndarray of int64, shape (n,)
        Half-open range along x.
    new : ndarray of uint64, shape (n,)
        The label that every voxel of the run becomes.
    """

    t: Int
    z: Int
    y: Int
    x0: Int
    x1: Int
    new: Labels

    @classmethod
    def none(cls) -> Fills:
        """No runs."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing, nothing, nothing, nothing.astype(np.uint64))


@dataclass(frozen=True)
class Units:
    """What every write unit held when the plan was made.

    Attributes
    ----------
    level, unit : ndarray of int64, shape (n,)
        Pyramid level, and index in that level's unit grid.
    digest : ndarray of uint8, shape (n, 16)
        `overseg.volume.unit_digest` of the unit.
    touched : ndarray of bool, shape (n,)
        May hold a voxel that changes.
    """

    level: Int
    unit: Int
    digest: npt.NDArray[np.uint8]
    touched: Bool


@dataclass(frozen=True)
class Features:
    """What was measured of candidates, on disk: there may be more than fits into memory.

    Attributes
    ----------
    names : tuple of str
        Columns.
    blocks : tuple of callable
        Each gives the rows of the next candidates, as float64 of shape (n, columns).
    """

    names: tuple[str, ...]
    blocks: tuple[Callable[[], npt.NDArray[np.float64]], ...]


@dataclass(frozen=True)
class PlanData:
    """Everything a plan folder says.

    Attributes
    ----------
    hash : str
        `compute_plan_hash` of the plan.
    settings : dict
        ``settings.canonical`` of the settings used.
    model : str
        Digest of the model.
    volume : dict
        ``location, axes, shape (z, y, x), dtype, voxel_size (z, y, x), fingerprint, levels`` and more.
    counts : dict
        Numbers of cells, candidates, merges and so on, as the commands report them.
    seconds : dict
        Wall-clock seconds by step.
    warnings : list of str
        What the user should know.
    candidates : pyarrow.Table
        One row per candidate; columns in docs/architecture.md, section 6, but for the features.
    merges : Merges
    fills : Fills
    units : Units
    partial : bool
        The plan covers a part of the volume only: `units` need not name every unit. There is a region, or
        some units are unread.
    unread : list of dict
        ``unit``, ``voxels``, ``why`` of write units that cannot be decoded; labels near them are left alone.
    measured : dict
        What the models' cards tell of tissue that they had not seen, by ``gap`` and ``touch``; see
        `overseg.model.measured`.
    features : Features, optional
        Of the candidates, when the plan was just made; `overseg.pipeline.planfile.read_candidates` reads them
        back.
    """

    hash: str
    settings: dict[str, Any]
    model: str
    volume: dict[str, Any]
    counts: dict[str, Any]
    seconds: dict[str, Any]
    warnings: list[str]
    candidates: pa.Table
    merges: Merges
    fills: Fills
    units: Units
    partial: bool = False
    unread: list[dict[str, str]] = field(default_factory=list)
    measured: Mapping[str, Any] = field(default_factory=dict)
    features: Features | None = None


def sort_merges(merges: Merges) -> Merges:
    """The same merges in the order of (t, old); no copy is made of those that are in it."""
    if _in_order(merges.t, merges.old):
        return merges
    order = np.lexsort((merges.old, merges.t))
    return Merges(merges.t[order], merges.old[order], merges.new[order])


def sort_fills(fills: Fills) -> Fills:
    """The same fills in the order of (t, z, y, x0), touching runs of one label joined into one.

    No copy is made of fills that are so already: they may be the largest part of a plan.
    """
    if not _in_order(fills.t, fills.z, fills.y, fills.x0):
        order = np.lexsort((fills.x0, fills.y, fills.z, fills.t))
        fills = Fills(*(column[order] for column in vars(fills).values()))
    t, z, y, x0, x1, new = vars(fills).values()
    joins = (t[1:] == t[:-1]) & (z[1:] == z[:-1]) & (y[1:] == y[:-1])
    joins &= (new[1:] == new[:-1]) & (x0[1:] == x1[:-1])
    if not joins.any():
        return fills
    first = np.concatenate([[True], ~joins])
    last = np.concatenate([~joins, [True]])
    return Fills(t[first], z[first], y[first], x0[first], x1[last], new[first])


def _in_order(*keys: Int | Labels) -> bool:
    """Whether rows are sorted by the first key, those alike in it by the second, and so on."""
    alike = np.ones(max(0, len(keys[0]) - 1), bool)
    for key in keys:
        if (alike & (key[1:] < key[:-1])).any():
            return False
        alike &= key[1:] == key[:-1]
    return True


def compute_plan_hash(
    settings: Mapping[str, Any],
    model: str,
    shape: Sequence[int],
    voxel_size: Sequence[float],
    fingerprint: str,
    candidates: pa.Table,
    merges: Merges,
    fills: Fills,
    unread: Sequence[Mapping[str, str]] = (),
) -> str:
    """Name of a plan: equal for equal answers, whatever the layout, the hardware or the order of work.

    Covers the semantic settings, the model's digest, shape, voxel size and fingerprint of the volume, and for
    every candidate its integers, decision and reason; the merges; the fills. Not paths, chunks, workers,
    cost, times, integer type, library versions, or any computed float. The order of rows does not matter.

    Parameters
    ----------
    settings : mapping
        ``settings.canonical`` of the settings.
    model : str
        Digest of the model.
    shape : sequence of int
        (z, y, x), in voxels.
    voxel_size : sequence of float
        (z, y, x), in the volume's unit of length.
    fingerprint : str
        Order-free digest of the volume's reconciled rows.
    candidates : pyarrow.Table
        Needs the columns ``t, a, b, z, gap, overlap, kind, area_a, area_b, decision, reason``.
    merges : Merges
    fills : Fills
    unread : sequence of mapping
        `PlanData.unread`: a partial plan is never the whole one, even where they change the same voxels.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    import pyarrow.compute as pc
    import xxhash

    head = {
        "version": VERSION,
        "settings": {name: settings[name] for name in sorted(settings) if name not in _SPELLING},
        "model": model,
        "shape": [int(n) for n in shape],
        "voxel_size": [float(v) for v in voxel_size],
        "fingerprint": fingerprint,
    }
    if unread:
        head["unread"] = [each["voxels"] for each in unread]
    state = xxhash.xxh3_128(json.dumps(head, sort_keys=True, separators=(",", ":")).encode())
    order = pc.sort_indices(candidates, [(name, "ascending") for name in KEYS])
    for name in (*KEYS, "decision", "reason"):
        column = candidates[name].take(order)  # one at a time is held twice
        if name in _WORDS:
            _feed_words(state, name, column)
        else:
            _feed(state, name, column.to_numpy())
    for table in (sort_merges(merges), sort_fills(fills)):
        for name, values in vars(table).items():
            _feed(state, name, values)
    return str(state.hexdigest())


_WORDS = frozenset({"kind", "decision", "reason"})
_ROWS = 1 << 14  # whose words are put together at a time


def _feed(state: Any, name: str, column: npt.NDArray[Any]) -> None:
    """Mix one named column into the hash, as little-endian 64-bit integers."""
    # Labels reach 2^63 and more, other columns may be negative: both keep their bits modulo 2^64.
    data = np.ascontiguousarray(column, dtype="<u8" if column.dtype.kind == "u" else "<i8")
    state.update(f"{name}:{len(data)}:{data.nbytes};".encode())
    state.update(data.data)


def _feed_words(state: Any, name: str, column: pa.ChunkedArray) -> None:
    """Mix one named column of words into the hash, as a JSON list, of which some rows are held at a time."""
    import pyarrow.compute as pc

    words = column.unique()
    texts = [json.dumps(None if word is None else str(word)) for word in words.to_pylist()]
    which = pc.index_in(column, words).to_numpy()
    counts = np.bincount(which, minlength=len(texts)).tolist()
    size = sum(n * len(text) for n, text in zip(counts, texts, strict=True)) + 2 * max(1, len(which))
    state.update(f"{name}:{len(which)}:{size};[".encode())
    for start in range(0, len(which), _ROWS):
        some = ", ".join([texts[i] for i in which[start : start + _ROWS].tolist()])
        state.update(f"{', ' if start else ''}{some}".encode())
    state.update(b"]")
