"""Units that failed each time they were tried: put down with all it takes to look into them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from overseg.cluster.failures import Failure
from overseg.errors import OversegError, command_line

FILE = "quarantine.jsonl"


def put_down(home: Path | None, step: str, failed: Mapping[str, Failure], total: int) -> OversegError:
    """Write failed units to ``run/quarantine.jsonl``; the error that tells of them.

    Parameters
    ----------
    home : Path or None
        The plan folder's ``run``.
    step : str
    failed : mapping of str to Failure
        By unit; at least one.
    total : int
        Units of the step.

    Returns
    -------
    OversegError
        Of the first failure's kind.
    """
    first, failure = next(iter(failed.items()))
    where, remedy = failure.error.where or f"unit {first}", failure.error.remedy or ""
    if home is not None:
        lines = [_line(home, step, name, each) for name, each in failed.items()]
        with suppress(OSError):  # the disk may be what failed
            home.mkdir(parents=True, exist_ok=True)
            with (home / FILE).open("ab") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            where += f"\n          {len(failed)} of {total} units of step '{step}': {home / FILE}"
        remedy += f"\n          that unit alone: {command(home, step, first)}"
    error = failure.error
    return type(error)(error.what, where=where, remedy=remedy)


def command(home: Path, step: str, unit: str) -> str:
    """The command line that runs one unit of a plan's folder alone."""
    return command_line("again", home.parent, f"{step}/{unit}")


def _line(home: Path, step: str, unit: str, failure: Failure) -> dict[str, Any]:
    error = failure.error
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "unit": unit,
        "what": error.what,
        "where": error.where,
        "remedy": error.remedy,
        "worker": failure.worker,
        "traceback": failure.trace,
        "command": command(home, step, unit),
    }
