"""The rows of the batch, lent to one client each, and the queue of those who wait for one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from .endings import FULL, SessionEnded


class Rows:
    """Rows `0 ... num_rows - 1` and a queue, first come first served. For one event loop.

    Args:
        num_rows: rows of the session.
        most_waiting: clients that may wait.
    """

    def __init__(self, num_rows: int, most_waiting: int) -> None:
        self.num_rows, self.most_waiting = num_rows, most_waiting
        self.free = list(range(num_rows))
        self._waiting: dict[asyncio.Future[int], Callable[[int], None]] = {}

    @property
    def num_taken(self) -> int:
        """Rows in use."""
        return self.num_rows - len(self.free)

    @property
    def num_waiting(self) -> int:
        """Clients in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def row(self, on_place: Callable[[int], None]) -> AsyncIterator[int]:
        """A row for as long as the context lasts, after waiting for it.

        Args:
            on_place: called with the place in the queue, from 1, now and whenever it changes.

        Raises:
            SessionEnded: the queue is full.
        """
        row = self.free.pop(0) if self.free else await self._wait(on_place)
        try:
            yield row
        finally:
            self._pass_on(row)

    async def _wait(self, on_place: Callable[[int], None]) -> int:
        if len(self._waiting) >= self.most_waiting:
            raise SessionEnded(FULL)
        ticket: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = on_place
        on_place(len(self._waiting))
        try:
            return await ticket
        except asyncio.CancelledError:
            if self._waiting.pop(ticket, None) is None and not ticket.cancelled():
                self._pass_on(ticket.result())  # the row came while this client left
            self._announce()
            raise

    def _pass_on(self, row: int) -> None:
        while self._waiting:
            ticket = next(iter(self._waiting))
            del self._waiting[ticket]
            if not ticket.done():
                ticket.set_result(row)
                self._announce()
                return
        self.free.append(row)

    def _announce(self) -> None:
        for place, on_place in enumerate(self._waiting.values(), 1):
            on_place(place)
