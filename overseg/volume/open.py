"""Open a label volume, or say why it is none, before anything is written."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np

from overseg.errors import InputError, VolumeError
from overseg.volume.level import Level, Triple
from overseg.volume.nodes import Node, describe_array, find_arrays, read_node, require_node
from overseg.volume.ome import Dataset, Multiscale, ome_attributes, parse_multiscale
from overseg.volume.place import Place
from overseg.volume.units import check_dtype
from overseg.volume.volume import Volume

SUFFIXES = (".ome.zarr", ".zarr", ".n5")
COPYING = ".overseg-copying"  # an unfinished copy
LABELS_HINT = ".overseg-labels"  # a copied label group whose own metadata do not say that it is one


def open_volume(
    source: Any, label: str | None = None, voxel_size: tuple[float, float, float] | None = None
) -> Volume:
    """Look at a label volume and accept it, or refuse it with the remedy. Reads metadata only.

    Parameters
    ----------
    source : str, Path, zarr.Array or zarr.Group
        A 3D zarr array (v2 or v3, sharded or not), or an OME-Zarr (0.4 or 0.5) image group, ``labels`` group
        or label group. Paths and fsspec URLs.
    label : str, optional
        Which labels of an OME-Zarr image; needed where there are several.
    voxel_size : tuple of float, optional
        (z, y, x) of level 0; overrules the metadata.

    Returns
    -------
    Volume

    Raises
    ------
    VolumeError
        If there is no label volume there, or one that cannot be corrected.
    StorageError
        If the store refuses to read.
    InputError
        If `voxel_size` is not three numbers above zero.
    """
    if isinstance(source, Volume):
        return _rescaled(source, voxel_size)
    place = _place(source)
    _check_finished(place)
    node = _label_node(require_node(place), label)
    if node.is_array:
        return _rescaled(_bare(node), voxel_size)
    return _rescaled(_ome(node), voxel_size)


def _place(source: Any) -> Place:
    if isinstance(source, str | os.PathLike):
        return Place.of(source)
    if isinstance(source, np.ndarray):
        raise VolumeError(
            "a NumPy array has no place on disk",
            remedy="pass it to overseg.correct, or save it: zarr.save_array('volume.zarr', array)",
        )
    if hasattr(source, "store_path"):
        return Place.of_store(source.store_path.store, source.store_path.path)
    raise VolumeError(
        f"a {type(source).__name__} is not a volume",
        remedy="pass a path, a URL, a zarr Array or a zarr Group",
    )


def _check_finished(place: Place) -> None:
    if place.files.read(COPYING) is not None:
        raise VolumeError(
            "this copy was interrupted and is not complete",
            where=place.location,
            remedy="run the command that made it again: it goes on where it stopped",
        )


# ------------------------------------------------------------------------------------------- which node


def _label_node(node: Node, label: str | None) -> Node:
    """The array or label group that a node stands for."""
    if node.is_array:
        if label is not None:
            raise VolumeError(
                f"there are no labels {label!r} in a single array",
                where=node.place.location,
                remedy="leave out --label, or give the path of the image group",
            )
        return node
    ome = ome_attributes(node.attributes)
    names = _label_names(node)
    if names is not None:
        return _choose(node, names, label)
    if "multiscales" not in ome:
        raise _no_labels(node)
    if "image-label" not in ome and not _among_labels(node):
        raise VolumeError(
            "this is an OME-Zarr image without labels",
            where=node.place.location,
            remedy="give the path of a label group; or, if these voxels are labels, "
            f"of the array itself: {node.place.location}/0",
        )
    if label not in (None, node.place.name):
        raise _unknown(node.place.location, label, [node.place.name])
    return node


def _among_labels(node: Node) -> bool:
    """Labels by their place: in a ``labels`` group, or copied from one."""
    parent = node.place.parent()
    return (parent is not None and parent.name == "labels") or node.place.files.read(LABELS_HINT) is not None


def _label_names(node: Node) -> list[Node] | None:
    """Label groups of an image group or of its ``labels`` group; ``None`` for any other group."""
    holder = node if node.place.name == "labels" else read_node(node.place.child("labels"))
    if holder is None or holder.is_array:
        return None
    listed = ome_attributes(holder.attributes).get("labels")
    names = listed if isinstance(listed, list) else holder.place.files.children()
    groups = [
        read_node(holder.place.child(name))
        for name in names
        if isinstance(name, str) and name and ".." not in name.split("/")
    ]
    return [
        group
        for group in groups
        if group is not None and not group.is_array and "multiscales" in ome_attributes(group.attributes)
    ]


def _choose(node: Node, groups: list[Node], label: str | None) -> Node:
    by_name = {group.place.name: group for group in groups}
    where = node.place.location
    if not by_name:
        raise VolumeError(
            "this image has no labels", where=where, remedy="segment it first, or give the path of the labels"
        )
    if label is None and len(by_name) > 1:
        raise VolumeError(
            f"this image has several labels: {', '.join(by_name)}",
            where=where,
            remedy=f"say which, for example --label {next(iter(by_name))}",
        )
    if label is not None and label not in by_name:
        raise _unknown(where, label, list(by_name))
    return by_name[label] if label is not None else next(iter(by_name.values()))


def _unknown(where: str, label: str | None, names: list[str]) -> VolumeError:
    return VolumeError(
        f"there are no labels named {label!r}; there are {', '.join(names)}",
        where=where,
        remedy=f"for example --label {names[0]}",
    )


def _no_labels(node: Node) -> VolumeError:
    arrays = find_arrays(node)
    if arrays:
        return VolumeError(
            "this is a group, not a label volume; it holds " + "; ".join(map(describe_array, arrays[:10])),
            where=node.place.location,
            remedy=f"give the path of the array, for example {arrays[0].place.location}",
        )
    return VolumeError(
        "this group holds no labels",
        where=node.place.location,
        remedy="give the path of a 3D integer array, or of an OME-Zarr image with labels",
    )


# ------------------------------------------------------------------------------------------- what it holds


def _bare(node: Node) -> Volume:
    facts = _level(node.place, "")
    if len(facts.shape) != 3:
        raise VolumeError(
            f"the array has {len(facts.shape)} axes {facts.shape}, a label volume has three (z, y, x)",
            where=node.place.location,
            remedy="save one 3D array, or an OME-Zarr label group, whose metadata name its axes",
        )
    names = node.metadata.get("dimension_names")
    if names and sorted(map(str, names)) == ["x", "y", "z"] and tuple(names) != ("z", "y", "x"):
        raise VolumeError(
            f"the array's axes are {', '.join(names)}, overseg needs z, y, x",
            where=node.place.location,
            remedy="save it transposed, with dimension_names z, y, x",
        )
    scale, unit = _attribute_size(node), _text(node.attributes.get("unit"))
    translation, part_of = (0.0, 0.0, 0.0), None
    group = _group_of_levels(node.place)
    if group is not None:
        where, entry, data = group
        part_of = where if len(entry.datasets) > 1 else None
        if scale is None:
            scale, translation, unit = data.scale, data.translation, entry.unit
    return Volume(
        place=node.place,
        name=_name(node.place),
        axes=("z", "y", "x"),
        levels=(_scaled(facts, scale or (1.0, 1.0, 1.0), translation),),
        zarr_format=node.zarr_format,
        voxel_size_known=scale is not None,
        unit=unit if scale is not None else None,
        part_of=part_of,
    )


def _group_of_levels(place: Place) -> tuple[str, Multiscale, Dataset] | None:
    """The OME-Zarr group above an array, if that lists it as one of its levels."""
    parent = place.parent()
    node = None if parent is None else read_node(parent)
    if parent is None or node is None or "multiscales" not in ome_attributes(node.attributes):
        return None
    try:
        entry = parse_multiscale(node.attributes, parent.location)
    except VolumeError:
        return None  # the array itself is sound
    found = [data for data in entry.datasets if data.path == place.name]
    return (parent.location, entry, found[0]) if found else None


def _ome(node: Node) -> Volume:
    where = node.place.location
    entry = parse_multiscale(node.attributes, where)
    levels = tuple(_ome_level(node.place, data, entry) for data in entry.datasets)
    first = levels[0]
    for level in levels:
        if level.shape[:-3] != first.shape[:-3]:
            raise VolumeError(
                f"level {level.path} has shape {level.shape}, level {first.path} has {first.shape}: "
                "the time points or channels differ",
                where=where,
                remedy="write the pyramid again",
            )
    if "c" in entry.axes and first.shape[entry.axes.index("c")] != 1:
        raise VolumeError(
            f"the labels have {first.shape[entry.axes.index('c')]} channels; overseg works on one",
            where=where,
            remedy="save each channel as labels of its own",
        )
    return Volume(
        place=node.place,
        name=_name(node.place),
        axes=entry.axes,
        levels=levels,
        zarr_format=node.zarr_format,
        ome_version=entry.version,
        voxel_size_known=True,
        unit=entry.unit,
    )


def _ome_level(group: Place, data: Dataset, entry: Multiscale) -> Level:
    node = read_node(group.child(data.path))
    if node is None or not node.is_array:
        raise VolumeError(
            f"the metadata list level {data.path!r}, which is not there",
            where=group.location,
            remedy="write the pyramid again, or correct the multiscales metadata",
        )
    facts = _level(group.child(data.path), data.path)
    if len(facts.shape) != len(entry.axes):
        raise VolumeError(
            f"level {data.path} has {len(facts.shape)} axes, the metadata name {len(entry.axes)}",
            where=group.location,
            remedy="correct the axes in the multiscales metadata",
        )
    return _scaled(facts, data.scale, data.translation)


def _level(place: Place, path: str) -> Level:
    """Facts of one stored array, if its voxels can be labels."""
    from overseg.volume.checked import open_array

    array = open_array(place)
    dtype = np.dtype(array.dtype)
    check_dtype(dtype, place.location)
    if 0 in array.shape:
        raise VolumeError(
            f"the array is empty: its shape is {array.shape}",
            where=place.location,
            remedy="give a volume with at least one voxel",
        )
    return Level(
        path=path,
        shape=tuple(array.shape),
        unit_shape=tuple(array.shards or array.chunks),
        chunk_shape=tuple(array.chunks),
        dtype=dtype.newbyteorder("="),
    )


def _scaled(level: Level, scale: Triple, translation: Triple = (0.0, 0.0, 0.0)) -> Level:
    return replace(level, scale=scale, translation=translation)


def _attribute_size(node: Node) -> Triple | None:
    """Voxel size among the attributes of a bare array, as daisy and funlib write it; (z, y, x)."""
    for key in ("voxel_size", "resolution"):
        value = node.attributes.get(key)
        if value is None:
            continue
        if isinstance(value, list) and len(value) == 3:
            return _size(value, f"{node.place.location}, attribute {key!r}", "correct the attribute")
    return None


def check_voxel_size(value: Any) -> Triple:
    """The caller's voxel size (z, y, x). Raises `InputError` unless it is three numbers above zero."""
    return _size(value, "voxel_size", "give for example --voxel-size 2 0.5 0.5")


