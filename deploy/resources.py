"""The table of sizes in deploy/README.md, from what the benchmarks recorded.

``python deploy/resources.py`` writes it anew; ``--check`` says whether it is what the records give.
These are the files of ``benchmarks/results`` from which ``benchmarks/README.md`` is made as well.
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "benchmarks" / "results"
PAGE = HERE / "README.md"
BEGIN, END = "<!-- table: python deploy/resources.py -->\n", "<!-- end of table -->"

#: Steps that run in the driver, so that more workers do not help them.
IN_DRIVER = ("decide", "plan")

#: What to ask for, for so many GiB of uint32 labels: jobs and cores of each.
ASKED = {1: (1, 2), 16: (1, 2), 128: (1, 16), 1024: (4, 16), 10240: (8, 16)}


@dataclass(frozen=True)
class Estimate:
    """What a volume takes.

    Attributes
    ----------
    gib : int
        Size of the labels, decoded.
    source : str
        Row of the growth benchmark.
    measured : bool
        Whether that row is of this size.
    jobs, cores : int
        What to ask for.
    seconds : float
        With as many workers as were measured.
    with_jobs : float
        With those asked for.
    driver, folder, journal : float
        Bytes.
    """

    gib: int
    source: str
    measured: bool
    jobs: int
    cores: int
    seconds: float
    with_jobs: float
    driver: float
    folder: float
    journal: float


def recorded(name: str) -> dict[str, Any]:
    """The data of a benchmark."""
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["data"]
    return data


def estimates(growth: dict[str, Any]) -> list[Estimate]:
    """A row for each size: the one measured, or the largest measured times the ratio of sizes.

    The driver's memory goes on from the largest in a straight line through it and the smallest.
    """
    rows = {row["logical"] >> 30: row for row in reversed(growth["rows"])}  # of two, the first
    most = max(rows)
    slope = driver_slope(growth)
    found = []
    for gib, (jobs, cores) in ASKED.items():
        row = rows.get(gib, rows[most])
        times = 1 if gib in rows else gib / most
        apart = sum(row["steps"][name] for name in IN_DRIVER)
        shared = sum(row["steps"].values()) - apart
        alone = row["seconds"] - shared
        workers = jobs * cores
        found.append(
            Estimate(
                gib=gib,
                source=row["size"],
                measured=gib in rows,
                jobs=jobs,
                cores=cores,
                seconds=row["seconds"] * times,
                with_jobs=times * (alone + shared * growth["workers"] / workers),
                driver=row["peak"]["driver"] + max(0, gib - most) * slope,
                folder=(row["bytes"]["plan"] + row["bytes"]["run"]) * times,
                journal=row["bytes"]["run/journal"] * times,
            )
        )
    return found


def driver_slope(growth: dict[str, Any]) -> float:
    """Bytes of the driver's memory for each GiB of labels."""
    large = max(growth["rows"], key=lambda row: row["logical"])
    small = min(growth["rows"], key=lambda row: row["logical"])
    return float(
        (large["peak"]["driver"] - small["peak"]["driver"]) * 2**30 / (large["logical"] - small["logical"])
    )


def driver_enough_for(growth: dict[str, Any], memory: int) -> float:
    """GiB of labels up to which a driver's memory does."""
    large = max(growth["rows"], key=lambda row: row["logical"])
    return float(large["logical"] / 2**30 + (memory - large["peak"]["driver"]) / driver_slope(growth))


def driver_memory() -> int:
    """Bytes that the driver's job asks for."""
    found = re.search(r"^#SBATCH --mem=(\d+)G$", (HERE / "slurm" / "driver.sbatch").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError("driver.sbatch asks for no memory in whole G")
    return int(found[1]) << 30


def worker_peak(growth: dict[str, Any], touching: dict[str, Any]) -> int:
    """The largest worker process of all, in bytes."""
    return int(max([touching["peak"]["worker"], *(row["peak"]["worker"] for row in growth["rows"])]))


def memory_per_core(peak: int) -> int:
    """GiB to ask for: twice what the largest worker took, in whole ones."""
    return math.ceil(2 * peak / 2**30)


def table() -> str:
    """What stands between the marks."""
    growth, touching = recorded("growth"), recorded("touching")
    peak = worker_peak(growth, touching)
    each = memory_per_core(peak)
    workers = growth["workers"]
    lines = [
        f"| labels | jobs × cores | memory of a core | time, {workers} workers | time, these jobs | "
        "driver's memory | plan folder | of it journal | from row |",
        "|---" * 9 + "|",
    ]
    for row in estimates(growth):
        near = "" if row.measured else "≈ "
        same = row.jobs * row.cores == workers
        lines.append(
            f"| {_volume(row.gib)} | {row.jobs} × {row.cores} | {each} GiB | {near}{_time(row.seconds)} | "
            f"{'the same' if same else '≈ ' + _time(row.with_jobs)} | {near}{_bytes(row.driver)} | "
            f"{near}{_bytes(row.folder)} | {near}{_bytes(row.journal)} | "
            f"Growth, {row.source}{'' if row.measured else ', extrapolated'} |"
        )
    both = touching["seconds"]["both"]["median"] / touching["seconds"]["correct"]["median"]
    speed = {row["workers"]: row["seconds"]["median"] for row in recorded("workers")["rows"]}
    stages = [row["default"] for row in recorded("stages")["rows"] if "not cell-shaped" not in row["volume"]]
    looked = sum(row["full"] for row in stages) / sum(sum(row.values()) for row in stages)
    enough, asked = driver_enough_for(growth, driver_memory()), driver_memory() >> 30
    start = max(row["start"] for row in growth["rows"])
    lines += [
        "",
        f"* Memory of a core is twice the largest worker measured ({peak / 2**20:,.0f} MiB: *Growth* and "
        "*Labels that touch*), in whole GiB.",
        f"* With `--kind both` the time is about {both:.0f} times as long (*Labels that touch*, 1 GiB).",
        "* *These jobs* takes for granted that all steps but `decide` and `plan`, which run in the driver, "
        "share out evenly among the workers. Only one and two workers were measured, on a machine of two "
        f"cores: two were {speed[1] / speed[2]:.2f} times as fast as one (*Workers*). Take this column as "
        "a lower bound.",
        f"* Start-up comes on top: {start:.1f} s at most on one machine (*Growth*), and the wait in a queue.",
        f"* `driver.sbatch` asks for {asked} GiB, enough up to about {enough / 1024:.1f} TiB.",
        f"* A card speeds up earth mover's distances alone, needed for {looked:.1%} of the candidates (*Who "
        "decides*, all cells). There is no figure for it: no card could be had (*GPU*).",
    ]
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _volume(gib: int) -> str:
    return f"{gib // 1024} TiB" if gib >= 1024 else f"{gib} GiB"


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{count:.0f} B"


def main() -> int:
    """Write the table, or check it."""
    now = PAGE.read_text(encoding="utf-8")
    should = page(now)
    if sys.argv[1:] == ["--check"]:
        return int(now != should)
    PAGE.write_text(should, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
