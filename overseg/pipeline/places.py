"""Where things lie: the plan folder of a volume, and temporary homes for arrays that live in memory."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from overseg.errors import PlanError

_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def is_plan(path: str | Path) -> bool:
    """Whether a path is a plan folder, finished or not."""
    folder = Path(path)
    return (folder / "plan" / "plan.json").is_file() or (
        folder.name.endswith(".overseg") and (folder / "run").is_dir()
    )


def default_place(location: str) -> Path:
    """Folder for a volume's plan: beside the outermost Zarr folder it lies in; for URLs the working folder.

    Parameters
    ----------
    location : str
        Real path or URL of the volume.

    Returns
    -------
    Path
        ``NAME.overseg``; the path inside the Zarr folder is part of the name.
    """
    if "://" in location:
        return Path.cwd() / f"{_stem(Path(location).name)}.overseg"
    array = Path(location)
    root = array
    while any((root.parent / name).is_file() for name in _ZARR_FILES):
        root = root.parent
    inside = [part for part in array.relative_to(root).parts if part != "labels"]
    return root.parent / (".".join([_stem(root.name), *inside]) + ".overseg")


def _stem(name: str) -> str:
    return name.removesuffix(".zarr").removesuffix(".ome")


def next_name(place: Path) -> Path:
    """The folder after ``NAME.overseg`` is ``NAME-2.overseg``, then ``NAME-3.overseg``, and so on."""
    stem, dash, number = place.name.removesuffix(".overseg").rpartition("-")
    if not dash or not number.isdigit():
        stem, number = place.name.removesuffix(".overseg"), "1"
    return place.with_name(f"{stem}-{int(number) + 1}.overseg")


def next_place(place: Path) -> Path:
    """The first of these names that is free."""
    while place.exists():
        place = next_name(place)
    return place


def has_journal(place: Path) -> bool:
    """Whether a plan in this folder was ever applied: its journal must not be lost."""
    journal = place / "run" / "journal"
    return journal.is_dir() and any(journal.iterdir())


def check_place(place: Path) -> None:
    """Refuse a folder that a plan must not be written to.

    Raises
    ------
    PlanError
        If the folder holds something else, or a plan that was applied.
    """
    if has_journal(place):
        raise PlanError(
            "the plan in this folder was applied: its journal is what undo needs",
            where=str(place),
            remedy="give another folder with --out",
        )
    if place.exists() and not place.is_dir():
        raise PlanError("a file has this name", where=str(place), remedy="give another folder with --out")
    if (
        place.is_dir()
        and any(place.iterdir())
        and not ((place / "run").is_dir() or (place / "plan").is_dir())
    ):
        raise PlanError(
            "the folder for the plan holds other things",
            where=str(place),
            remedy="give a new folder with --out",
        )


def temporary_folder(owner: object) -> Path:
    """A folder that vanishes together with `owner`."""
    folder = Path(tempfile.mkdtemp(prefix="overseg-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder
