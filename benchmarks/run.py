"""Measure speed and memory: ``python -m benchmarks.run [NAME ...] [--small]``, or ``make bench``.

Every benchmark writes benchmarks/results/NAME.json, and the tables of benchmarks/README.md are made from
these files. With ``--small`` a few minutes are enough for a look: results go to benchmarks/results/small and
to the screen, and the page stays as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.speed import machine, page


def main(words: list[str]) -> int:
    """Run the benchmarks named, or all; one that fails does not stop the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure speed and memory.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(page.TITLES)}; all by default"
    )
    parser.add_argument(
        "--small", action="store_true", help="a few minutes, for a look; the page stays as it is"
    )
    given = parser.parse_args(words)
    unknown = sorted(set(given.names) - set(page.TITLES))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; choose from {', '.join(page.TITLES)}")
    folder = page.RESULTS / "small" if given.small else page.RESULTS
    failed = [name for name in given.names or page.TITLES if not _one(name, given.small, folder)]
    if given.small:
        print(page.tables(page.results(folder)))
    else:
        page.rewrite()
    return 1 if failed else 0


def _one(name: str, small: bool, folder: Path) -> bool:
    print(f"{name} ...", file=sys.stderr, flush=True)
    begin = time.monotonic()
    try:
        result = measured(name, small)
    except Exception:
        traceback.print_exc()
        return False
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result | {"took": round(time.monotonic() - begin, 1)}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return True


def measured(name: str, small: bool) -> dict[str, Any]:
    """One benchmark's data, with the machine and the command that makes it."""
    described = machine.describe()
    with tempfile.TemporaryDirectory(prefix="overseg-bench-") as scratch:
        data = import_module(f"benchmarks.speed.{name}").measure(small, Path(scratch))
    command = f"python -m benchmarks.run {name}{' --small' if small else ''}"
    return {"name": name, "small": small, "command": command, "machine": described, "data": data}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
