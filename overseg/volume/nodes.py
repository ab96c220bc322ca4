"""What lies at a place: a zarr array, a zarr group, or something else. Reads the nodes' own metadata only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from overseg.errors import VolumeError
from overseg.volume.place import Place

_LOOK_LIKE = {
    (".tif", ".tiff", ".btf", ".lsm"): "a TIFF file",
    (".h5", ".hdf5", ".hdf", ".ilp"): "an HDF5 file",
    (".npy", ".npz"): "a NumPy file",
    (".zip",): "a zip file",
}
_DEPTH = 3


@dataclass(frozen=True)
class Node:
    """A zarr array or group as its metadata documents describe it.

    Attributes
    ----------
    place : Place
        Where it is.
    is_array : bool
        Array, else group.
    zarr_format : int
        2 or 3.
    metadata : dict
        Content of ``zarr.json``, ``.zarray`` or ``.zgroup``.
    attributes : dict
        User attributes.
    """

    place: Place
    is_array: bool
    zarr_format: int
    metadata: dict[str, Any]
    attributes: dict[str, Any]


def read_node(place: Place) -> Node | None:
    """The node at a place, ``None`` if there is none.

    Raises
    ------
    VolumeError
        If there are metadata and they are damaged.
    StorageError
        If the store refuses to read.
    """
    document = _json(place, "zarr.json")
    if document is not None:
        kind = document.get("node_type")
        attributes = document.get("attributes", {})
        if kind not in ("array", "group") or not isinstance(attributes, dict):
            raise _damaged(place, "zarr.json", f"node_type is {kind!r}")
        return Node(place, kind == "array", 3, document, attributes)
    for key in (".zarray", ".zgroup"):
        document = _json(place, key)
        if document is not None:
            return Node(place, key == ".zarray", 2, document, _json(place, ".zattrs") or {})
    return None


def require_node(place: Place) -> Node:
    """The node at a place. Raises `VolumeError` that says what is there instead."""
    node = read_node(place)
    if node is not None:
        return node
    if not place.local:
        raise VolumeError(
            "there is no zarr array or group at this address",
            where=place.location,
            remedy="check the address, and that your credentials may read it",
        )
    if not os.path.exists(place.location):
        raise VolumeError(
            "the volume does not exist", where=place.location, remedy="check the path for typing errors"
        )
    if os.path.isfile(place.location):
        raise _a_file(place)
    inside = [child for child in place.files.children() if read_node(place.child(child)) is not None]
    hint = f"give one of {', '.join(inside)} inside it" if inside else "give the path of a zarr volume"
    raise VolumeError("this folder is not a zarr array or group", where=place.location, remedy=hint)


def _a_file(place: Place) -> VolumeError:
    lower = place.name.lower()
    for suffixes, name in _LOOK_LIKE.items():
        if lower.endswith(suffixes):
            stem = place.location[: lower.rindex(".") - len(lower)]
            remedy = f"overseg convert {place.location} {stem}.zarr"
            if name == "a zip file":
                remedy = "unpack it: a zip file cannot be corrected in place"
            return VolumeError(f"this is {name}, not a zarr volume", where=place.location, remedy=remedy)
    return VolumeError(
        "this is a file, not a zarr volume",
        where=place.location,
        remedy="give the folder that holds zarr.json, .zarray or .zgroup",
    )


def find_arrays(group: Node) -> list[Node]:
    """Arrays below a group, to a small depth, in the order of their paths."""
    return [node for node in _walk(group, _DEPTH) if node.is_array]


def _walk(group: Node, depth: int) -> Iterator[Node]:
    for name in group.place.files.children():
        if name.startswith("."):
            continue
        node = read_node(group.place.child(name))
        if node is None:
            continue
        yield node
        if depth > 1 and not node.is_array:
            yield from _walk(node, depth - 1)


def describe_array(node: Node) -> str:
    """One array for a list of choices: path, shape and type."""
    shape = node.metadata.get("shape")
    dtype = node.metadata.get("data_type", node.metadata.get("dtype"))
    return f"{node.place.location} {tuple(shape) if isinstance(shape, list) else shape} {dtype}"


def _json(place: Place, key: str) -> dict[str, Any] | None:
    data = place.files.read(key)
    if data is None:
        return None
    try:
        document = json.loads(data)
    except ValueError as error:
        raise _damaged(place, key, str(error)) from None
    if not isinstance(document, dict):
        raise _damaged(place, key, "it is not a JSON object")
    return document


def _damaged(place: Place, key: str, why: str) -> VolumeError:
    return VolumeError(
        f"the zarr metadata are damaged: {why}",
        where=f"{place.location}/{key}",
        remedy="restore that file from a copy, or write the volume again",
    )
