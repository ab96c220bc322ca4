"""Chunks of a local array, straight from file to codec and back: half of zarr's own time goes on the way.

What is read and stored is the same to the byte. An array that is anything but plain (shards, filters, another
memory or byte order, a URL) is left to zarr, and so is a chunk that is anything but sound: zarr's own errors
are the ones that users see. Imports numcodecs: load it where it is used.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import get_codec

from overseg.volume.buffers import is_uniform

_CODECS = ("zstd", "gzip", "blosc")
_BLOSC_HEADER = 16
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Chunks:
    """How the chunks of one array are stored.

    Attributes
    ----------
    root : str
        The array's folder.
    shape : tuple of int
        Of a chunk as it is stored, also at the array's end.
    dtype : dtype
        In the machine's byte order, as on disk.
    fill : int
        What a chunk without a file holds.
    codec : object or None
        With numcodecs' `encode` and `decode`; None for plain voxels.
    zarr_format : int
    key_of : callable
        The key of a chunk from its place in the grid.
    """

    root: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: int
    codec: Any
    zarr_format: int
    key_of: Callable[[tuple[int, ...]], str]

    def read(self, place: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """A whole chunk, as its own array; None if zarr must have a look at it."""
        try:
            raw = load(self._path(place))
        except (FileNotFoundError, NotADirectoryError):
            return np.full(self.shape, self.fill, self.dtype)
        except OSError:
            return None
        size = math.prod(self.shape) * self.dtype.itemsize
        out = np.empty(self.shape, self.dtype)
        try:
            if self.codec is None and len(raw) == size:
                out.reshape(-1).view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
            elif self.codec is not None and _decoded_size(self.codec.codec_id, raw) == size:
                self.codec.decode(raw, out)
            else:
                return None
        except Exception:  # whatever a codec says of damaged bytes
            return None
        return out

    def write(
        self, place: tuple[int, ...], data: npt.NDArray[Any], fence: Callable[[], None] | None = None
    ) -> bool:
        """Store a chunk, clipped at the array's end. False, and nothing done, if zarr must do it."""
        # An empty chunk may have to vanish; and of blosc's settings zarr 3 passes some on, and finds others.
        if is_uniform(data, self.fill) or (self.zarr_format == 3 and _id(self.codec) == "blosc"):
            return False
        whole = np.ascontiguousarray(data, self.dtype)
        if data.shape != self.shape:
            whole = np.full(self.shape, self.fill, self.dtype)
            whole[tuple(slice(n) for n in data.shape)] = data
        plain = whole.reshape(-1).view(np.uint8) if self.zarr_format == 3 else whole
        save(self._path(place), plain.data if self.codec is None else self.codec.encode(plain), fence)
        return True

    def _path(self, place: tuple[int, ...]) -> str:
        return os.path.join(self.root, *self.key_of(place).split("/"))


def plain_chunks(array: Any, root: str) -> Chunks | None:
    """How the chunks of an opened zarr array lie in a local folder; None if they are not plain.

    Parameters
    ----------
    array : zarr.Array
    root : str
        The array's folder.
    """
    meta = array.metadata
    if array.shards is not None or array.filters or sys.byteorder != "little":
        return None
    found = _of_format_3(meta.codecs) if meta.zarr_format == 3 else _of_format_2(meta)
    if found is None or array.dtype.byteorder == ">":
        return None
    fill = 0 if meta.fill_value is None else int(meta.fill_value)
    kind = array.dtype.newbyteorder("=")
    return Chunks(root, array.chunks, kind, fill, found[0], meta.zarr_format, meta.encode_chunk_key)


def _of_format_3(codecs: Any) -> tuple[Any] | None:
    """The one compressor, if any, of voxels that are stored as they lie in memory."""
    named = [codec.to_dict() for codec in codecs]
    order = named[0].get("configuration", {}).get("endian", "little")
    if named[0]["name"] != "bytes" or order != "little" or len(named) > 2:
        return None
    if len(named) == 1:
        return (None,)
    name, settings = named[1]["name"], named[1]["configuration"]
    if name not in _CODECS:
        return None
    return (get_codec({"id": name} | ({} if name == "blosc" else settings)),)


def _of_format_2(meta: Any) -> tuple[Any] | None:
    if meta.order != "C" or _id(meta.compressor) not in (None, *_CODECS):
        return None
    return (meta.compressor,)


def _id(codec: Any) -> str | None:
    return None if codec is None else str(codec.codec_id)


def _decoded_size(codec: str, raw: bytes) -> int | None:
    """Bytes that a compressed chunk says it holds; None where it does not say, or is cut short."""
    if codec == "blosc":
        whole = len(raw) >= _BLOSC_HEADER and int.from_bytes(raw[12:16], "little") == len(raw)
        return int.from_bytes(raw[4:8], "little") if whole else None
    if codec == "gzip":  # a stream of one member ends with it
        return int.from_bytes(raw[-4:], "little") if len(raw) > 18 else None
    if raw[:4] != _ZSTD_MAGIC or len(raw) < 14:
        return None
    # RFC 8878, 3.1.1.1: a descriptor, then perhaps a window and a dictionary, then the size of the content.
    flag, single, dictionary = raw[4] >> 6, raw[4] >> 5 & 1, raw[4] & 3
    at = 5 + (1 - single) + (0, 1, 2, 4)[dictionary]
    width = (single, 2, 4, 8)[flag]
    size = int.from_bytes(raw[at : at + width], "little") + (256 if width == 2 else 0)
    return size if width else None


def through_zarrs(root: str, array: Any) -> Any | None:
    """The array as the compiled codec pipeline of the package `zarrs` reads it; None without it.

    It reads a shard in two thirds of zarr's time. It does not know `CheckedStore`, so it only has the first
    word: what it cannot read is read again. Where the index comes first, it takes chunks that were cut off
    for zeros: such shards are not for it.
    """
    shards = array.metadata.codecs[0].to_dict().get("configuration", {})
    if find_spec("zarrs") is None or shards.get("index_location") != "end":
        return None
    import zarr
    from zarr.storage import LocalStore

    with zarr.config.set({"codec_pipeline": {"path": "zarrs.ZarrsCodecPipeline", "strict": True}}):
        try:
            return zarr.open_array(LocalStore(root, read_only=True), mode="r")
        except Exception:  # a codec that it does not have
            return None


def load(path: str) -> bytes:
    """All bytes of a file."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def save(path: str, data: Any, fence: Callable[[], None] | None = None) -> None:
    """Replace a file: a reader sees all of the old or all of the new; killed writes leave what zarr's do.

    `fence` is called when the new bytes lie beside the old, and raises if they may not take their place. Who
    takes a lock over removes such files first and looks at the old afterwards: so a process that stood still
    after its look at the lock, for however long, finds its file gone, and changes nothing.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.partial"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(temporary, "wb", buffering=0) as file:
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]
        if fence is not None:
            fence()
        os.replace(temporary, path)
    except Exception as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if fence is not None and isinstance(error, FileNotFoundError):
            fence()  # it knows who has removed it
        raise
