"""Voxels at rest: open, create, copy and convert label volumes; write units; raw files beside the voxels."""

from overseg.volume.copy import copy_volume
from overseg.volume.create import create_labels
from overseg.volume.describe import describe
from overseg.volume.files import Files
from overseg.volume.level import Level
from overseg.volume.open import open_volume
from overseg.volume.units import UnitGrid, check_block, unit_digest
from overseg.volume.volume import Volume

__all__ = [
    "Files",
    "Level",
    "UnitGrid",
    "Volume",
    "check_block",
    "copy_volume",
    "create_labels",
    "describe",
    "open_volume",
    "unit_digest",
]
