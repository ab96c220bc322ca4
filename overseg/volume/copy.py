"""A byte-for-byte copy of a volume, which can be killed at any moment and run again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from overseg.errors import InputError
from overseg.volume.faults import storage
from overseg.volume.files import TEMPORARY, Files, is_leftover
from overseg.volume.nodes import require_node
from overseg.volume.ome import ome_attributes
from overseg.volume.open import COPYING, LABELS_HINT
from overseg.volume.place import Place
from overseg.volume.volume import Volume

Progress = Callable[[int, int], None]


def copy_volume(volume: Volume, destination: str | os.PathLike[str], progress: Progress | None = None) -> str:
    """Copy the volume's own array, or its label group with all levels and attributes.

    Keys, chunks, codecs and metadata stay as they are, to the byte; overseg's own state in ``.overseg/`` does
    not come along. An unfinished copy carries a hidden marker and is refused as a volume; the same call again
    completes it. Local files that were copied whole are not copied again (same size, same time of change);
    to and from URLs the copy starts afresh. Files are not fsynced.

    Parameters
    ----------
    volume : Volume
        The source.
    destination : str or Path
        Local path or URL; nothing may be there, unless it is an unfinished copy of the same source.
    progress : callable, optional
        Called with the numbers of objects done and to do.

    Returns
    -------
    str
        Location of the copy.

    Raises
    ------
    InputError
        If something else is at the destination, or one of the two lies inside the other.
    StorageError
        If the disk is full or a store refuses; run again after the remedy.
    """
    check_apart(volume, destination)
    source, target = volume.place, Place.of(destination)
    _claim(source, target)
    keys = [
        key for key in source.files.list() if ".overseg" not in key.split("/")
    ]  # nor what killed writes left
    # the node's own metadata come last: without them nobody takes the copy for a volume
    keys.sort(key=lambda key: "/" not in key)
    _remove_others(target, set(keys))
    for number, key in enumerate(keys):
        if source.local and target.local:
            _copy_file(f"{source.location}/{key}", f"{target.location}/{key}")
        else:
            _copy_object(source.files, target.files, key)
        if progress is not None:
            progress(number + 1, len(keys))
    _hint(volume, target)
    target.files.delete(COPYING)
    return target.location


def check_apart(volume: Volume, destination: str | os.PathLike[str]) -> None:
    """Refuse a copy inside its volume, or around it. Raises `InputError`."""
    source, target = volume.place, Place.of(destination)
    a, b = f"{source.location}/", f"{target.location}/"
    if a.startswith(b) or b.startswith(a):
        raise InputError(
            "the copy and the volume must not lie inside each other",
            where=target.location,
            remedy=f"choose a place outside {source.location}",
        )


def _claim(source: Place, target: Place) -> None:
    """Mark the destination as ours and unfinished, or refuse it."""
    document = json.dumps({"source": source.location}).encode()
    marker = target.files.read(COPYING)
    if marker == document:
        return
    if marker is not None:
        raise InputError(
            "an unfinished copy of another volume is in the way",
            where=target.location,
            remedy="choose another name, or remove that folder",
        )
    exists = os.path.lexists(target.location) if target.local else bool(target.files.list())
    if exists:
        raise InputError(
            "the output exists already",
            where=target.location,
            remedy="choose another name, or remove it first",
        )
    if not target.local:
        target.files.write(COPYING, document)
        return
    # folder and marker appear in one step, so that a run killed here finds either both or nothing
    path = Path(target.location)
    hidden = path.with_name(f"{TEMPORARY}{path.name}")
    with storage("cannot make the output folder", target.location):
        hidden.mkdir(parents=True, exist_ok=True)
        (hidden / COPYING).write_bytes(document)
        hidden.rename(path)


def _remove_others(target: Place, keys: set[str]) -> None:
    """Clear what an earlier, interrupted copy left and the source does not have."""
    for key in target.files.list():
        if key not in keys and key != COPYING:
            target.files.delete(key)
    if target.local:
        for left in filter(lambda path: is_leftover(path.name), Path(target.location).rglob("*")):
            left.unlink(missing_ok=True)


def _copy_file(source: str, target: str) -> None:
    with storage("cannot copy the file", target):
        facts = os.stat(source)
        try:
            there = os.stat(target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        else:
            if (there.st_size, there.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns):
                return
        temporary = os.path.join(os.path.dirname(target), f"{TEMPORARY}{os.path.basename(target)}")
        shutil.copyfile(source, temporary)
        os.utime(temporary, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        os.replace(temporary, target)


def _copy_object(source: Files, target: Files, key: str) -> None:
    data = source.read(key)
    if data is not None:
        target.write(key, data)


def _hint(volume: Volume, target: Place) -> None:
    """A label group known as such only by lying in ``labels`` would be taken for an image elsewhere."""
    node = require_node(volume.place)
    if not node.is_array and "image-label" not in ome_attributes(node.attributes):
        target.files.write(LABELS_HINT, f"labels copied from {volume.location}\n".encode())
