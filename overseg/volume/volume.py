"""A label volume at rest: its levels, its voxels, its write units."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError, OversegError, StorageError
from overseg.volume.faults import Refusal, corrupt, storage, storage_error
from overseg.volume.files import TEMPORARY, Files
from overseg.volume.level import Level, Triple
from overseg.volume.place import Place
from overseg.volume.units import UnitGrid, overlap

if TYPE_CHECKING:
    from overseg.volume.direct import Chunks

Box = tuple[slice, slice, slice]
LabelArray = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Volume:
    """A label volume that was looked at and found fit. Cheap to pickle: arrays open where they are used.

    Attributes
    ----------
    place : Place
        The array, or the OME-Zarr label group that holds the levels.
    name : str
        Names the plan folder.
    axes : tuple of str
        Of the stored arrays, ending in z, y, x.
    levels : tuple of Level
        Level 0 has the full resolution.
    zarr_format : int
        2 or 3.
    ome_version : str or None
        Of the OME-Zarr metadata; ``None`` for a bare array.
    voxel_size_known : bool
        Given by the caller or by the metadata; else it is (1, 1, 1).
    unit : str or None
        Of the voxel size, where the metadata say.
    part_of : str or None
        An OME-Zarr group of several levels of which this array is one: the others will not follow a change.
    unread : frozenset of int
        Units of level 0 that cannot be decoded: `read` gives `hole` for them, `read_unit` still raises.
    hole : int
        A label that is background.
    """

    place: Place
    name: str
    axes: tuple[str, ...]
    levels: tuple[Level, ...]
    zarr_format: int
    ome_version: str | None = None
    voxel_size_known: bool = False
    unit: str | None = None
    part_of: str | None = None
    unread: frozenset[int] = frozenset()
    hole: int = 0
    _arrays: dict[tuple[int, int, bool | str], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_arrays"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _arrays={})

    @property
    def location(self) -> str:
        """Real path, or URL without credentials."""
        return self.place.location

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) of level 0, in voxels."""
        z, y, x = self.levels[0].shape[-3:]
        return z, y, x

    @property
    def n_times(self) -> int:
        """Time points; 1 without a time axis."""
        return self.levels[0].shape[self.axes.index("t")] if "t" in self.axes else 1

    @property
    def voxel_size(self) -> Triple:
        """(z, y, x) of level 0."""
        return self.levels[0].scale

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Of level 0."""
        return self.levels[0].dtype

    def warnings(self) -> list[str]:
        """What a user should know before this volume is changed, one line each."""
        lines = []
        if not self.voxel_size_known:
            lines.append("The voxel size is not known: 1 1 1 is assumed. Give it with --voxel-size Z Y X.")
        if self.part_of is not None:
            lines.append(
                f"This is one level of {self.part_of}: its other levels will not follow. "
                "Give that path to correct them all."
            )
        return lines

    @property
    def files(self) -> Files:
        """Raw bytes inside the prefix of the level-0 array, where ``.overseg/`` lives."""
        return self.level_place(0).files

    def level_place(self, level: int) -> Place:
        """Where the array of a level lies."""
        return self.place.child(self.levels[level].path)

    def grid(self, level: int = 0) -> UnitGrid:
        """The write units of a level."""
        facts = self.levels[level]
        return UnitGrid(facts.shape, facts.unit_shape, self.axes)

    def read(self, box: Box, t: int = 0, level: int = 0) -> LabelArray:
        """Voxels of a box at one time point.

        Parameters
        ----------
        box : tuple of slice
            (z, y, x), concrete bounds inside the level, step 1.
        t : int
            Time point.
        level : int
            Pyramid level.

        Returns
        -------
        ndarray of the level's dtype
            (z, y, x), C-contiguous, native byte order.

        Raises
        ------
        VolumeError
            If the stored bytes are damaged; the error names the unit.
        StorageError
            If the store refuses to read.
        """
        facts = self.levels[level]
        spans = {"t": slice(t, t + 1), "c": slice(0, 1)}
        spans.update(zip("zyx", box, strict=True))
        where = tuple(spans[axis] for axis in self.axes)
        for span, size in zip(where, facts.shape, strict=True):
            if not 0 <= span.start <= span.stop <= size or span.step not in (None, 1):
                raise InputError(
                    f"the box {where} is not inside the array of shape {facts.shape}",
                    where=self.location,
                    remedy="give start and stop of every axis within the volume",
                )
        shape = tuple(span.stop - span.start for span in box)
        if 0 in shape:
            return np.empty(shape, facts.dtype)
        units = self.grid(level).over(box, t)
        with self._reading(level, units):
            holes = level == 0 and not self.unread.isdisjoint(units)
            data = self._around(where, units) if holes else self._put_together(level, where, units)
            if data is None:
                data = self._array(level)[where]
        return np.ascontiguousarray(np.asarray(data, facts.dtype).reshape(shape))

    def read_unit(self, unit: int, level: int = 0) -> LabelArray:
        """Voxels of one write unit in stored axes, clipped at the array's end. Raises as `read` does."""
        grid = self.grid(level)
        with self._reading(level, [unit]):
            data = self._chunk(level, unit)
            if data is None:
                data = self._array(level)[grid.slices(unit)]
        clipped = data[tuple(slice(n) for n in grid.extent(unit))]
        return np.ascontiguousarray(clipped, self.levels[level].dtype)

    def write_unit(
        self, unit: int, data: LabelArray, level: int = 0, *, fence: Callable[[], None] | None = None
    ) -> None:
        """Replace one whole write unit and touch nothing else.

        Parameters
        ----------
        unit : int
            C-order index in ``grid(level)``.
        data : ndarray of integers
            Stored axes, of exactly the unit's shape (clipped at the array's end) and the level's dtype.
        level : int
            Pyramid level.
        fence : callable, optional
            Called at the last moment; what it raises is passed on, and nothing is stored.

        Raises
        ------
        InputError
            If shape or dtype do not fit.
        StorageError
            If the store refuses: disk full, read-only, permission lost.
        """
        from overseg.volume.buffers import is_uniform, prototype

        grid, facts = self.grid(level), self.levels[level]
        if data.shape != grid.extent(unit) or data.dtype != facts.dtype:
            raise InputError(
                f"a write unit is {facts.dtype} of shape {grid.extent(unit)}, "
                f"not {data.dtype} of shape {data.shape}",
                where=self.unit_name(unit, level),
                remedy="write whole units only",
            )
        with storage("cannot write the unit", self.unit_name(unit, level), self.place.secrets):
            chunks = self._chunks(level)
            if chunks is not None and chunks.write(grid.coords(unit), data, fence):
                return
            array = self._array(level, write=True)
            array.store.fence = fence
            fill = array.metadata.fill_value
            # zarr drops what equals the fill value; a chunk that was there stays there
            keep = is_uniform(data, 0 if fill is None else fill) and self._exists(unit, level)
            array = array.with_config({"write_empty_chunks": keep})
            # zarr reads within a shard that the array's end cuts, and wants its own buffers for that
            own = array.shards is None or data.shape == facts.unit_shape
            array.set_basic_selection(grid.slices(unit), data, prototype=prototype() if own else None)

    def unit_stamp(self, unit: int, level: int = 0) -> str | None:
        """A cheap mark of a unit's stored bytes, to see whether somebody rewrote it since.

        Returns
        -------
        str or None
            Size and time of change; ``"absent"`` for a unit without stored bytes; ``None`` where the store
            cannot say.
        """
        return self.level_place(level).files.stamp(self.unit_key(unit, level))

    def unit_key(self, unit: int, level: int = 0) -> str:
        """Key of a unit's stored bytes below the level's array."""
        return str(self._array(level).metadata.encode_chunk_key(self.grid(level).coords(unit)))

    def codecs(self, level: int = 0) -> list[str]:
        """Names of the filters and compressors that a chunk goes through."""
        array = self._array(level)
        return [_codec_name(codec) for codec in (*array.filters, *array.compressors)]

    def unit_name(self, unit: int, level: int = 0) -> str:
        """A unit as errors name it: array, unit and voxels."""
        spans = ", ".join(
            f"{axis} {span.start}:{span.stop}"
            for axis, span in zip(self.axes, self.grid(level).slices(unit), strict=True)
        )
        kind = "shard" if self.levels[level].sharded else "chunk"
        return (
            f"{self.level_place(level).location}, unit {unit} ({kind} {self.unit_key(unit, level)}, {spans})"
        )

    def check_writable(self) -> None:
        """Prove that the group and every level can be written, with a probe file that is removed again.

        Raises
        ------
        StorageError
            If the store is read-only, or permission is missing.
        """
        places = [self.place, *(self.level_place(level) for level in range(len(self.levels)))]
        for place in dict.fromkeys(places):
            if place.local and not os.access(place.location, os.W_OK | os.X_OK):
                raise storage_error(
                    "the volume cannot be written", place.location, PermissionError(13, "Permission denied")
                )
            probe = f"{TEMPORARY}probe-{uuid.uuid4().hex}"
            try:
                place.files.write(probe, b"")
                place.files.delete(probe)
            except StorageError as error:
                raise StorageError(
                    f"the volume cannot be written: {error.what}", where=place.location, remedy=error.remedy
                ) from None

    def _exists(self, unit: int, level: int) -> bool:
        return self.level_place(level).files.stamp(self.unit_key(unit, level)) != "absent"

    def _array(self, level: int, *, write: bool = False) -> Any:
        """The zarr array of a level, opened once per process."""
        key = (os.getpid(), level, write)
        if key not in self._arrays:
            from overseg.volume.checked import open_array

            self._arrays[key] = open_array(self.level_place(level), write=write)
        return self._arrays[key]

    def _chunks(self, level: int) -> Chunks | None:
        """The level's chunks, if they can be read and written without zarr."""
        key = (os.getpid(), level, "chunks")
        if key not in self._arrays:
            from overseg.volume.direct import plain_chunks

            place = self.level_place(level)
            self._arrays[key] = plain_chunks(self._array(level), place.location) if place.local else None
        chunks: Chunks | None = self._arrays[key]
        return chunks

    def _chunk(self, level: int, unit: int) -> LabelArray | None:
        """A unit by whatever is faster than zarr; None if zarr must read it."""
        grid, chunks = self.grid(level), self._chunks(level)
        if chunks is not None:
            return chunks.read(grid.coords(unit))
        shards = self._shards(level)
        try:
            return None if shards is None else np.asarray(shards[grid.slices(unit)])
        except Exception:  # zarr will say what is wrong
            return None

    def _shards(self, level: int) -> Any:
        """The level's array as a compiled codec pipeline reads it, where there is one and it has shards."""
        key = (os.getpid(), level, "shards")
        if key not in self._arrays:
            from overseg.volume.direct import through_zarrs

            place, some = self.level_place(level), self.levels[level].sharded
            self._arrays[key] = (
                through_zarrs(place.location, self._array(level)) if place.local and some else None
            )
        return self._arrays[key]

    def _put_together(self, level: int, where: tuple[slice, ...], units: list[int]) -> LabelArray | None:
        """A part of the stored array from its chunks; None if zarr must have a look at one."""
        if self._chunks(level) is None:
            return None  # of a shard, only those of its chunks are decoded that are needed
        grid = self.grid(level)
        out = np.empty([span.stop - span.start for span in where], self.levels[level].dtype)
        for unit in units:
            chunk = self._chunk(level, unit)
            if chunk is None:
                return None
            into, of = overlap(where, grid.slices(unit))
            out[into] = chunk[of]
        return out

    def _around(self, where: tuple[slice, ...], units: list[int]) -> LabelArray:
        """A part of level 0 with background for what cannot be decoded."""
        out = np.full([span.stop - span.start for span in where], self.hole, self.dtype)
        for unit in set(units) - self.unread:
            into, _ = overlap(where, self.grid().slices(unit))
            starts = [(span.start, part) for span, part in zip(where, into, strict=True)]
            part = tuple(slice(start + each.start, start + each.stop) for start, each in starts)
            with self._reading(0, [unit]):
                data = self._put_together(0, part, [unit])
                out[into] = self._array(0)[part] if data is None else data
        return out

    @contextmanager
    def _reading(self, level: int, units: list[int]) -> Iterator[None]:
        """Name the unit that fails, when a read fails."""
        try:
            yield
        except (OversegError, MemoryError):
            raise
        except Exception as error:
            unit, cause = self._culprit(level, units, error)
            where, secrets = self.unit_name(unit, level), self.place.secrets
            if isinstance(cause, Refusal):
                raise storage_error("cannot read voxels", where, cause.cause, secrets) from None
            raise corrupt(where, cause, secrets) from None

    def _culprit(self, level: int, units: list[int], error: Exception) -> tuple[int, Exception]:
        """The first of several units that cannot be read, and why."""
        if len(units) > 1:
            for unit in units:
                try:
                    self._array(level)[self.grid(level).slices(unit)]
                except Exception as cause:
                    return unit, cause
        return units[0], error


def _codec_name(codec: Any) -> str:
    """A codec as zarr's metadata name it: v2 codecs have an id, v3 codecs a name in their JSON."""
    name = getattr(codec, "codec_id", None)
    return str(name if name else codec.to_dict()["name"])
