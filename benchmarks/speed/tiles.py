"""Volumes of any size from one real block of tissue: tiles of it, each with fresh ids and known splits.

The block is 256 layers of 256 x 256 voxels of a plant meristem (some 700 cells, hardly any background), of
which there are variants: whole, one cell in 50 split, one cell split. Tile k has the variant's labels plus
k strides, so that what became of each split can be told from the ids alone.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overseg.errors import InputError
from overseg.measure.simulation import simulate_splits
from overseg.measure.truth import read_truth, write_truth
from overseg.volume import Volume, create_labels, open_volume

Grid = tuple[int, int, int]

SIDE = 256
UNIT = (64, 128, 128)
TILE_BYTES = 4 * SIDE**3
#: The largest volume's tiles (z, y, x); smaller ones are its corner, so a tile's ids are the same in all.
LARGEST: Grid = (8, 16, 16)
SIZES: dict[str, Grid] = {
    "1 GiB": (4, 2, 2),
    "4 GiB": (4, 4, 4),
    "16 GiB": (4, 8, 8),
    "64 GiB": (8, 8, 16),
    "128 GiB": LARGEST,
}
SMALL: dict[str, Grid] = {"1/16 GiB": (1, 1, 1), "1/8 GiB": (1, 1, 2)}
#: One split per so many cells.
OFTEN, SELDOM = 50, 5000


def data_folder() -> Path:
    """The folder of labelled volumes: OVERSEG_DATA, or beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("OVERSEG_DATA", beside))


def real(name: str) -> npt.NDArray[Any]:
    """The labels of one real volume. Raises `InputError` if it is not there."""
    path = data_folder() / f"{name}.npz"
    if not path.exists():
        raise InputError(
            "a labelled volume to measure on is missing",
            where=str(path),
            remedy="set OVERSEG_DATA to the folder of labelled volumes",
        )
    with np.load(path) as archive:
        labels: npt.NDArray[Any] = archive["labels"]
    return labels


def block() -> npt.NDArray[np.uint32]:
    """The dense middle of the meristem, shape (256, 256, 256)."""
    labels = real("plant_meristem/meristem")[80 : 80 + SIDE, :SIDE, 80 : 80 + SIDE]
    return np.ascontiguousarray(labels, np.uint32)


@dataclass(frozen=True)
class Tiling:
    """How a volume is tiled.

    Attributes
    ----------
    folder : Path
        Of the variants.
    stride : int
        Ids of tile k are those of the variant plus k strides.
    cells : int
        Labels in a whole tile.
    one_per : int
        Cells per split, about.
    """

    folder: Path
    stride: int
    cells: int
    one_per: int

    def variant(self, tile: int) -> str:
        """Which variant a tile has."""
        if self.one_per == OFTEN:
            return "often"
        return "one" if tile % max(1, round(self.one_per / self.cells)) == 0 else "whole"


def prepare(folder: Path, one_per: int) -> Tiling:
    """Make the variants, once for all tiles."""
    whole = block()
    cells = len(np.unique(whole)) - 1
    stride = 0
    for name, rate in (("whole", 0.0), ("often", 1 / OFTEN), ("one", 1 / cells)):
        labels, truth = simulate_splits(whole, rate=rate, hard=0.0, seed=1)
        stride = max(stride, int(labels.max()) + 1)
        np.save(folder / f"{name}.npy", labels.astype(np.uint32))
        write_truth(truth, folder / f"{name}.truth")
    return Tiling(folder, stride, cells, one_per)


def tile_number(place: Grid) -> int:
    """Which tile lies there: the same in volumes of every size."""
    return int(np.ravel_multi_index(place, LARGEST))


