"""One run in a process of its own: ``python -m benchmarks.speed.drive ACTION VOLUME WORKERS``.

The action is ``correct``, ``both``, ``plan`` or ``decode``. Writes one line of JSON: what it took, by step,
once the workers were there and had loaded what they need.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from overseg.cluster import open_executor
from overseg.settings import RunSettings, Settings
from overseg.volume import open_volume

#: Bytes that each worker is given: what it must do with, however large the volume.
MEMORY = 1 << 30


def main(words: list[str]) -> None:
    """Do it and say what it took."""
    action, path, workers = words[0], words[1], int(words[2])
    run = RunSettings(workers=workers, memory=MEMORY)
    begin = time.perf_counter()
    with open_executor(run, tasks_hint=1 << 20) as executor:
        _all(executor.run("warm", warm, {str(i): (i,) for i in range(2 * workers)}))
        started = time.perf_counter()
        said = decode(path, executor) if action == "decode" else repair(action, path, run, executor)
        said["seconds"] = round(time.perf_counter() - started, 4)
    said["start"] = round(started - begin, 4)
    said["cpu"] = round(_cpu(), 4)
    said["peak_rss"] = executor.peak_rss_bytes
    sys.stdout.write(json.dumps(said) + "\n")


def warm(number: int) -> dict[str, Any]:
    """Load everything that a worker will need, on a few voxels."""
    from overseg.warm import main as load

    load()
    return {"number": number}


def repair(action: str, path: str, run: RunSettings, executor: Any) -> dict[str, Any]:
    """Plan, and but for ``plan`` apply, with what both tell: `overseg.correct` on workers that are there.

    ``both`` looks for gaps and for labels that touch.
    """
    from overseg.pipeline.apply import apply
    from overseg.pipeline.plan import make_plan
    from overseg.pipeline.planfile import write_plan

    tasks: dict[str, int] = {}

    def progress(step: str, done: int, total: int) -> None:
        tasks[step] = max(tasks.get(step, 0), total)

    place = Path(path).with_suffix(".overseg")
    settings = Settings(kind="both" if action == "both" else "gap")
    data = make_plan(open_volume(path), settings, executor, place, progress=progress)
    write_plan(place, data)
    steps, counts, rewritten = dict(data.seconds), data.counts, 0
    del data  # as `overseg.correct` does
    if action != "plan":
        begin = time.perf_counter()
        rewritten = apply(place, run, executor, progress=progress).units_rewritten
        steps["apply"] = round(time.perf_counter() - begin, 4)
    return {
        "steps": steps,
        "tasks": tasks,
        "counts": {name: value for name, value in counts.items() if name != "ids_lost"},
        "rewritten": rewritten,
        "place": str(place),
        "bytes": {name: folder_bytes(place / name) for name in ("plan", "run/scan", "run/journal", "run")},
        "rows": _rows(place / "run" / "receipts" / "scan.jsonl"),
    }


def decode(path: str, executor: Any) -> dict[str, Any]:
    """Zarr's own reading and decoding of every chunk, by as many processes."""
    grid = open_volume(path).grid()
    slices = [[(s.start, s.stop) for s in grid.slices(unit)] for unit in range(grid.n)]
    batch = max(1, min(64, grid.n // (4 * executor.workers)))
    units = {str(i): (path, slices[i : i + batch]) for i in range(0, grid.n, batch)}
    _all(executor.run("decode", read_units, units))
    return {"tasks": {"decode": len(units)}}


def read_units(path: str, units: list[list[tuple[int, int]]]) -> dict[str, Any]:
    """Read some units with plain zarr."""
    import zarr

    array = zarr.open_array(path, mode="r")
    voxels = sum(array[tuple(slice(*span) for span in unit)].size for unit in units)
    return {"voxels": int(voxels)}


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _rows(receipts: Path) -> int:
    """Rows of layers that the scan tasks wrote."""
    lines = receipts.read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["receipt"].get("rows", 0) for line in lines)


def _all(results: Iterable[Any]) -> None:
    for _ in results:
        pass


def _cpu() -> float:
    """Seconds of processor time of this process and of those it has waited for, its workers."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main(sys.argv[1:])
