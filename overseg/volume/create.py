"""Make new label volumes: a bare zarr array, or an OME-Zarr label group with its pyramid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError
from overseg.volume.faults import storage
from overseg.volume.level import Triple
from overseg.volume.nodes import read_node
from overseg.volume.ome import axes_metadata, ome_attributes
from overseg.volume.open import open_volume
from overseg.volume.place import Place
from overseg.volume.volume import Box, Volume

_SMALLEST_TOP = 256


def create_labels(
    path: str | Path,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    chunks: tuple[int, ...],
    *,
    voxel_size: Triple | None = None,
    unit: str | None = None,
    shards: tuple[int, ...] | None = None,
    zarr_format: int = 3,
    ome: bool = False,
    axes: tuple[str, ...] = ("z", "y", "x"),
    levels: int = 1,
    label: str | None = None,
) -> Volume:
    """Create an empty label volume (all background).

    Parameters
    ----------
    path : str or Path
        Local path or URL; nothing may be there yet.
    shape, chunks, shards : tuple of int
        Of level 0, in stored axes, in voxels. Without `shards` every chunk is stored on its own.
    dtype : dtype
        An integer type.
    voxel_size : tuple of float, optional
        (z, y, x) of level 0.
    unit : str, optional
        Of the voxel size, for example "micrometer".
    zarr_format : {2, 3}
        With `ome`, 2 makes OME-Zarr 0.4 and 3 makes 0.5.
    ome : bool
        An OME-Zarr label group instead of a bare array.
    axes : tuple of str
        Stored axes; others than (z, y, x) need `ome`.
    levels : int
        Pyramid levels, at most; each halves the axes along which voxels are still small.
    label : str, optional
        With `ome`: write to ``path/labels/LABEL``, as in an image group.

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        If something exists at `path`.
    StorageError
        If it cannot be written.
    """
    top = Place.of(path)
    place = top.child(f"labels/{label}") if label else top
    if read_node(place) is not None or (top.local and not label and Path(top.location).exists()):
        raise InputError(
            "the output exists already",
            where=place.location,
            remedy="choose another name, or remove it first",
        )
    options = {"chunks": chunks, "shards": shards, "dtype": np.dtype(dtype), "zarr_format": zarr_format}
    with storage("cannot create the volume", place.location, place.secrets):
        if not ome:
            _array(place, shape, options, _bare_attributes(voxel_size, unit))
            return open_volume(str(path))
        plan = pyramid(shape, voxel_size or (1.0, 1.0, 1.0), levels)
        attributes = _ome_attributes(axes, unit, plan, zarr_format, label or "labels")
        _parents(top, label, zarr_format)
        _group(place, zarr_format, attributes)
        for number, (level_shape, _) in enumerate(plan):
            _array(place.child(str(number)), level_shape, options, {}, axes)
    return open_volume(place.location if top.local else str(path), label=None if top.local else label)


def pyramid(shape: tuple[int, ...], voxel_size: Triple, levels: int) -> list[tuple[tuple[int, ...], Triple]]:
    """Shape (stored axes) and scale (z, y, x) of each level of a label pyramid.

    Every level halves those axes whose voxels are less than 1.5 times the smallest, so that voxels become
    isotropic first and stay so; it stops where a layer is no larger than 256 voxels.

    Examples
    --------
    >>> [level for level, scale in pyramid((20, 1024, 1000), (2.0, 0.5, 0.5), 9)]
    [(20, 1024, 1000), (20, 512, 500), (20, 256, 250)]
    """
    plan = [(shape, voxel_size)]
    while len(plan) < levels and max(plan[-1][0][-2:]) > _SMALLEST_TOP:
        size, scale = plan[-1]
        halve = [step < 1.5 * min(scale) for step in scale]
        size = size[:-3] + tuple(-(-n // 2) if h else n for n, h in zip(size[-3:], halve, strict=True))
        z, y, x = (2 * s if h else s for s, h in zip(scale, halve, strict=True))
        plan.append((size, (z, y, x)))
    return plan


def fill(volume: Volume, read: Callable[[Box], npt.NDArray[Any]], t: int = 0) -> None:
    """Write level 0 of a new volume unit by unit, then every level from the one before, by striding.

    Parameters
    ----------
    volume : Volume
        Just created; one time point and one channel per write unit.
    read : callable
        Gives the voxels (z, y, x) of a box; boxes come layer by layer, in C order.
    t : int
        Time point.
    """
    for number in range(len(volume.levels)):
        grid = volume.grid(number)
        for unit in range(grid.n):
            if t not in grid.times(unit):
                continue
            box = grid.box(unit)
            data = read(box) if number == 0 else strided(volume, number, box, t)
            if data.any():
                data = data.astype(volume.levels[number].dtype, copy=False)
                volume.write_unit(unit, data.reshape(grid.extent(unit)), number)


def strided(volume: Volume, number: int, box: Box, t: int = 0) -> npt.NDArray[np.integer]:
    """Voxels of a pyramid level taken from the level before: every first one, never an average of ids."""
    fine, coarse = volume.levels[number - 1], volume.levels[number]
    steps = [_step(a, b) for a, b in zip(fine.shape[-3:], coarse.shape[-3:], strict=True)]
    wide = [
        slice(span.start * step, min(span.stop * step, size))
        for span, step, size in zip(box, steps, fine.shape[-3:], strict=True)
    ]
    data = volume.read((wide[0], wide[1], wide[2]), t, number - 1)
    return data[:: steps[0], :: steps[1], :: steps[2]]


def _step(fine: int, coarse: int) -> int:
    return 1 if fine == coarse else 2


def _array(
    place: Place,
    shape: tuple[int, ...],
    options: dict[str, Any],
    attributes: dict[str, Any],
    axes: tuple[str, ...] | None = None,
) -> None:
    import zarr

    names = {"dimension_names": axes} if axes and options["zarr_format"] == 3 else {}
    zarr.create_array(
        place.store(read_only=False),
        shape=shape,
        fill_value=0,
        attributes=attributes,
        chunk_key_encoding={"name": "default" if options["zarr_format"] == 3 else "v2", "separator": "/"},
        **options,
        **names,
    )


def _group(place: Place, zarr_format: int, attributes: dict[str, Any]) -> None:
    import zarr

    zarr.create_group(place.store(read_only=False), zarr_format=zarr_format, attributes=attributes)


def _parents(top: Place, label: str | None, zarr_format: int) -> None:
    """The image group and its list of labels, grown by one name."""
    if label is None:
        return
    if read_node(top) is None:
        _group(top, zarr_format, {})
    holder = read_node(top.child("labels"))
    if holder is None:
        names = {"labels": [label]}
        _group(top.child("labels"), zarr_format, names if zarr_format == 2 else _ome(names))
        return
    names = {"labels": [*ome_attributes(holder.attributes).get("labels", []), label]}
    group = zarr_group(top.child("labels"))
    group.attrs.update(names if zarr_format == 2 else _ome(names))


def zarr_group(place: Place) -> Any:
    """An existing zarr group, open for writing, read from its own metadata."""
    import zarr

    return zarr.open_group(place.store(read_only=False), mode="r+", use_consolidated=False)


def _ome(entries: dict[str, Any]) -> dict[str, Any]:
    return {"ome": {"version": "0.5", **entries}}


def _bare_attributes(voxel_size: Triple | None, unit: str | None) -> dict[str, Any]:
    if voxel_size is None:
        return {}
    return {"voxel_size": list(voxel_size)} | ({"unit": unit} if unit else {})


def _ome_attributes(
    axes: tuple[str, ...],
    unit: str | None,
    plan: list[tuple[tuple[int, ...], Triple]],
    zarr_format: int,
    name: str,
) -> dict[str, Any]:
    """Multiscales of a label group, checked against the published schema."""
    from yaozarrs import v04, v05

    lead = [1.0] * (len(axes) - 3)
    entry: dict[str, Any] = {
        "name": name,
        "axes": axes_metadata(axes, unit),
        "datasets": [
            {
                "path": str(number),
                "coordinateTransformations": [{"type": "scale", "scale": [*lead, *scale]}],
            }
            for number, (_, scale) in enumerate(plan)
        ],
    }
    if zarr_format == 2:
        entry["version"] = "0.4"
        attributes = {"multiscales": [entry], "image-label": {"version": "0.4"}}
        v04.LabelImage.model_validate(attributes)
        return attributes
    attributes = _ome({"multiscales": [entry], "image-label": {"version": "0.5"}})
    v05.LabelImage.model_validate(attributes["ome"])
    return attributes
