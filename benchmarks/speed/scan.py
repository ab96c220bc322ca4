"""What a scan costs beyond reading and decoding the same chunks with plain zarr, on one core."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed import tiles
from benchmarks.speed.timing import interleaved
from overseg.kernels.scan import scan_array
from overseg.pipeline.scan import plan_scan, scan_task
from overseg.pipeline.seams import plan_seams, seam_task
from overseg.settings import Settings
from overseg.volume import create_labels, unit_digest
from overseg.volume.create import fill

CHUNKS = ((64, 64, 64), (64, 256, 256))
_MEMORY = 1 << 30


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Seconds of each volume in each chunking."""
    repeats = 2 if small else 5
    rows = []
    for name, labels in _volumes(small, scratch):
        for chunks in CHUNKS:
            rows.append({"volume": name, "shape": list(labels.shape), "chunks": list(chunks)})
            rows[-1] |= _one(labels, chunks, scratch / f"{name}-{chunks[1]}".replace(" ", "-"), repeats)
    return {"rows": rows}


def _volumes(small: bool, scratch: Path) -> Iterator[tuple[str, npt.NDArray[np.uint32]]]:
    cortex = tiles.real("mouse_em_cortex/cortex_512").astype(np.uint32)
    yield "mouse EM cortex", cortex[:64, :256, :256] if small else cortex
    whole = tiles.block()
    step = np.uint32(whole.max() + 1)
    names = np.arange(8, dtype=np.uint32).reshape(2, 2, 2).repeat(256, 0).repeat(256, 1).repeat(256, 2)
    tiled = np.tile(whole, (2, 2, 2))
    tiled = np.where(tiled > 0, tiled + names * step, np.uint32(0))
    yield "plant meristem, tiled", tiled[:64, :256, :256] if small else tiled


def _one(
    labels: npt.NDArray[np.uint32], chunks: tuple[int, ...], place: Path, repeats: int
) -> dict[str, Any]:
    import zarr

    volume = create_labels(place.with_suffix(".zarr"), labels.shape, np.uint32, chunks)
    fill(volume, lambda box: np.ascontiguousarray(labels[box]))
    place.mkdir()
    plain = zarr.open_array(volume.location, mode="r")
    tasks = plan_scan(volume, Settings(), _MEMORY)
    seams = plan_seams(tasks)
    grid = volume.grid()
    units = [grid.slices(unit) for task in tasks for step in task.steps for unit in step]
    blocks = [np.ascontiguousarray(labels[unit]) for unit in units]

    def decode() -> None:
        for unit in units:
            plain[unit]  # let go of at once, as the scan does

    def scan() -> None:
        for task in tasks:
            scan_task(volume, task, str(place))
        for seam in seams:
            seam_task(seam, str(place))

    seconds = interleaved(
        {
            "decode": decode,
            "decode and scan": scan,
            "digest": lambda: [unit_digest(block) for block in blocks],
            "kernel": lambda: scan_array(labels, Settings().max_gap),
        },
        repeats,
    )
    return {"seconds": seconds, "units": len(units), "tasks": len(tasks), "bytes": labels.nbytes}


def ratio(row: dict[str, Any]) -> float:
    """Scan over decode, both medians of the same turns."""
    seconds = row["seconds"]
    return float(seconds["decode and scan"]["median"] / seconds["decode"]["median"] - 1)


def figures(data: dict[str, Any]) -> dict[str, float]:
    """The worst of all rows."""
    return {"scan": max(ratio(row) for row in data["rows"])}


def table(data: dict[str, Any]) -> list[str]:
    """One line per volume and chunking."""
    lines = [
        "| volume | chunks | zarr read + decode, MB/s | scan ÷ decode (range) | digest | kernel | "
        "tables, files, rest |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        seconds = row["seconds"]
        decode = seconds["decode"]["median"]
        pairs = zip(seconds["decode and scan"]["seconds"], seconds["decode"]["seconds"], strict=True)
        each = sorted(both / alone - 1 for both, alone in pairs)
        digest, kernel = (seconds[name]["median"] / decode for name in ("digest", "kernel"))
        lines.append(
            f"| {row['volume']} | {'×'.join(map(str, row['chunks']))} | {row['bytes'] / decode / 1e6:,.0f} | "
            f"{ratio(row):.2f} ({each[0]:.2f}–{each[-1]:.2f}) | {digest:.2f} | {kernel:.2f} | "
            f"{ratio(row) - digest - kernel:.2f} |"
        )
    return [
        *lines,
        "",
        "All columns but the third are parts of zarr's own read and decode time. The scan goes past zarr "
        "where chunks are plain, and so reads them in less than that: what it saves is in the last column, "
        "which can be below zero.",
    ]
