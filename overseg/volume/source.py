"""Labels that somebody else stored: what a converter needs to know of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import MissingPackageError, OversegError, VolumeError
from overseg.volume.faults import reason, storage_error
from overseg.volume.level import Triple
from overseg.volume.units import check_block
from overseg.volume.volume import Box

Loader = Callable[[int, int, int], npt.NDArray[np.integer]]
SLAB_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Source:
    """Labels to convert.

    Attributes
    ----------
    text : str
        For messages.
    shape : tuple of int
        (z, y, x).
    dtype : dtype
        An integer type.
    load : callable
        Box and time point to voxels (z, y, x).
    n_times : int
        Time points.
    voxel_size : tuple of float or None
        (z, y, x), where the file says.
    unit : str or None
        Of the voxel size.
    layers : int
        Layers that are best read together.
    """

    text: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    load: Callable[[Box, int], npt.NDArray[np.integer]]
    n_times: int = 1
    voxel_size: Triple | None = None
    unit: str | None = None
    layers: int = 1

    def read(self, box: Box, t: int = 0) -> npt.NDArray[np.integer]:
        """Voxels (z, y, x) of a box. Raises `VolumeError` if they are damaged or no labels."""
        with reading(self.text):
            data = np.asarray(self.load(box, t), self.dtype)
        check_block(data, self.text)
        return data

    def slabs(self) -> Iterator[slice]:
        """Ranges of layers that fit the memory set aside for them, in order."""
        step = max(1, SLAB_BYTES // max(1, self.shape[1] * self.shape[2] * self.dtype.itemsize))
        if step > self.layers:
            step -= step % self.layers
        for start in range(0, self.shape[0], step):
            yield slice(start, min(start + step, self.shape[0]))

    def read_layers(self, span: slice, t: int = 0) -> npt.NDArray[np.integer]:
        """Whole layers (z, y, x)."""
        return self.read((span, slice(0, self.shape[1]), slice(0, self.shape[2])), t)


class Layers:
    """Boxes out of layers that can only be read whole: the layers read last are kept.

    Parameters
    ----------
    load : callable
        First and last layer (half open) and time point to voxels (z, y, x).
    """

    def __init__(self, load: Loader) -> None:
        self._load = load
        self._held: tuple[int, int, int] | None = None
        self._data: npt.NDArray[np.integer] = np.empty((0, 0, 0), np.uint8)

    def __call__(self, box: Box, t: int) -> npt.NDArray[np.integer]:
        """Voxels (z, y, x) of a box."""
        z, y, x = box
        wanted = (z.start, z.stop, t)
        if wanted != self._held:
            self._data, self._held = np.empty((0, 0, 0), np.uint8), None  # let go before reading more
            self._data, self._held = self._load(*wanted), wanted
        return self._data[:, y, x]


@contextmanager
def reading(text: str) -> Iterator[None]:
    """Say which file it was when a library gives up on one."""
    try:
        yield
    except (OversegError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise storage_error("cannot read the file", text, error) from None
        raise _damaged(text, error) from None
    except Exception as error:
        if "imagecodecs" in str(error):
            raise MissingPackageError(
                f"the TIFF is compressed in a way that needs one more package ({reason(error)})",
                where=text,
                remedy="`pip install imagecodecs`, or save the TIFF uncompressed",
            ) from None
        raise _damaged(text, error) from None


def _damaged(text: str, error: Exception) -> VolumeError:
    return VolumeError(
        f"the file is damaged or not what its suffix says: {reason(error)}",
        where=text,
        remedy="open it in the program that wrote it and save it again",
    )


def size_or_none(values: Any) -> Triple | None:
    """A voxel size (z, y, x) if the values are three numbers above zero; files say 0 or nan for unknown."""
    try:
        z, y, x = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return (z, y, x) if all(math.isfinite(n) and n > 0 for n in (z, y, x)) else None
