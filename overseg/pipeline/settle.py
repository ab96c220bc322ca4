"""Who gets a voxel that two fills claim: the one that holds it deeper, then the smaller label.

Claims are rows of voxels; only those that overlap another's are opened voxel by voxel. Some layers are
settled at a time, so that memory holds the settled rows and little else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from overseg.cluster.limits import give_back
from overseg.errors import StorageError
from overseg.kernels.fill import FREE, SWALLOWED
from overseg.kernels.tables import Bool, Int, Labels
from overseg.pipeline.plandata import Fills, sort_fills
from overseg.pipeline.sections import Sections, write_sections

_SLAB = 1 << 22  # contested voxels opened at a time
_ROWS = 1 << 16  # rows settled at a time, about

_Columns = TypeVar("_Columns")


@dataclass(frozen=True)
class Claims:
    """Rows of voxels that fills want; all voxels of a row have one label now.

    Attributes
    ----------
    t, candidate, z, y, x0, x1 : ndarray of int64, shape (n,)
        Time point, row of the candidate, layer, y and half-open range along x.
    new, old : ndarray of uint64, shape (n,)
        The label that the voxels would get, and the one they have.
    why : ndarray of uint8, shape (n,)
        ``FREE``, ``NOISE`` or ``SWALLOWED`` of `overseg.kernels.fill`.
    depth : ndarray of int64, shape (voxels,)
        For every voxel, row after row, the squared distance to the outside of the restored mask, in voxels;
        empty where it is not needed.
    """

    t: Int
    candidate: Int
    z: Int
    y: Int
    x0: Int
    x1: Int
    new: Labels
    old: Labels
    why: npt.NDArray[np.uint8]
    depth: Int

    def __len__(self) -> int:
        return len(self.t)

    @property
    def size(self) -> Int:
        """Voxels of each row."""
        return self.x1 - self.x0

    def take(self, rows: Int | Bool) -> Claims:
        """Some of the rows, without depths."""
        parts = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return Claims(**parts, depth=np.zeros(0, np.int64))


_COLUMNS = tuple(each.name for each in fields(Claims) if each.name != "depth")
_TYPES = {"new": np.uint64, "old": np.uint64, "why": np.uint8}


@dataclass(frozen=True)
class Settled:
    """Who gets what, and what follows from it.

    Attributes
    ----------
    fills : Fills
        Rows that do not overlap, as `sort_fills` gives them.
    contested : int
        Voxels that more than one label claimed.
    lost : ndarray of uint64, shape (k, 2)
        Time point and label of noise that is gone, since all its voxels were taken; sorted.
    spared : ndarray of uint64, shape (j, 2)
        Time point and label of neighbours that would have been gone: no voxel is taken from them; sorted.
    """

    fills: Fills
    contested: int
    lost: Labels
    spared: Labels


def concatenate(parts: Iterable[Claims]) -> Claims:
    """All rows of several claims, in the order given."""
    given = list(parts)
    columns = {
        each.name: np.concatenate(
            [np.zeros(0, _TYPES.get(each.name, np.int64)), *(getattr(p, each.name) for p in given)]
        )
        for each in fields(Claims)
    }
    return Claims(**columns)


def write_claims(path: Path, claims: Claims) -> None:
    """Write claims to a file, whole or not at all. Raises `StorageError`."""
    ends = [(column.min(), column.max()) for column in (claims.t, claims.z) if len(column)]
    arrays = {name: getattr(claims, name) for name in _COLUMNS}
    depth = claims.depth.astype(np.int32)
    try:
        write_sections(path, {**arrays, "depth": depth, "reach": np.array(ends, np.int64)})
    except StorageError as error:
        raise StorageError(
            error.what.replace("scan tables", "fills"),
            where=error.where,
            remedy="free disk space or permit writing there, then run the same command again: it goes on",
        ) from None


def read_claims(path: Path) -> Claims:
    """Claims of one file, without depths; see `read_depth`."""
    file = Sections(path)
    return Claims(**{name: file.checked(name) for name in _COLUMNS}, depth=np.zeros(0, np.int64))


def read_depth(path: Path, rows: Int) -> Int:
    """Depths of some rows of a file, one row after the other; `rows` are sorted."""
    file = Sections(path)
    size = file["x1"] - file["x0"]
    first, size = (np.cumsum(size) - size)[rows], size[rows]
    inside = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    depth: Int = file["depth"][np.repeat(first, size) + inside].astype(np.int64)
    return depth


def settle(paths: Sequence[str | Path], sizes: Callable[[int, Labels], Int]) -> Settled:
    """Settle the claims of all files of a volume.

    Parameters
    ----------
    paths : sequence of path
        Files of `write_claims`, in any order.
    sizes : callable
        ``sizes(t, labels)`` gives how many voxels each of some labels has at a time point; the labels are
        sorted, without repeats.

    Returns
    -------
    Settled
    """
    parts, others, contested, rows = [], [], 0, 0
    held: dict[Path, Claims] = {}
    for t, z, files in _slabs([Path(path) for path in paths]):
        held = {path: held.get(path) or read_claims(path) for path in files}
        part, shared = _settle_slab(t, z, held)
        other = np.flatnonzero(part.why != FREE)
        swallowed = part.why[other] == SWALLOWED
        others.append(_Others(other + rows, part.t[other], part.old[other], part.size[other], swallowed))
        parts.append(Fills(part.t, part.z, part.y, part.x0, part.x1, part.new))
        contested += shared
        rows += len(part)
    fills, taken = _joined(parts, Fills, _no_fills()), _joined(others, _Others, _no_others())
    give_back()  # what the parts took
    return _spare(fills, taken, contested, sizes)


def _slabs(paths: list[Path]) -> Iterator[tuple[int, tuple[int, int], list[Path]]]:
    """Time point, half-open range of layers, and files that may have rows there; in the layers' order."""
    reach = [(path, *reached) for path in paths if (reached := _reach(path)) is not None]
    for t in sorted({t for _, (first, last), _, _ in reach for t in range(first, last + 1)}):
        here = [(path, z, n) for path, (first, last), z, n in reach if first <= t <= last]
        low, high = min(z[0] for _, z, _ in here), max(z[1] for _, z, _ in here) + 1
        step = max(1, (high - low) * _ROWS // max(sum(n for *_, n in here), _ROWS))
        for z0 in range(low, high, step):
            z1 = min(z0 + step, high)
            files = [path for path, z, _ in here if z[0] < z1 and z[1] >= z0]
            if files:
                yield t, (z0, z1), files


def _reach(path: Path) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    """First and last time point, first and last layer, and rows of a file; None where there are none."""
    file = Sections(path)
    if not len(file["t"]):
        return None
    (t0, t1), (z0, z1) = file["reach"].tolist()
    return (t0, t1), (z0, z1), len(file["t"])


def _settle_slab(t: int, z: tuple[int, int], files: dict[Path, Claims]) -> tuple[Claims, int]:
    """Claims of some layers that no longer overlap, sorted by place, and how many voxels were contested."""
    parts, rows = [], []
    for part in files.values():
        rows.append(np.flatnonzero((part.t == t) & (part.z >= z[0]) & (part.z < z[1])))
        parts.append(part.take(rows[-1]))
    claims = concatenate(parts)
    disputed = overlapping(claims)
    if not disputed.any():
        return claims.take(np.argsort(_place(claims))), 0
    depths, start = [], 0
    for path, own in zip(files, rows, strict=True):
        depths.append(read_depth(path, own[disputed[start : start + len(own)]]))
        start += len(own)
    opened, contested = _settle_some(claims.take(disputed), np.concatenate(depths))
    claims = concatenate([claims.take(~disputed), opened])
    return claims.take(np.argsort(_place(claims))), contested


def overlapping(claims: Claims) -> Bool:
    """Which rows share a voxel with another row (of whatever label, so that no voxel is left in two rows)."""
    order = np.argsort(_place(claims))
    disputed = np.zeros(len(claims), bool)
    group = _clusters(claims, order)
    disputed[order] = (np.bincount(group) > 1)[group] if len(group) else False
    return disputed


def _place(claims: Claims) -> Int:
    """Where rows begin, as a number that grows along (t, z, y, x)."""
    if not len(claims):
        return np.zeros(0, np.int64)
    place = claims.t
    for name in ("z", "y", "x0"):
        column = getattr(claims, name)
        place = place * (int(column.max()) + 1) + column
    return place


def _clusters(claims: Claims, order: Int) -> Int:
    """For the rows in order the number of the cluster of overlapping rows that each belongs to."""
    t, z, y, x0, x1 = (getattr(claims, name)[order] for name in ("t", "z", "y", "x0", "x1"))
    if not len(order):
        return np.zeros(0, np.int64)
    line = np.concatenate([[0], np.cumsum((np.diff(t) != 0) | (np.diff(z) != 0) | (np.diff(y) != 0))])
    span = int(x1.max()) + 1
    reach = np.maximum.accumulate(line * span + x1)
    fresh = np.concatenate([[True], (line * span + x0)[1:] >= reach[:-1]])
    return np.cumsum(fresh) - 1


def _settle_some(claims: Claims, depth: Int) -> tuple[Claims, int]:
    """Settle rows that overlap, whole clusters of them at a time."""
    order = np.argsort(_place(claims))
    group = _clusters(claims, order)
    first = np.concatenate([[0], np.cumsum(claims.size)])
    ends = np.cumsum(claims.size[order])
    done, contested, start = [], 0, 0
    while start < len(order):
        full = int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _SLAB, side="right"))
        stop = int(np.searchsorted(group, group[min(full, len(order) - 1)], side="right"))
        rows = order[start:stop]
        size = claims.size[rows]
        inside = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        part, shared = _vote(claims.take(rows), depth[np.repeat(first[rows], size) + inside], inside)
        done.append(part)
        contested += shared
        start = stop
    return concatenate(done), contested


