"""Who changed these labels: one small attribute beside them, and the metadata files that repeat it.

The attribute is ``overseg``, keyed by plan hash, in the attributes of the bare array or of the OME-Zarr label
group. Where a group above carries consolidated metadata, its copy of those attributes is brought up to date.
The bytes of every file are journalled before it is changed, so that an undo gives them back as they were.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from overseg.errors import VolumeError
from overseg.pipeline.journal import Meta, Segment

if TYPE_CHECKING:
    from overseg.volume import Files, Volume
    from overseg.volume.lock import Lock

KEY = "overseg"
_LEVELS_ABOVE = 16  # groups above the volume that are looked at
Edit = Callable[[dict[str, Any]], None]


def write_provenance(
    volume: Volume, plan_hash: str, note: dict[str, Any], metas: list[Meta], segment: Segment, lock: Lock
) -> None:
    """Add a plan's note to the attributes, and refresh consolidated metadata that repeat them.

    Parameters
    ----------
    volume : Volume
    plan_hash : str
    note : dict
        What the attribute says of the plan; JSON values.
    metas : list of Meta
        What an earlier, interrupted attempt journalled.
    segment : Segment
        Of the journal.
    lock : Lock

    Raises
    ------
    StorageError
        If the store or the journal refuses.
    VolumeError
        If a metadata file is damaged.
    """

    def add(attributes: dict[str, Any]) -> None:
        attributes[KEY] = {**attributes.get(KEY, {}), plan_hash: note}

    for path, edit in _documents(volume, add):
        files, key = _resolve(volume, path)
        before = files.read(key)
        if any(meta.path == path and meta.after == before for meta in metas):
            continue  # written before the interruption
        planned = [meta.after for meta in metas if meta.path == path and meta.before == before]
        after = planned[-1] if planned else _edited(before, edit, f"{volume.location}, {path}")
        if after is None or after == before:
            continue
        if not planned:
            segment.meta(Meta(path, before, after))
        files.write(key, after, lock.check)


def remove_provenance(volume: Volume, plan_hash: str, metas: list[Meta], lock: Lock) -> None:
    """Give every metadata file its bytes back; where someone changed one since, remove only the plan's note.

    Parameters
    ----------
    volume : Volume
    plan_hash : str
    metas : list of Meta
        Of the journal.
    lock : Lock
    """

    def remove(attributes: dict[str, Any]) -> None:
        notes = attributes.get(KEY)
        if isinstance(notes, dict) and notes.pop(plan_hash, None) is not None and not notes:
            del attributes[KEY]

    edits = dict(_documents(volume, remove))
    for path in {**edits, **{meta.path: None for meta in metas}}:
        files, key = _resolve(volume, path)
        now = files.read(key)
        if now is None:
            continue
        known = [meta.before for meta in metas if meta.path == path and meta.after == now]
        target = known[-1] if known else now
        if target is not None and path in edits:
            # Nothing of ours is in bytes from before the plan, unless somebody edited them in between.
            target = _edited(target, edits[path], f"{volume.location}, {path}")
        if target == now:
            continue
        if target is None:
            lock.check()
            files.delete(key)
        else:
            files.write(key, target, lock.check)


def _documents(volume: Volume, change: Edit) -> Iterator[tuple[str, Edit]]:
    """Metadata files that hold the volume's attributes, nearest first, and how to change each.

    A path is relative to the prefix of the level-0 array, which is where the journal must lead back to.
    """
    up = "../" * len([part for part in volume.levels[0].path.split("/") if part])
    if volume.zarr_format == 3:
        yield f"{up}zarr.json", lambda document: _within(document, "attributes", change)
    else:
        yield f"{up}.zattrs", change
        yield f"{up}.zmetadata", _in_consolidated_v2("", change)
    place, inside = volume.place, ""
    for _ in range(_LEVELS_ABOVE):
        inside = f"{place.name}/{inside}" if inside else place.name
        above = place.parent()
        if above is None or all(above.files.read(key) is None for key in ("zarr.json", ".zgroup")):
            return
        place, up = above, f"../{up}"
        if volume.zarr_format == 3:
            yield f"{up}zarr.json", _in_consolidated_v3(inside, change)
        else:
            yield f"{up}.zmetadata", _in_consolidated_v2(inside, change)


def _in_consolidated_v3(inside: str, change: Edit) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        entries = (document.get("consolidated_metadata") or {}).get("metadata") or {}
        if inside in entries:
            _within(entries[inside], "attributes", change)

    return edit


def _in_consolidated_v2(inside: str, change: Edit) -> Edit:
    start = f"{inside}/" if inside else ""

    def edit(document: dict[str, Any]) -> None:
        entries = document.get("metadata") or {}
        if f"{start}.zarray" in entries or f"{start}.zgroup" in entries:
            _within(entries, f"{start}.zattrs", change)

    return edit


def _within(holder: dict[str, Any], key: str, change: Edit) -> None:
    """Change the attributes under a key; a key that was not there and stays empty is not made."""
    attributes = holder.get(key, {})
    change(attributes)
    if attributes or key in holder:
        holder[key] = attributes


def _edited(data: bytes | None, edit: Edit, where: str) -> bytes | None:
    """The bytes of a JSON document after a change, in its own style; ``None`` if none is needed."""
    if data is None and not where.endswith(".zattrs"):
        return None
    try:
        document = json.loads(data) if data else {}
        before = json.dumps(document)
        edit(document)
    except (ValueError, AttributeError, TypeError) as error:
        raise VolumeError(
            f"a metadata file is damaged: {error}",
            where=where,
            remedy="restore that file from a copy, then run the same command again",
        ) from None
    if json.dumps(document) == before:
        return data
    return json.dumps(document, indent=_indent(data), ensure_ascii=_is_ascii(data)).encode()


def _indent(data: bytes | None) -> int | None:
    lines = (data or b"{\n    }").split(b"\n")
    return len(lines[1]) - len(lines[1].lstrip()) if len(lines) > 1 else None


def _is_ascii(data: bytes | None) -> bool:
    return data is None or data.isascii()


def _resolve(volume: Volume, path: str) -> tuple[Files, str]:
    """Files and key of a journalled path."""
    place = volume.level_place(0)
    *steps, key = path.split("/")
    for _ in steps:
        place = place.parent() or place
    return place.files, key
