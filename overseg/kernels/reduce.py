"""Adding up scan tables: sums, minima and maxima by key, so that no grouping of the work shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.kernels.sums import KEY, LEAST, MOST, SUM, about_corners
from overseg.kernels.tables import Int, LayerTable

Column = npt.NDArray[Any]
Columns = dict[str, Column]

#: What identifies a row of each table, and how its other columns add up.
LAYER_KEY = ("label", "z")
PAIR_KEY = ("a", "b", "z", "gap")
STACKED_KEY = ("a", "b")
CONTACT_KEY = ("a", "b")
SURFACE_KEY = ("label",)
KEYS = {
    "layers": LAYER_KEY,
    "pairs": PAIR_KEY,
    "stacked": STACKED_KEY,
    "contacts": CONTACT_KEY,
    "surfaces": SURFACE_KEY,
}

#: Columns of the tables of contacts: for the faces normal to each axis; see `overseg.kernels.touch`.
OF_FACES = ("n", "signed", "sz", "sy", "sx", "szz", "syy", "sxx", "szy", "szx", "syx")
CONTACT_COLUMNS = ("a", "b", *(f"{axis}_{name}" for axis in "zyx" for name in OF_FACES))
SURFACE_COLUMNS = ("label", "all_z", "all_y", "all_x", "bare_z", "bare_y", "bare_x")

_HOW = {"y0": np.minimum, "x0": np.minimum, "z_min": np.minimum} | dict.fromkeys(
    ("y1", "x1", "z_max"), np.maximum
)
_LABELS = frozenset({"label", "a", "b"})


@dataclass(frozen=True)
class ScanTables:
    """What one scan task saw, as columns. See docs/architecture.md, section 3.

    Attributes
    ----------
    layers : dict of ndarray
        One row per (label, z): ``label`` uint64, else int64: ``z, area, sy, sx, syy, sxx, syx`` (modulo
        2^64), ``y0, y1, x0, x1``, ``back_1 .. back_L``.
    pairs : dict of ndarray
        One row per (a, b, z, gap): ``a, b`` uint64, ``z, gap, overlap`` int64.
    stacked : dict of ndarray
        One row per (a, b): ``a, b`` uint64, ``n, z_min, z_max`` int64.
    contacts : dict of ndarray
        One row per (a, b), a < b, that share voxel faces: `CONTACT_COLUMNS`. Empty where not asked for.
    surfaces : dict of ndarray
        One row per label: `SURFACE_COLUMNS`. Empty where not asked for.
    """

    layers: Columns
    pairs: Columns
    stacked: Columns
    contacts: Columns = field(default_factory=lambda: _no_rows(CONTACT_COLUMNS))
    surfaces: Columns = field(default_factory=lambda: _no_rows(SURFACE_COLUMNS))


def layer_columns(lags: int) -> tuple[str, ...]:
    """Names of the columns of a layer table with `lags` back columns."""
    sums = ("area", "sy", "sx", "syy", "sxx", "syx", "y0", "y1", "x0", "x1")
    return ("label", "z", *sums, *(f"back_{d}" for d in range(1, lags + 1)))


def group(columns: Mapping[str, Column], key: Sequence[str]) -> Columns:
    """Rows with equal keys added up, sorted by key.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (n,)
        The key columns, and int64 columns to be summed (modulo 2^64); boxes and z ranges take minima and
        maxima.
    key : sequence of str
        Names of the key columns, first one first in the order.

    Returns
    -------
    dict of ndarray, shape (m,)
        The same columns, one row per key.
    """
    if _is_in_order(columns, key):
        return dict(columns)
    order = _order([columns[name] for name in key])
    new = np.zeros(len(order), bool)
    new[0] = True
    for name in key:
        values = columns[name][order]
        new[1:] |= values[1:] != values[:-1]
    if new.all():
        return {name: values[order] for name, values in columns.items()}
    at = np.flatnonzero(new)
    return {
        name: values[order[at]] if name in key else _HOW.get(name, np.add).reduceat(values[order], at)
        for name, values in columns.items()
    }


def _order(keys: Sequence[Column]) -> npt.NDArray[np.intp]:
    """Numbers of the rows in the order of their keys, first one first; of equal rows in any order.

    One sort of one number per row where the keys' ranges let them be put side by side in 64 bits.
    """
    packed = np.zeros(len(keys[0]), np.uint64)
    room = 2**64
    for values in keys:
        low, high = int(values.min()), int(values.max())
        room //= high - low + 1
        if room == 0:
            return np.lexsort(keys[::-1])
        packed *= np.uint64(min(high - low + 1, 2**64 - 1))
        packed += values.astype(np.uint64) - np.uint64(low % 2**64)
    return np.argsort(packed)


def _is_in_order(columns: Mapping[str, Column], key: Sequence[str]) -> bool:
    """Whether each row's key is above that of the row before."""
    undecided = np.ones(max(len(columns[key[0]]) - 1, 0), bool)
    for name in key:
        before, after = columns[name][:-1], columns[name][1:]
        if (undecided & (after < before)).any():
            return False
        undecided &= after == before
    return not undecided.any()