def _vote(claims: Claims, depth: Int, inside: Int) -> tuple[Claims, int]:
    """One owner per voxel: the deepest, then the smaller label; of its claims one, whatever their order."""
    of = np.repeat(np.arange(len(claims)), claims.size)
    x = claims.x0[of] + inside
    place = np.stack([claims.t[of], claims.z[of], claims.y[of], x])
    best = np.lexsort((claims.candidate[of], claims.why[of], claims.new[of], -depth, *place[::-1]))
    place, of, x = place[:, best], of[best], x[best]
    fresh = np.concatenate([[True], (place[:, 1:] != place[:, :-1]).any(axis=0)])
    voxel = np.cumsum(fresh) - 1
    winner = claims.new[of[fresh]][voxel]
    contested = len(np.unique(voxel[claims.new[of] != winner]))
    of, x = of[fresh], x[fresh]
    breaks = np.concatenate([[True], (of[1:] != of[:-1]) | (x[1:] != x[:-1] + 1)])
    last = np.concatenate([breaks[1:], [True]])
    out = claims.take(of[breaks])
    columns: dict[str, Any] = {name: getattr(out, name) for name in _COLUMNS}
    columns.update(x0=x[breaks], x1=x[last] + 1)
    return Claims(**columns, depth=np.zeros(0, np.int64)), contested


