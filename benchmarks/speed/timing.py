"""Seconds of several ways to do one thing, taken in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Clock = Callable[[], float]


def interleaved(
    ways: Mapping[str, Callable[[], object]], repeats: int, clock: Clock = time.process_time
) -> dict[str, dict[str, Any]]:
    """Seconds of each way, taken in turns (A B A B) after one turn that does not count.

    Parameters
    ----------
    ways : mapping of str to callable
        What to do, by name.
    repeats : int
        Turns that count.
    clock : callable
        Seconds; by default the processor's, over all threads of this process, which does not see what else
        the machine is doing.

    Returns
    -------
    dict
        `spread` of each way's seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            begin = clock()
            way()
            if turn:
                seconds[name].append(clock() - begin)
    return {name: spread(each) for name, each in seconds.items()}


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Every second, and median, least and most."""
    found = [round(each, 6) for each in seconds]
    return {"median": median(found), "min": min(found), "max": max(found), "seconds": found}
