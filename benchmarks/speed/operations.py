"""How often the store is asked for a chunk and given one, when a volume is corrected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.speed import tiles


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Chunks read from and written to local stores in this process while the block runs."""
    from zarr.storage import LocalStore

    from overseg.volume import direct

    done: Counter[str] = Counter()
    reading, writing = LocalStore.get, LocalStore.set
    loading, saving = direct.load, direct.save

    def load(path: str) -> bytes:
        done["reads"] += 1
        return loading(path)

    def save(path: str, data: Any, fence: Any = None) -> None:
        done["writes"] += 1
        saving(path, data, fence)

    async def read(self: Any, key: str, *args: Any, **options: Any) -> Any:
        done["reads"] += _is_chunk(key)
        return await reading(self, key, *args, **options)

    async def write(self: Any, key: str, *args: Any, **options: Any) -> Any:
        done["writes"] += _is_chunk(key)
        return await writing(self, key, *args, **options)

    LocalStore.get, LocalStore.set = read, write  # type: ignore[method-assign]
    direct.load, direct.save = load, save  # plain chunks go past zarr
    try:
        yield done
    finally:
        LocalStore.get, LocalStore.set = reading, writing  # type: ignore[method-assign]
        direct.load, direct.save = loading, saving


def _is_chunk(key: str) -> bool:
    return key.startswith("c/") or "/c/" in key


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    """Plan and apply in this process, counted apart."""
    import overseg

    tiling = tiles.prepare(scratch, tiles.OFTEN)
    volume = tiles.write(scratch / "cells.zarr", (1, 1, 1) if small else (1, 2, 2), tiling)
    found: dict[str, Any] = {}
    with counting() as done:
        plan = overseg.plan(volume.location, workers=1)
        found["plan"] = dict(done)
        done.clear()
        overseg.apply(plan, workers=1)
        found["apply"] = dict(done)
    counts = plan.summary()
    return found | {name: counts[name] for name in ("units_total", "units_touched", "merged", "candidates")}


def figures(data: dict[str, Any]) -> dict[str, float]:
    """There is no aim for this one: a test asserts the counts."""
    return {}


def table(data: dict[str, Any]) -> list[str]:
    """Reads and writes of both halves."""
    units = {"plan": data["units_total"], "apply": data["units_touched"]}
    lines = ["| command | chunks concerned | read | written |", "|---|---|---|---|"]
    for name, concerned in units.items():
        word = "in the volume" if name == "plan" else "touched"
        done = data[name]
        lines.append(f"| {name} | {concerned} {word} | {done.get('reads', 0)} | {done.get('writes', 0)} |")
    return [
        *lines,
        "",
        f"{data['candidates']} candidates, {data['merged']} merged. Reads of `plan` beyond one per chunk are "
        "for second looks at undecided candidates and for restored masks.",
    ]
