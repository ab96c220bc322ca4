"""How far a step is, on standard error: a bar on a terminal, a plain line now and then in a batch log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from overseg.cluster.executor import Progress

if TYPE_CHECKING:
    import rich.progress

_OFTEN, _SELDOM = 5.0, 30.0  # seconds between lines: at every tenth of the work, and in any case


@contextmanager
def open_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """A ``progress(step, done, total)`` for `Executor.run`, for the time of a ``with`` block.

    Parameters
    ----------
    stream : text file, optional
        Standard error when not given.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield Lines(stream)
        return
    bars = Bars(stream)
    try:
        yield bars
    finally:
        bars.stop()


class Bars:
    """A bar for each step, which stands still once the step is done, so that a question can be asked below.

    Parameters
    ----------
    stream : text file
        The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._step = ""
        self._bar: rich.progress.Progress | None = None

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show how far `step` is."""
        if self._bar is None or step != self._step:
            self.stop()
            self._step, self._bar = step, self._start(step)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        if done >= total:
            self.stop()

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def _start(self, step: str) -> rich.progress.Progress:
        from rich import progress
        from rich.console import Console

        bar = progress.Progress(
            progress.TextColumn("{task.description:<12}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(file=self._stream),
        )
        bar.add_task(step)
        bar.start()
        return bar


class Lines:
    """Plain lines for a log: about every tenth of a step, not too often, never too seldom.

    Parameters
    ----------
    stream : text file
        Where they go.
    clock : callable
        Seconds, ever growing.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._step = ""
        self._began = self._said = 0.0
        self._first = self._tenth = 0

    def __call__(self, step: str, done: int, total: int) -> None:
        """Note how far `step` is, and say so if it is time."""
        now = self._clock()
        tenth = 10 * done // max(1, total)
        if step != self._step or done == 0:
            self._step, self._began, self._said, self._first, self._tenth = step, now, now, done, tenth
        if total and done == total:
            self._say(f"{step}: {total:,} of {total:,} done in {_span(now - self._began)}")
            self._step = ""
            return
        waited = now - self._said
        if (tenth > self._tenth and waited >= _OFTEN) or waited >= _SELDOM:
            self._said, self._tenth = now, tenth
            left = ""
            if done > self._first:
                seconds = (now - self._began) * (total - done) / (done - self._first)
                left = f", about {_span(seconds)} left"
            self._say(f"{step}: {done:,} of {total:,} ({100 * done // total}%){left}")

    def _say(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
