"""Arrays on a store that never passes on less than was asked for. Imports zarr: load it where it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zarr
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import LocalStore, WrapperStore

from overseg.errors import OversegError, VolumeError
from overseg.volume import direct
from overseg.volume.faults import Refusal, reason, storage_error
from overseg.volume.place import Place

_BLOSC_HEADER = 16


class CheckedStore(WrapperStore[Any]):  # type: ignore[misc]
    """Refuse stored objects that were cut short; hide old ones from a writer of whole units.

    zarr takes an empty shard, or an inner chunk beyond a shard's end, for one that was never written and
    gives background; and the blosc codec reads past the end of a short buffer. Both would be wrong labels
    without an error. And zarr reads a shard before it replaces it, even whole: slow, and impossible where the
    old one is damaged.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.blosc = False
        self.blind = False
        self.fence: Callable[[], None] | None = None

    async def set(self, key: str, value: Any) -> None:
        """Store an object. What the fence raises, at the last moment, is passed on, and nothing is stored."""
        if self.fence is None:
            await super().set(key, value)
        elif isinstance(self._store, LocalStore):
            path = str(self._store.root / key)
            await asyncio.to_thread(direct.save, path, value.as_buffer_like(), self.fence)
        else:
            await asyncio.to_thread(self.fence)
            await super().set(key, value)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """The bytes of `key`. Raises `Refusal`; ``ValueError`` where there are fewer than there must be."""
        is_metadata = key.endswith((".zarray", ".zattrs", "zarr.json"))
        if self.blind and not is_metadata:
            return None
        try:
            value = await super().get(key, prototype, byte_range)
        except Exception as error:
            raise Refusal(error) from error
        if value is None:
            return None
        wanted = 1
        if isinstance(byte_range, RangeByteRequest):
            wanted = byte_range.end - byte_range.start
        elif isinstance(byte_range, SuffixByteRequest):
            wanted = byte_range.suffix
        elif self.blosc and not is_metadata and len(value) >= _BLOSC_HEADER:
            wanted = int.from_bytes(value[12:_BLOSC_HEADER].to_bytes(), "little")
        if len(value) < wanted:
            raise ValueError(f"truncated: {len(value)} bytes where {wanted} are needed")
        return value


def instruct(array: Any, *, write: bool) -> Any:
    """Tell the store of an opened array what it holds and what for; the array itself."""
    names = [type(codec).__name__ for codec in array.compressors]
    array.store.blosc = array.shards is None and bool(names) and names[-1].startswith("Blosc")
    array.store.blind = write
    return array


def open_array(place: Place, *, write: bool = False) -> Any:
    """Open a zarr array, reading its own metadata and never a consolidated copy.

    Raises
    ------
    VolumeError
        If the metadata are damaged or use something that zarr cannot read.
    """
    try:
        store = CheckedStore(place.store(read_only=not write))
        return instruct(zarr.open_array(store, mode="r+" if write else "r"), write=write)
    except (OversegError, MemoryError):
        raise
    except Refusal as error:
        raise storage_error("cannot open the array", place.location, error.cause, place.secrets) from None
    except Exception as error:
        raise VolumeError(
            f"the array's metadata are damaged or not supported: {reason(error, place.secrets)}",
            where=place.location,
            remedy="check zarr.json (or .zarray) in that place, or restore it from a copy",
        ) from None
