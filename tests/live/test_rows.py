"""Rows are lent in order of arrival; places in the queue are announced; nobody who leaves keeps a row."""

import asyncio

import pytest

from hf_moshi_ttt.live.endings import FULL, SessionEnded
from hf_moshi_ttt.live.rows import Rows


class Client:
    def __init__(self, rows: Rows) -> None:
        self.places: list[int] = []
        self.row: int | None = None
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._stay(rows))

    async def _stay(self, rows: Rows) -> None:
        async with rows.row(self.places.append) as self.row:
            await self.leave.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_queue_is_first_come_first_served_and_tells_places() -> None:
    async def scene() -> None:
        rows = Rows(2, 3)
        a, b, c, d, e = [Client(rows) for _ in range(5)]
        await settle()
        assert [client.row for client in (a, b, c, d, e)] == [0, 1, None, None, None]
        assert (rows.num_taken, rows.num_waiting) == (2, 3)
        with pytest.raises(
            SessionEnded, match=r"^All rows are taken and the queue is full: try again later\.$"
        ) as late:
            await Client(rows).task
        assert late.value.ending is FULL
        b.leave.set()
        await settle()
        assert c.row == 1 and (c.places, d.places, e.places) == ([1], [2, 1], [3, 2])
        d.task.cancel()
        await settle()
        assert e.places == [3, 2, 1]
        a.leave.set()
        await settle()
        assert e.row == 0
        for client in (c, e):
            client.leave.set()
        await settle()
        assert sorted(rows.free) == [0, 1] and rows.num_waiting == 0

    asyncio.run(scene())


def test_a_row_that_comes_while_its_client_leaves_goes_on_to_the_next() -> None:
    async def scene() -> None:
        rows = Rows(1, 3)
        a, b, c = [Client(rows) for _ in range(3)]
        await settle()
        a.leave.set()
        while rows.num_waiting == 2:
            await asyncio.sleep(0)
        b.task.cancel()  # it has been given the row, but has not run yet
        await settle()
        assert b.row is None and c.row == 0
        c.leave.set()
        await settle()
        assert rows.free == [0]

    asyncio.run(scene())