def merge_tables(tables: Sequence[ScanTables]) -> ScanTables:
    """The tables of all tasks as one: same keys summed, boxes and ranges joined, rows sorted by key.

    Parameters
    ----------
    tables : sequence of ScanTables
        At least one; of the same ``max_gap``.

    Returns
    -------
    ScanTables
    """

    def joined(name: str, key: Sequence[str]) -> Columns:
        parts: list[Columns] = [getattr(table, name) for table in tables]
        return group({column: np.concatenate([part[column] for part in parts]) for column in parts[0]}, key)

    return ScanTables(**{name: joined(name, key) for name, key in KEYS.items()})


def moved(layers: Columns, y: int | Int, x: int | Int) -> Columns:
    """Layer rows with their origin moved by (-y, -x): boxes and moments as seen from there, modulo 2^64.

    Parameters
    ----------
    layers : dict of ndarray, shape (n,)
        Rows of `ScanTables.layers`.
    y, x : int or ndarray of int64, shape (n,)
        What is added to every coordinate.

    Returns
    -------
    dict of ndarray, shape (n,)
    """
    y, x = np.asarray(y, np.int64), np.asarray(x, np.int64)
    area, sy, sx = layers["area"], layers["sy"], layers["sx"]
    with np.errstate(over="ignore"):
        return layers | {
            "sy": sy + y * area,
            "sx": sx + x * area,
            "syy": layers["syy"] + 2 * y * sy + y * y * area,
            "sxx": layers["sxx"] + 2 * x * sx + x * x * area,
            "syx": layers["syx"] + y * sx + x * sy + y * x * area,
            "y0": layers["y0"] + y,
            "y1": layers["y1"] + y,
            "x0": layers["x0"] + x,
            "x1": layers["x1"] + x,
        }


def layer_table(layers: Columns) -> LayerTable:
    """Merged layer rows with moments about each label's own corner, where they are exact.

    Parameters
    ----------
    layers : dict of ndarray, shape (n,)
        Rows of `ScanTables.layers`, one per key, sorted by (label, z), each with area above zero.

    Returns
    -------
    LayerTable
    """
    lags = sum(name.startswith("back_") for name in layers)
    table, _ = layers_of(matrix_of(layers, layer_columns(lags)))
    return table


def layers_of(rows: Int) -> tuple[LayerTable, Int]:
    """As `layer_table`, of a matrix of the same rows, which is changed: its columns are the table's.

    Returns
    -------
    LayerTable
    ndarray of int64, shape (4, m)
        Each label's half-open box: y0, y1, x0, x1, in absolute voxel coordinates.
    """
    corners = about_corners(rows)
    columns = views_of(rows, layer_columns(rows.shape[1] - len(layer_columns(0))))
    # These two are gone through again and again.
    columns |= {name: np.ascontiguousarray(columns[name]) for name in ("z", "area")}
    y0, _, x0, _ = corners.boxes
    table = LayerTable(
        **{name: columns[name] for name in layer_columns(0)},
        back=rows[:, len(layer_columns(0)) :],
        labels=columns["label"][corners.start[:-1]],
        start=corners.start,
        corner_y=y0,
        corner_x=x0,
        too_large=corners.too_large,
    )
    return table, corners.boxes


def matrix_of(columns: Columns, names: Sequence[str]) -> Int:
    """Columns of int64 or uint64 as a matrix, row by row; labels above 2^63 keep their bits."""
    return np.stack([columns[name].astype(np.int64, copy=False) for name in names], axis=1)


def views_of(rows: Int, names: Sequence[str]) -> Columns:
    """The columns of such a matrix, by name: views of it."""
    return {
        name: column.view(np.uint64) if name in _LABELS else column
        for name, column in zip(names, rows.T, strict=True)
    }


def _no_rows(names: Sequence[str]) -> Columns:
    return views_of(np.zeros((0, len(names)), np.int64), names)


def ways_of(names: Sequence[str], key: Sequence[str]) -> list[int]:
    """How each column adds up; see `overseg.kernels.sums.add_up`."""
    ways = {np.add: SUM, np.minimum: LEAST, np.maximum: MOST}
    return [KEY if name in key else ways[_HOW.get(name, np.add)] for name in names]