def _size(value: Any, where: str, remedy: str) -> Triple:
    try:
        z, y, x = (float(number) for number in value)
    except (TypeError, ValueError):
        raise InputError(
            f"a voxel size is three numbers (z, y, x), not {value!r}", where=where, remedy=remedy
        ) from None
    if not all(math.isfinite(number) and number > 0 for number in (z, y, x)):
        raise InputError(
            f"every part of the voxel size must be above zero, not {(z, y, x)}", where=where, remedy=remedy
        )
    return z, y, x


def _rescaled(volume: Volume, voxel_size: Any) -> Volume:
    """The caller's voxel size at level 0, and in proportion at the others."""
    if voxel_size is None:
        return volume
    size = check_voxel_size(voxel_size)
    z, y, x = (new / old for new, old in zip(size, volume.voxel_size, strict=True))
    levels = []
    for i, level in enumerate(volume.levels):
        (sz, sy, sx), (tz, ty, tx) = level.scale, level.translation
        scale = size if i == 0 else (sz * z, sy * y, sx * x)
        levels.append(_scaled(level, scale, (tz * z, ty * y, tx * x)))
    return replace(volume, levels=tuple(levels), voxel_size_known=True)


def _name(place: Place) -> str:
    """Name of a volume: of its zarr store, and of what it is inside that store."""
    parts = place.location.rstrip("/").split("/")
    roots = [i for i, part in enumerate(parts) if part.lower().endswith(SUFFIXES)]
    first = roots[-1] if roots else len(parts) - 1
    stem = parts[first]
    for suffix in SUFFIXES:
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    inside = [part for part in parts[first + 1 :] if part != "labels"]
    return "-".join([stem or "volume", *inside])


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
