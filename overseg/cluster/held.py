"""What a command as a whole has to do with the jobs of a batch system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from overseg.cluster.executor import open_executor
from overseg.errors import InputError
from overseg.settings import RunSettings


@contextmanager
def jobs_for_both(run: RunSettings, client: Any, home: Path) -> Iterator[Any]:
    """One executor for planning and applying alike, where jobs may have waited long in a queue.

    Parameters
    ----------
    run : RunSettings
    client : optional
        Given by the caller.
    home : Path
        The ``run`` folder of the plan.

    Yields
    ------
    Executor
        Or the client, where no batch system is asked for.
    """
    if client is None and run.cluster is not None and run.cluster.is_batch:
        with open_executor(run, home=home) as executor:
            yield executor
    else:
        yield client


def refuse_jobs(run: RunSettings) -> None:
    """Refuse a batch system for an array in memory.

    Raises
    ------
    InputError
        If one is asked for.
    """
    if run.cluster is not None and run.cluster.is_batch:
        raise InputError(
            "an array in memory is on this machine alone, where no job sees it",
            where=f"[cluster] {run.cluster.told}",
            remedy="write it to a Zarr array on a file system that the nodes share; or leave out cluster",
        )
