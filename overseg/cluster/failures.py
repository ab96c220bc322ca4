"""One unit of work, in whatever process: its receipt, or a `Failure` that says what may be done about it."""

from __future__ import annotations

import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from overseg.cluster import limits
from overseg.cluster.receipts import Receipt
from overseg.errors import (
    ChangedError,
    InputError,
    LockedError,
    MissingPackageError,
    OversegError,
    ResourceError,
    StorageError,
    TaskError,
    more_memory,
)

Unit = Callable[..., Mapping[str, Any]]

#: What torch and CuPy, neither of which may be here, raise where a card's memory is full.
_OF_CARD = "OutOfMemoryError"
#: Trying again cannot help, and going on could harm or would only delay the answer.
_FINAL = (InputError, ChangedError, LockedError, MissingPackageError)


@dataclass(frozen=True)
class Failure:
    """A unit that did not come to its end.

    Attributes
    ----------
    error : OversegError
        What, where and the remedy.
    trace : str
        The traceback, where there is one.
    worker : str
        The process that it happened in.
    greedy : bool
        Memory ran out, or the worker process ended under it: a smaller unit may do.
    """

    error: OversegError
    trace: str = ""
    worker: str = ""
    greedy: bool = False

    @property
    def final(self) -> bool:
        """Whether the whole step ends here: the input is wrong, or the volume is somebody else's now."""
        return isinstance(self.error, _FINAL)


def call(step: str, name: str, fn: Unit, args: tuple[Any, ...]) -> Receipt | Failure:
    """Run one unit; what is not one of our errors becomes one."""
    begin = time.perf_counter()
    try:
        found = dict(fn(*args))
        found.setdefault("seconds", time.perf_counter() - begin)
        plain: Receipt = json.loads(
            json.dumps({**found, "peak_rss": limits.peak_rss(), "worker": this_worker()})
        )
        return plain
    except OversegError as error:
        return Failure(error.with_traceback(None), _trace(error), this_worker())
    except OSError as error:
        refused = StorageError(
            f"step '{step}' was refused by the system: {error.strerror or error}",
            where=f"unit {name}, {error.filename or _origin(error)}",
            remedy="see that the disk has room and may be written to, then run the same command again: "
            "what is done is kept",
        )
        return Failure(refused, _trace(error), this_worker())
    except Exception as error:
        of_card = type(error).__name__ == _OF_CARD
        if of_card or isinstance(error, MemoryError):
            short = ResourceError(
                f"no memory was left {'on the graphics card ' * of_card}for step '{step}'",
                where=f"unit {name}",
                remedy="run it again with --device cpu" if of_card else f"{more_memory()}; then run it again",
            )
            return Failure(short, _trace(error), this_worker(), greedy=True)
        broken = TaskError(
            f"step '{step}' failed: {type(error).__name__}: {error}",
            where=f"unit {name}, {_origin(error)}",
            remedy="what is done is kept: run the same command again; if it fails again, please report it",
        )
        return Failure(broken, _trace(error), this_worker())


def this_worker() -> str:
    """Machine and number of this process."""
    return f"{platform.node()}:{os.getpid()}"


def is_gone(worker: str) -> bool:
    """Whether a process of `this_worker` has surely ended: it was on this machine, and is not there."""
    host, _, pid = worker.rpartition(":")
    return host == platform.node() and not psutil.pid_exists(int(pid))


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _origin(error: Exception) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown line"