@dataclass(frozen=True)
class _Others:
    """Settled rows that are not free voxels."""

    row: Int
    t: Int
    old: Labels
    size: Int
    swallowed: Bool


def _no_others() -> _Others:
    none = np.zeros(0, np.int64)
    return _Others(none, none, none.astype(np.uint64), none, none > 0)


def _no_fills() -> Fills:
    none = np.zeros(0, np.int64)
    return Fills(none, none, none, none, none, none.astype(np.uint64))


def _joined(parts: list[_Columns], kind: type[_Columns], empty: _Columns) -> _Columns:
    """Parts as one, column by column; `parts` is empty afterwards, so that nothing is held twice."""
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    columns = [[getattr(part, name) for part in (empty, *parts)] for name in names]
    parts.clear()
    return kind(*(np.concatenate(columns.pop(0)) for _ in names))


def _spare(fills: Fills, others: _Others, contested: int, sizes: Callable[[int, Labels], Int]) -> Settled:
    """Name the ids that are gone, and give neighbours that would be gone their voxels back."""
    keep = np.ones(len(fills.t), bool)
    lost, spared = [np.zeros((0, 2), np.uint64)], [np.zeros((0, 2), np.uint64)]
    for t in np.unique(others.t).tolist():
        own = slice(*np.searchsorted(others.t, [t, t + 1]))
        names, index = np.unique(others.old[own], return_inverse=True)
        counts = np.bincount(index, others.size[own], len(names)).astype(np.int64)
        gone = counts == sizes(t, names)
        swallowed = np.zeros(len(names), bool)
        swallowed[index[others.swallowed[own]]] = True
        keep[others.row[own][(gone & swallowed)[index]]] = False
        at = np.full(len(names), t, np.uint64)
        lost.append(np.stack([at, names], axis=1)[gone & ~swallowed])
        spared.append(np.stack([at, names], axis=1)[gone & swallowed])
    if not keep.all():
        fills = Fills(*(getattr(fills, each.name)[keep] for each in fields(Fills)))
    return Settled(sort_fills(fills), contested, np.concatenate(lost), np.concatenate(spared))
