"""OME-Zarr 0.4 and 0.5 metadata, as far as a label volume needs them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from overseg.errors import VolumeError

Triple = tuple[float, float, float]
ORDERS = tuple((*t, *c, "z", "y", "x") for t in ((), ("t",)) for c in ((), ("c",)))
_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


@dataclass(frozen=True)
class Dataset:
    """One level as the metadata describe it: path below the group, scale and translation (z, y, x)."""

    path: str
    scale: Triple
    translation: Triple


@dataclass(frozen=True)
class Multiscale:
    """The multiscales entry of a label group."""

    version: str
    axes: tuple[str, ...]
    unit: str | None
    datasets: tuple[Dataset, ...]


def ome_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """The OME-Zarr part of a group's attributes: under "ome" in 0.5, at the top in 0.4."""
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def parse_multiscale(attributes: dict[str, Any], where: str) -> Multiscale:
    """Read a group's multiscales.

    Parameters
    ----------
    attributes : dict
        All attributes of the group.
    where : str
        Named in errors.

    Raises
    ------
    VolumeError
        If the metadata are damaged, or describe no (z, y, x) volume.
    """
    ome = ome_attributes(attributes)
    try:
        entry = ome["multiscales"][0]
        version = str(ome.get("version") or entry.get("version") or "0.4")
        axes = tuple(axis["name"] for axis in entry["axes"])
        units = {axis["name"]: axis.get("unit") for axis in entry["axes"]}
        outer = _transform(entry.get("coordinateTransformations") or [], len(axes))
        datasets = [_dataset(data, len(axes), outer) for data in entry["datasets"]]
        if not datasets:
            raise ValueError("it lists no datasets")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        cause = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise VolumeError(
            f"the multiscales metadata are damaged: {cause}",
            where=where,
            remedy="correct the metadata, or give the path of the level's array itself (for example .../0)",
        ) from None
    _check_axes(axes, where)
    _check_scales(datasets, where)
    return Multiscale(version, axes, units["z"], tuple(datasets))


def _dataset(data: dict[str, Any], ndim: int, outer: tuple[list[float], list[float]]) -> Dataset:
    path = data["path"]
    if not isinstance(path, str) or not path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"the path {path!r} does not lie inside the group")
    scale, shift = _transform(data["coordinateTransformations"], ndim)
    # first the level's own transformation, then the one of all levels
    total = [a * b for a, b in zip(outer[0], scale, strict=True)]
    moved = [a * b + c for a, b, c in zip(outer[0], shift, outer[1], strict=True)]
    return Dataset(path, _triple(total), _triple(moved))


def _transform(steps: list[dict[str, Any]], ndim: int) -> tuple[list[float], list[float]]:
    """Scale and translation of a list of transformations, in stored axes."""
    scale, shift = [1.0] * ndim, [0.0] * ndim
    for step in steps:
        kind = step["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in step:
            raise ValueError(f"the coordinate transformation {kind!r} is not a list of numbers")
        values = [float(value) for value in step[kind]]
        if len(values) != ndim:
            raise ValueError(f"a {kind} has {len(values)} numbers for {ndim} axes")
        if kind == "scale":
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            shift = [a * b for a, b in zip(shift, values, strict=True)]
        else:
            shift = [a + b for a, b in zip(shift, values, strict=True)]
    return scale, shift


def _triple(values: list[float]) -> Triple:
    padded = [1.0] * 3 + values  # axes are checked afterwards
    return padded[-3], padded[-2], padded[-1]


def _check_axes(axes: tuple[str, ...], where: str) -> None:
    if axes not in ORDERS:
        missing = "it has no z axis" if "z" not in axes else "the order must be t, c, z, y, x"
        raise VolumeError(
            f"the axes {', '.join(map(str, axes))} are not those of a label volume: {missing}",
            where=where,
            remedy="save the labels with axes (t, c,) z, y, x; 2D labels have no layers to correct",
        )


def _check_scales(datasets: list[Dataset], where: str) -> None:
    for data in datasets:
        numbers = (*data.scale, *data.translation)
        if not all(map(math.isfinite, numbers)) or min(data.scale) <= 0:
            raise VolumeError(
                f"the voxel size in the metadata must be above zero; level {data.path} says {data.scale}",
                where=where,
                remedy="correct the scale of that level in the group's metadata",
            )


def axes_metadata(axes: tuple[str, ...], unit: str | None) -> list[dict[str, str]]:
    """The axes entry to write for stored axes."""
    return [
        {"name": axis, "type": _TYPES[axis]} | ({"unit": unit} if unit and _TYPES[axis] == "space" else {})
        for axis in axes
    ]
