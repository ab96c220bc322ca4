"""The scan on a graphics card: the tables of `scan_block` to the bit, by sorting and segmented sums.

Written for any module with NumPy's functions, CuPy above all. There are no floats and no atomics in it: sums
are differences of running sums of int64, which are exact modulo 2^64 in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.reduce import Columns, ScanTables, merge_tables, moved

_LARGEST = np.uint64(2**63)


def find_cupy() -> ModuleType | None:
    """CuPy, if it is installed and finds a card that answers; else None."""
    try:
        import cupy

        return cupy if cupy.cuda.runtime.getDeviceCount() > 0 else None
    except Exception:  # a driver that is missing or too old raises what it likes
        return None


class CardScanner:
    """What `overseg.kernels.scan.Scanner` does, on a graphics card.

    Parameters
    ----------
    xp : module
        ``cupy`` or ``numpy``.
    max_gap : int
        Layers that may be missing between two faces.
    background : tuple of int
        Labels that are no cells.
    """

    def __init__(self, xp: Any, max_gap: int, background: tuple[int, ...] = (0,)) -> None:
        self._xp, self._max_gap, self._background = xp, max_gap, background
        self._parts = [self._scan(np.zeros((0, 1, 1), np.uint8), 0, (0, 0, 0))]

    def step(self) -> None:
        """Layers that were added are complete."""
        self._parts = [merge_tables(self._parts)]

    def add(self, block: npt.NDArray[Any], first: int, place: tuple[int, int, int]) -> bool:
        """Count the layers from `first` on. Parameters and result are those of `Scanner.add`."""
        on_card = self._xp.asarray(block.astype(block.dtype.newbyteorder("="), copy=False))
        if block.size == 0:
            return True
        if bool(on_card.min() < 0) or bool(on_card.max().astype(np.uint64) > _LARGEST):
            return False
        self._parts.append(self._scan(on_card, first, place))
        return True

    def tables(self) -> ScanTables:
        """What was counted, sorted by key."""
        self.step()
        return self._parts[0]

    def _scan(self, block: Any, first: int, place: tuple[int, int, int]) -> ScanTables:
        return scan_block_on(self._xp, block, first, place, self._max_gap, self._background)


def scan_block_on(
    xp: Any,
    block: Any,
    first: int,
    origin: tuple[int, int, int],
    max_gap: int,
    background: tuple[int, ...] = (0,),
) -> ScanTables:
    """Tables of the layers `first` and later of a block, as `overseg.kernels.scan.scan_block` gives them.

    Parameters
    ----------
    xp : module
        ``cupy`` or ``numpy``.
    block : ndarray of integers, shape (n, y, x)
        Of that module, in native byte order; labels, none of them negative.
    first, origin, max_gap, background
        As for `scan_block`.

    Returns
    -------
    ScanTables
        In the machine's memory, sorted by key.
    """
    lags = max_gap + 1
    names, ids = xp.unique(block.astype(np.uint64), return_inverse=True)
    ids = ids.reshape(block.shape).astype(np.int64)
    # Number 0 is background, whatever its label; what is left keeps its order.
    cell = ~xp.isin(names, xp.asarray(np.array(background, np.uint64)))
    names = xp.concatenate([xp.zeros(1, np.uint64), names[cell]])
    ids = xp.where(cell, xp.cumsum(cell), 0)[ids]
    layers = _layers(xp, ids, first, lags, origin)
    facing = _facing(xp, ids, first, lags, origin[0])
    touching = _touching(xp, facing)
    apart = {name: values[facing["gap"] > 0] for name, values in facing.items()}
    found = [
        {
            name: _home(xp, names[values] if name in ("label", "a", "b") else values)
            for name, values in table.items()
        }
        for table in (layers, apart, touching)
    ]
    return ScanTables(moved(found[0], origin[1], origin[2]), found[1], found[2])


def _layers(xp: Any, ids: Any, first: int, lags: int, origin: tuple[int, int, int]) -> Columns:
    """Rows of (label, layer), with moments about the block's corner."""
    new = ids[first:]
    z, y, x = xp.nonzero(new)
    label = new[z, y, x]
    values = {"area": xp.ones_like(z), "sy": y, "sx": x, "syy": y * y, "sxx": x * x, "syx": y * x}
    low = {"y0": y, "x0": x}
    high = {"y1": y + 1, "x1": x + 1}
    back = {f"back_{lag}": xp.zeros_like(z) for lag in range(1, lags + 1)}
    for lag in range(1, lags + 1):
        there = z + first >= lag
        back[f"back_{lag}"][there] = ids[(z + first - lag)[there], y[there], x[there]] == label[there]
    keys, rows = _grouped(xp, [label, z], values | back, low, high)
    columns = {"label": keys[0], "z": keys[1] + (origin[0] + first)}
    order = ("area", "sy", "sx", "syy", "sxx", "syx", "y0", "y1", "x0", "x1", *back)
    return columns | {name: rows[name] for name in order}


def _facing(xp: Any, ids: Any, first: int, lags: int, top: int) -> Columns:
    """Columns with one label above another, and neither of them in the layers between."""
    parts = []
    for lag in range(1, lags + 1):
        start = max(first, lag)
        lower = ids[start:]
        upper = ids[start - lag : start - lag + len(lower)]
        free = (lower != upper) & (lower > 0) & (upper > 0)
        for between in range(1, lag):
            middle = ids[start - between : start - between + len(lower)]
            free &= (middle != lower) & (middle != upper)
        z, y, x = xp.nonzero(free)
        parts.append([upper[z, y, x], lower[z, y, x], z + (start - lag), xp.full_like(z, lag - 1)])
    keys = [xp.concatenate(column) for column in zip(*parts, strict=True)]
    (a, b, z, gap), rows = _grouped(xp, keys, {"overlap": xp.ones_like(keys[0])})
    return {"a": a, "b": b, "z": z + top, "gap": gap, "overlap": rows["overlap"]}


def _touching(xp: Any, facing: Mapping[str, Any]) -> Columns:
    """Labels in contact, with the contacts' range in z."""
    touch = facing["gap"] == 0
    a, b, z, n = (facing[name][touch] for name in ("a", "b", "z", "overlap"))
    (a, b), rows = _grouped(xp, [a, b], {"n": n}, {"z_min": z}, {"z_max": z})
    return {"a": a, "b": b} | rows


def _grouped(
    xp: Any,
    keys: Sequence[Any],
    sums: Mapping[str, Any],
    low: Mapping[str, Any] | None = None,
    high: Mapping[str, Any] | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Distinct keys in order, and for each the sums, minima and maxima of its rows."""
    n = len(keys[0])
    order = xp.lexsort(xp.stack(list(keys)[::-1]))
    new = xp.ones(n, bool)
    new[1:] = False
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    start = xp.flatnonzero(new)
    member = xp.cumsum(new) - 1
    rows = {}
    for name, values in sums.items():
        running = xp.concatenate([xp.zeros(1, np.int64), xp.cumsum(values[order])])
        rows[name] = running[xp.append(start[1:], n)] - running[start] if n else values
    # The first row of a key in an order that has the value last is its minimum.
    for sign, wanted in ((1, low or {}), (-1, high or {})):
        for name, values in wanted.items():
            by_value = xp.lexsort(xp.stack([sign * values[order], member]))
            rows[name] = values[order][by_value][start]
    return [key[order][start] for key in keys], rows


def _home(xp: Any, values: Any) -> npt.NDArray[Any]:
    """An array in the machine's memory."""
    return np.asarray(values.get() if hasattr(values, "get") else values)