def write(path: Path, grid: Grid, tiling: Tiling, processes: int = 2) -> Volume:
    """Write a volume of tiles as zarr does with its default codec, by several processes."""
    shape = tuple(n * SIDE for n in grid)
    volume = create_labels(path, shape, np.uint32, UNIT, voxel_size=(1.0, 1.0, 1.0))
    places = list(product(*(range(n) for n in grid)))
    jobs = [(str(path), place, tiling) for place in places]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for _ in pool.map(_write_tile, jobs, chunksize=8):
            pass
    return volume


def _write_tile(job: tuple[str, Grid, Tiling]) -> None:
    """One tile's chunks, encoded as zarr's default for this array would be (bytes, then Zstandard)."""
    from numcodecs import Zstd

    path, place, tiling = job
    number, codec = tile_number(place), Zstd(level=0)
    local = _variant(tiling.folder / f"{tiling.variant(number)}.npy")
    labels = np.where(local > 0, local + np.uint32(number * tiling.stride), np.uint32(0))
    per_tile = [SIDE // n for n in UNIT]
    for inner in np.ndindex(*per_tile):
        chunk = labels[tuple(slice(i * n, (i + 1) * n) for i, n in zip(inner, UNIT, strict=True))]
        key = [str(p * n + i) for p, n, i in zip(place, per_tile, inner, strict=True)]
        file = Path(path, "c", *key)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(codec.encode(np.ascontiguousarray(chunk)))


@lru_cache(3)
def _variant(path: Path) -> npt.NDArray[np.uint32]:
    labels: npt.NDArray[np.uint32] = np.load(path)
    return labels


def linked(source: Path, path: Path, grid: Grid) -> Volume:
    """The corner of a tiled volume as a volume of its own, by hard links.

    The store replaces a chunk by renaming a new file over it, so a link that is corrected leaves its source
    as it was: one set of files serves all sizes and repetitions.
    """
    shape = tuple(n * SIDE for n in grid)
    volume = create_labels(path, shape, np.uint32, UNIT, voxel_size=(1.0, 1.0, 1.0))
    for key in np.ndindex(*volume.grid().shape):
        names = [str(i) for i in key]
        file = path.joinpath("c", *names)
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(source.joinpath("c", *names), file)
    return open_volume(str(path))


def outcome(place: Path, grid: Grid, tiling: Tiling) -> dict[str, int]:
    """What became of the splits, from the ids in a plan's merges.

    Parameters
    ----------
    place : Path
        The plan folder.
    grid : tuple of int
        Tiles (z, y, x).
    tiling : Tiling

    Returns
    -------
    dict
        ``splits`` (of one cell into two labels), those ``joined``; ``merges``: ids that were renamed, of
        these ``same``: to another id of their own true cell.
    """
    import pyarrow.parquet as pq

    merges = pq.read_table(place / "plan" / "merges.parquet")
    old, new = (merges[name].to_numpy().astype(np.int64) for name in ("old", "new"))
    root = dict(zip(old.tolist(), new.tolist(), strict=True))
    found = {"splits": 0, "joined": 0, "merges": len(old), "same": 0}
    truths = {name: read_truth(tiling.folder / f"{name}.truth") for name in ("whole", "often", "one")}
    for number in (tile_number(where) for where in product(*(range(n) for n in grid))):
        for split in truths[tiling.variant(number)].splits:
            if split.kind != "hole":
                one, two = (number * tiling.stride + label for label in (split.upper, split.lower))
                found["splits"] += 1
                found["joined"] += root.get(one, one) == root.get(two, two)
    for tile, mine in _by_tile(old // tiling.stride):
        truth = truths[tiling.variant(tile)]
        start = tile * tiling.stride
        same = (new[mine] // tiling.stride == tile) & (
            truth.true_of(old[mine] - start) == truth.true_of(np.maximum(new[mine] - start, 0))
        )
        found["same"] += int(same.sum())
    return found


def _by_tile(tiles: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    order = np.argsort(tiles, kind="stable")
    names, starts = np.unique(tiles[order], return_index=True)
    yield from zip(names.tolist(), np.split(order, starts[1:]), strict=True)
