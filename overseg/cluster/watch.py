"""Looks at the workers while units run, and says it when nothing can make progress, and why."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from distributed import Client

from overseg.cluster.embedded import Workers
from overseg.cluster.events import Events
from overseg.errors import ResourceError

TICK = 0.5  # seconds between looks
_REST = 5.0  # seconds between looks at what each worker has, which is more to ask for
_FIRST_WORD, _LATER_WORDS = 30.0, 300.0  # seconds without progress until it is said, and said again
_log = logging.getLogger(__name__)


class Watch:
    """How many threads there are to run units, and for how long there were none.

    Parameters
    ----------
    client : distributed.Client
    embedded : Workers, optional
        The worker processes, where they are ours: those that died are replaced.
    patience : float
        Seconds to wait for a worker that can work, before giving up.
    why : callable, optional
        What the batch system says of workers that do not come up, asked at each look while there is none that
        can work; it may raise `ResourceError`.
    events : Events
        The run's log.

    Attributes
    ----------
    threads : int
        Units that can run at the same time.
    cards : int
        Of these on workers with a graphics card.
    """

    def __init__(
        self,
        client: Client,
        embedded: Workers | None,
        patience: float,
        why: Callable[[], str | None] | None,
        events: Events,
    ) -> None:
        self.threads = self.cards = 0
        self._client, self._embedded, self._patience = client, embedded, patience
        self._why, self._events = why, events
        self._paused = 0
        now = time.monotonic()
        self._last_look = self._last_rest = now - 10 * _REST
        self._able = self._moved = self._carded = now
        self._next_word = _FIRST_WORD

    @property
    def without_cards(self) -> float:
        """Seconds since there was a worker with a graphics card."""
        return 0.0 if self.cards else time.monotonic() - self._carded

    def look(self, running: Collection[str]) -> None:
        """See who is there. Raises `ResourceError` if nobody is for too long, or the scheduler is gone.

        Parameters
        ----------
        running : collection of str
            Units that were handed out.
        """
        now = time.monotonic()
        if now - self._last_look < TICK:
            return
        self._last_look = now
        if self._embedded:
            self._embedded.keep()
        try:
            self.threads = sum(self._client.nthreads().values())
            if now - self._last_rest >= _REST or not self.threads:
                self._last_rest = now
                self._count(self._client.scheduler_info()["workers"].values())
        except OSError:
            raise lost(self._client) from None
        if self.cards:
            self._carded = now
        if self.threads > self._paused:
            self._able = now
        reason = self._why() if self._why is not None and self._able < now else None
        self._say(now, running, reason)
        if now - self._able > self._patience:
            raise ResourceError(
                f"{self._state()} for {self._patience:.0f} seconds" + (f"; {reason}" if reason else ""),
                where=address(self._client),
                remedy="start workers for this scheduler, or see why they do not come up, and run it again",
            )

    def died(self) -> None:
        """A worker is gone: how many are left is to be looked at before a unit is handed out."""
        self._last_look -= TICK

    def progressed(self) -> None:
        """A unit came back."""
        self._moved, self._next_word = time.monotonic(), _FIRST_WORD
        if self._embedded:
            self._embedded.progressed()

    def _count(self, workers: Collection[Any]) -> None:
        self.cards = sum(bool(each.get("resources", {}).get("GPU")) for each in workers)
        self._paused = sum(each["nthreads"] for each in workers if each.get("status") == "paused")

    def _state(self) -> str:
        if not self.threads:
            return "no Dask worker has been there"
        return "all Dask workers have been paused, with their memory full or their time nearly over,"

    def _say(self, now: float, running: Collection[str], reason: str | None) -> None:
        quiet = now - self._moved
        if quiet < self._next_word:
            return
        self._next_word = quiet + _LATER_WORDS
        if self._able < now:
            words = f"waiting: {self._state()} for {now - self._able:.0f} seconds"
            words += f"; {reason}" if reason else ""
        else:
            some = ", ".join(sorted(running)[:3])
            words = f"nothing was done for {quiet:.0f} seconds; {self.threads} workers are at {some}"
        _log.warning("%s", words)
        self._events.add("waiting", why=words)


def lost(client: Client) -> ResourceError:
    """The error of a scheduler that is gone."""
    return ResourceError(
        "the Dask scheduler is gone, or let go of the work",
        where=address(client),
        remedy="see that the scheduler is up, then run the same command again: what is done is kept",
    )


def address(client: Client) -> str:
    """The scheduler's."""
    return str(getattr(client.scheduler, "address", "the scheduler"))
