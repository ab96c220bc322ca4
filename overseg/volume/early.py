"""The first layers of a chunk, without decoding those after them.

Zstandard packs what it is given in order, in blocks of 128 KiB, and no block needs a later one. A frame that
is cut after the blocks that hold some layers, and says so in its head, decodes to just these. Imports
numcodecs, as `overseg.volume.direct` does.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.volume.direct import load

if TYPE_CHECKING:
    from overseg.volume.volume import Box, Volume

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK = 1 << 17  # what a block holds, unless it is the last one
_REPEATED, _PACKED = 1, 2
_SINGLE_SEGMENT_4 = 0xA0  # flags of a head: size of the content in 4 bytes, nothing else
_WORTH_IT = 0.9  # part of a chunk; of more than that all may as well be decoded


def read_early(volume: Volume, box: Box, t: int = 0) -> npt.NDArray[np.integer[Any]]:
    """`Volume.read` of level 0, for a box within one chunk: what lies in layers after it is not decoded.

    Parameters
    ----------
    volume : Volume
    box : tuple of slice
        (z, y, x), concrete bounds inside the volume.
    t : int
        Time point.

    Returns
    -------
    ndarray
        As `Volume.read`; also what that raises.
    """
    chunks, facts = volume._chunks(0), volume.levels[0]
    shape, spans = facts.chunk_shape[-3:], [(span.start, span.stop) for span in box]
    place = [start // n for (start, _), n in zip(spans, shape, strict=True)]
    inside = [slice(a - i * n, b - i * n) for (a, b), i, n in zip(spans, place, shape, strict=True)]
    is_one = all(0 <= span.start < span.stop <= n for span, n in zip(inside, shape, strict=True))
    stop = inside[0].stop
    if chunks is None or chunks.codec is None or not is_one or stop > _WORTH_IT * shape[0]:
        return volume.read(box, t)
    if chunks.codec.codec_id != "zstd" or math.prod(facts.chunk_shape) != math.prod(shape):
        return volume.read(box, t)
    leading = [t if axis == "t" else 0 for axis in volume.axes[:-3]]
    try:
        raw = load(chunks._path((*leading, *place)))
    except OSError:
        return volume.read(box, t)
    layer = math.prod(shape[1:]) * chunks.dtype.itemsize
    data = first_bytes(raw, stop * layer, shape[0] * layer, chunks.codec)
    if data is None:
        return volume.read(box, t)
    layers = data[: stop * layer].view(chunks.dtype).reshape(stop, *shape[1:])
    return layers[tuple(inside)].astype(facts.dtype, order="C", copy=False)


def first_bytes(raw: bytes, stop: int, whole: int, codec: Any) -> npt.NDArray[np.uint8] | None:
    """At least the first bytes of what a Zstandard frame holds.

    Parameters
    ----------
    raw : bytes
        The frame.
    stop, whole : int
        Bytes that are needed, and that the frame holds.
    codec : numcodecs codec

    Returns
    -------
    ndarray of uint8, or None
        None where the frame has no such beginning, or is damaged there, or is not needed in part.
    """
    blocks = -(-stop // _BLOCK)
    part = None if blocks * _BLOCK >= whole else cut(raw, blocks)
    if part is None:
        return None
    out = np.empty(blocks * _BLOCK, np.uint8)
    try:
        codec.decode(part, out)  # another size than the head says is an error: blocks may be shorter
    except Exception:  # whatever a codec says of what it cannot read
        return None
    return out


def cut(raw: bytes, blocks: int) -> bytes | None:
    """A Zstandard frame (RFC 8878, 3.1.1) of the first full blocks of another one; None if it has none.

    A checksum of the whole content is left out.
    """
    if raw[:4] != _MAGIC or len(raw) < 14 or raw[4] & 3:  # with a dictionary
        return None
    flag, single = raw[4] >> 6, raw[4] >> 5 & 1
    first = at = 6 - single + (single, 2, 4, 8)[flag]
    last = at
    for _ in range(blocks):
        if len(raw) < at + 3:
            return None
        head = int.from_bytes(raw[at : at + 3], "little")
        last, kind = at, head >> 1 & 3
        if kind > _PACKED or head & 1:  # of no kind that there is, or the frame's last one
            return None
        at += 3 + (1 if kind == _REPEATED else head >> 3)
    if len(raw) < at:
        return None
    start = struct.pack("<4sBI", _MAGIC, _SINGLE_SEGMENT_4, blocks * _BLOCK)
    return b"".join((start, raw[first:last], bytes([raw[last] | 1]), raw[last + 1 : at]))
