"""What happens to runs, one module per kind of fault, each with ``rows(seed, seconds)``, which gives dicts.

``seed`` decides moments and victims; after about ``seconds`` no further trial is begun. A row is a dict:
``fault``; ``times`` it was tried; ``landed``, how often it met a run at work; ``wrong``, volumes or answers
that were not as they should be (the first ends the rows here with an error, so that it is 0 where there is a
row); ``result`` in words; ``seconds`` it took; ``command`` that makes it. `benchmarks.faults` finds every
module here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_TESTS = str(Path(__file__).resolve().parents[2] / "tests")
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)

Saying = Callable[[str], None]


@dataclass
class Row:
    """One line of the page."""

    fault: str
    times: int = 0
    landed: int = 0
    wrong: int = 0
    result: str = ""
    seconds: float = 0.0
    command: str = ""

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds)}


@contextmanager
def timed(fault: str, command: str = "") -> Iterator[Row]:
    """A row that knows how long it took."""
    row, begin = Row(fault, command=command), time.monotonic()
    yield row
    row.seconds = time.monotonic() - begin
    print(f"{row.fault}: {row.landed} in {row.seconds:.0f} s; {row.result}", flush=True)


class Clock:
    """Shares out the seconds of a module.

    Parameters
    ----------
    seconds : float
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, share: float = 1.0) -> Callable[[], bool]:
        """A question, for one row: may another trial begin in this share of what is left now?"""
        now = time.monotonic()
        end = now + share * (self._end - now)
        return lambda: time.monotonic() < end
