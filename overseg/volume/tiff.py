"""TIFF stacks: ImageJ, OME-TIFF and plain pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError, VolumeError
from overseg.volume.formats import Name, in_micrometers, unit_name
from overseg.volume.level import Triple
from overseg.volume.source import Layers, Source, reading, size_or_none
from overseg.volume.units import check_dtype

_STACK_AXES = "ZQI"  # Z said, or nothing said about a pile of pages
_CLASSIC_LIMIT = 2**32 - 2**25
_OME_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")


@contextmanager
def open_tiff(name: Name) -> Iterator[Source]:
    """The labels of a TIFF file; a number after the colon picks one of several series.

    Raises
    ------
    VolumeError
        If the file is damaged, holds several series and none is named, or is no (t,) z, y, x stack of labels.
    """
    import tifffile

    with reading(name.text):
        file = tifffile.TiffFile(name.path)
    with file:
        with reading(name.text):
            number = _choose(file, name)
            series = file.series[number]
            size, unit = _voxel_size(file, number)
        check_dtype(series.dtype, name.text)
        times, depth = _stack(series.axes, series.shape, name.text)
        shape = (depth, int(series.shape[-2]), int(series.shape[-1]))
        yield Source(
            name.text,
            shape,
            series.dtype.newbyteorder("="),
            Layers(_loader(series, times * depth, shape)),
            times,
            size,
            unit,
        )


def _choose(file: Any, name: Name) -> int:
    series = file.series
    listed = "; ".join(f"{name.path}:{i} {s.axes} {s.shape} {s.dtype}" for i, s in enumerate(series[:20]))
    if name.key is None and len(series) == 1:
        return 0
    if name.key is None:
        raise VolumeError(
            f"the file holds {len(series)} images: {listed}",
            where=name.path,
            remedy=f"say which by its number, for example {name.path}:0",
        )
    if not name.key.isdigit() or int(name.key) >= len(series):
        raise VolumeError(
            f"there is no image {name.key!r} in the file: {listed}", where=name.path, remedy="count from 0"
        )
    return int(name.key)


def _stack(axes: str, shape: tuple[int, ...], where: str) -> tuple[int, int]:
    """Time points and layers of a series (axes of length one are left out by the reader)."""
    lead = axes[:-2]
    if axes[-2:] == "YX" and (lead == "" or lead in _STACK_AXES):
        return 1, shape[0] if lead else 1
    if axes[-2:] == "YX" and len(lead) == 2 and lead[0] == "T" and lead[1] in _STACK_AXES:
        return shape[0], shape[1]
    if "S" in axes:
        why = "it is a colour image, not labels"
    elif lead == "T":
        why = "the pages are time points, not layers (ImageJ: Image > Properties swaps them)"
    elif "C" in axes:
        why = "it has several channels; save the one with the labels"
    else:
        why = "a label volume has axes z, y, x"
    raise VolumeError(f"the axes of the TIFF are {axes} {shape}: {why}", where=where, remedy="save it again")


def _loader(series: Any, n_pages: int, shape: tuple[int, int, int]) -> Any:
    """A reader of layers: page by page, or through a map of the file where the planes have no pages."""
    if len(series.pages) == n_pages:

        def load(first: int, last: int, t: int) -> npt.NDArray[np.integer]:
            out = np.empty((last - first, *shape[1:]), series.dtype.newbyteorder("="))
            for i in range(last - first):
                page = series.pages[t * shape[0] + first + i]
                # a page that is listed but not stored is background
                out[i] = 0 if page is None else page.asarray().reshape(shape[1:])
            return out

        return load
    planes: list[Any] = []

    def mapped(first: int, last: int, t: int) -> npt.NDArray[np.integer]:
        if not planes:
            planes.append(series.asarray(out="memmap").reshape(-1, *shape[1:]))
        start = t * shape[0]
        return np.asarray(planes[0][start + first : start + last])

    return mapped


# ------------------------------------------------------------------------------------------- voxel size


def _voxel_size(file: Any, number: int) -> tuple[Triple | None, str | None]:
    if file.is_ome:
        return _ome_size(file.ome_metadata, number)
    if file.is_imagej:
        return _imagej_size(file)
    for entry in file.shaped_metadata or ():
        size = size_or_none(entry.get("voxel_size"))
        if size is not None:
            return size, unit_name(entry.get("unit"))
    return None, None


def _ome_size(text: str, number: int) -> tuple[Triple | None, str | None]:
    import tifffile

    images = tifffile.xml2dict(text).get("OME", {}).get("Image", [])
    images = images if isinstance(images, list) else [images]
    if number >= len(images):
        return None, None
    pixels = images[number].get("Pixels", {})
    size = size_or_none([pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"])
    units = {unit_name(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX"}
    return (size, units.pop()) if size is not None and len(units) == 1 else (None, None)


def _imagej_size(file: Any) -> tuple[Triple | None, str | None]:
    facts, tags = file.imagej_metadata or {}, file.pages[0].tags
    if "spacing" not in facts or facts.get("unit", "pixel") in ("pixel", "pixels"):
        return None, None
    steps = []
    for key in ("YResolution", "XResolution"):
        above, below = tags[key].value if key in tags else (0, 1)
        # stored as a ratio of integers: seven digits are what it can hold
        steps.append(float(f"{below / above:.7g}") if above else 0.0)
    return size_or_none([facts["spacing"], *steps]), unit_name(facts.get("unit"))


# ------------------------------------------------------------------------------------------- writing


def write_tiff(path: Path, source: Source, size: Triple | None, unit: str | None, *, ome: bool) -> None:
    """Write one time point as a TIFF stack and keep the integer type.

    ``.ome.tif`` is OME-TIFF. Otherwise a stack of 8 or 16 bits is written as ImageJ opens it, and anything
    else as plain pages with a JSON description, which Fiji and tifffile read.

    Raises
    ------
    InputError
        If OME-TIFF cannot hold the integer type.
    """
    import tifffile

    if ome and source.dtype.name not in _OME_TYPES:
        raise InputError(
            f"OME-TIFF cannot hold {source.dtype.name} labels",
            where=str(path),
            remedy="write .tif, which keeps them, or .ome.zarr",
        )
    n_bytes = int(np.prod(source.shape, dtype=np.int64)) * source.dtype.itemsize
    imagej = not ome and source.dtype.name in ("uint8", "uint16") and n_bytes < _CLASSIC_LIMIT
    options: dict[str, Any] = {"imagej": imagej, "ome": ome, "bigtiff": n_bytes >= _CLASSIC_LIMIT}
    pages = (page for span in source.slabs() for page in source.read_layers(span))
    with tifffile.TiffWriter(path, **options) as writer:
        writer.write(
            pages,
            shape=source.shape,
            dtype=source.dtype,
            photometric="minisblack",
            compression=None if imagej else "zlib",
            **_metadata(size, unit, imagej=imagej, ome=ome),
        )


def _metadata(size: Triple | None, unit: str | None, *, imagej: bool, ome: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"axes": "ZYX"}
    options: dict[str, Any] = {"metadata": facts}
    if size is None:
        return options
    if imagej:
        facts |= {"spacing": size[0], "unit": "um" if unit == "micrometer" else unit or "unit"}
        options["resolution"] = (1 / size[2], 1 / size[1])
    elif ome:
        # OME-TIFF has no "unknown unit": what has none is written in its reference frame's units
        in_um = in_micrometers(size, unit)
        numbers, name = (in_um, "µm") if in_um else (list(size), "reference frame")
        for axis, number in zip("ZYX", numbers, strict=True):
            facts |= {f"PhysicalSize{axis}": number, f"PhysicalSize{axis}Unit": name}
    else:
        facts |= {"voxel_size": list(size)} | ({"unit": unit} if unit else {})
    return options
