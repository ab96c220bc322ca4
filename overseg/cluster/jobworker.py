"""The worker process in a job of a batch system: ends between units, and has the driver's overseg."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.metadata import version

from distributed import Status, Worker

from overseg.cluster.jobscript import VERSION

_mine = version("overseg")
if os.environ.get(VERSION, _mine) != _mine:
    sys.exit(f"overseg {_mine} is on the workers, {os.environ[VERSION]} at the driver: install the same")


class JobWorker(Worker):  # type: ignore[misc]
    """A worker that comes to the end of its unit before it leaves.

    Dask's own gives the unit away while it still runs here, so that it would run twice at the same time.
    """

    async def close_gracefully(self, restart: bool | None = None, reason: str = "lifetime") -> None:
        """Take no more, finish and hand over what there is, and leave."""
        if self.status == Status.running:  # type: ignore[has-type]
            self.status = Status.paused
        while self.status == Status.paused and (self.state.executing or self.data):
            await asyncio.sleep(0.2)
        await super().close_gracefully(restart, reason)
