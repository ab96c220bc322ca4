"""Which file format a name stands for, and units of length under the names that each format gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from overseg.errors import InputError

Kind = Literal["zarr", "ome-zarr", "tiff", "ome-tiff", "hdf5", "npy", "npz"]

_SUFFIXES: dict[str, Kind] = {
    ".ome.zarr": "ome-zarr",
    ".zarr": "zarr",
    ".ome.tiff": "ome-tiff",
    ".ome.tif": "ome-tiff",
    ".tiff": "tiff",
    ".tif": "tiff",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".h5": "hdf5",
    ".npy": "npy",
    ".npz": "npz",
}
_WITH_KEY = re.compile(r"^(?P<path>.*\.(?:tiff?|h5|hdf5?|npz)):(?P<key>[^:]+)$", re.IGNORECASE)
_MICROMETERS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3}
_UNITS = {
    "nanometer": {"nm", "nanometre", "nanometers"},
    "micrometer": {"um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometre", "micrometers"},
    "millimeter": {"mm", "millimetre", "millimeters"},
}


@dataclass(frozen=True)
class Name:
    """A file as the user wrote it: path, what is meant inside it, and its format."""

    path: str
    key: str | None
    kind: Kind | None

    @property
    def text(self) -> str:
        """For messages."""
        return f"{self.path}:{self.key}" if self.key else self.path


def parse_name(text: str) -> Name:
    """Split ``file.h5:/path`` into its parts; the format is ``None`` where the suffix says nothing.

    Examples
    --------
    >>> parse_name("cells.h5:/exported/labels")
    Name(path='cells.h5', key='/exported/labels', kind='hdf5')
    >>> parse_name("cells.ome.zarr").kind
    'ome-zarr'
    """
    match = _WITH_KEY.match(text)
    path, key = (match["path"], match["key"]) if match else (text, None)
    lower = path.rstrip("/").lower()
    kind = next((kind for suffix, kind in _SUFFIXES.items() if lower.endswith(suffix)), None)
    return Name(path, key, kind)


def parse_output(text: str) -> tuple[Name, Kind]:
    """The name and format of an output. Raises `InputError` where the suffix says nothing."""
    name = parse_name(text)
    if name.kind is None:
        raise InputError(
            "the output's suffix does not say which format to write",
            where=text,
            remedy=f"end its name in one of {', '.join(_SUFFIXES)}",
        )
    return name, name.kind


def unit_name(text: object) -> str | None:
    """A unit of length by its OME-Zarr name, ``None`` if it is not one that we know.

    Examples
    --------
    >>> unit_name("um"), unit_name("pixel")
    ('micrometer', None)
    """
    lower = str(text).strip().lower()
    return next((unit for unit, names in _UNITS.items() if lower == unit or lower in names), None)


def in_micrometers(size: tuple[float, float, float], unit: str | None) -> list[float] | None:
    """A voxel size in micrometers, ``None`` if its unit is not known."""
    factor = _MICROMETERS.get(unit or "")
    return None if factor is None else [float(f"{number * factor:.12g}") for number in size]
