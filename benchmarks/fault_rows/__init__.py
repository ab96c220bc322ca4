"""What happens to runs, one module per kind of fault; each function does it some times and gives a row.

A row has ``fault``, ``times`` it was tried, ``landed``: how often it met a run at work, ``wrong``: volumes or
answers that were not as they should be (a run that shows one ends with an error, so it is 0 where there is
a row), ``result`` in words, and ``seconds``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_TESTS = str(Path(__file__).resolve().parents[2] / "tests")
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)


@dataclass
class Row:
    """One line of the page."""

    fault: str
    times: int = 0
    landed: int = 0
    wrong: int = 0
    result: str = ""
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 1)}


@contextmanager
def timed(fault: str) -> Iterator[Row]:
    """A row that knows how long it took."""
    row, begin = Row(fault), time.monotonic()
    yield row
    row.seconds = time.monotonic() - begin
