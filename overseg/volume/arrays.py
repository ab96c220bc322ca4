"""Label volumes that are arrays in memory."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from overseg.errors import VolumeError


def check_array(array: npt.NDArray[Any]) -> None:
    """Refuse what is no label volume.

    Parameters
    ----------
    array : ndarray
        Should be (z, y, x), of a non-negative integer type or without negative values.

    Raises
    ------
    VolumeError
        If it is something else.
    """
    if array.ndim != 3 or 0 in array.shape:
        raise VolumeError(
            f"the array has shape {array.shape}: labels are (z, y, x), with at least one voxel",
            where="array in memory",
            remedy="pass one 3D stack",
        )
    if array.dtype.kind not in "iu":
        raise VolumeError(
            f"the array is {array.dtype}: labels are integers",
            where="array in memory",
            remedy="convert it if its values are whole, for example with array.astype('uint32')",
        )
    if array.dtype.kind == "i" and array.min() < 0:
        raise VolumeError(
            "the array holds negative labels",
            where="array in memory",
            remedy="labels are 0 or more: give the background the label 0",
        )
