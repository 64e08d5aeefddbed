"""Rows are stepped together in their own order, each alone where the model fails, and never beside a call."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from hf_moshi_ttt.live.endings import MODEL_ERROR, SessionEnded
from hf_moshi_ttt.live.engine import FRAME_SEC, Engine, Seat
from hf_moshi_ttt.live.frames import Answer, Inbox, MemoryReport
from hf_moshi_ttt.live.metrics import LiveMetrics

from ..fixtures.live_stand_in import BROKEN, NOT_FINITE, StandInSession


@contextmanager
def running(rows: int = 2, step_sec: float = 0.0) -> Iterator[Engine]:
    engine = Engine(StandInSession(rows, step_sec), LiveMetrics())  # type: ignore[arg-type]
    engine.start()
    try:
        yield engine
    finally:
        assert engine.stop(5.0)


class Guest:
    def __init__(self, engine: Engine, row: int, wants_reports: bool = False, most: int = 50) -> None:
        self.items: list[Any] = []
        self.engine, self.seat = engine, Seat(Inbox(1920, most), self.items.append, wants_reports)
        engine.sit(row, self.seat).result(5)

    def says(self, *values: float) -> None:
        self.engine.hear(self.seat, np.repeat(np.float32(values), 1920))

    def answers(self, number: int) -> list[Answer]:
        wait_until(lambda: len(self.of(Answer)) >= number)
        return self.of(Answer)

    def of(self, kind: type) -> list[Any]:
        return [item for item in self.items if isinstance(item, kind)]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.002)


def first_samples(answers: list[Answer]) -> list[float | None]:
    return [None if a.samples_S is None else round(float(a.samples_S[0]), 3) for a in answers]


def test_each_row_hears_its_own_answers_in_order() -> None:
    with running() as engine:
        a, b = Guest(engine, 0), Guest(engine, 1)
        a.says(0.1, 0.2, 0.3, 0.4)
        b.says(0.5, 0.6)
        assert first_samples(a.answers(4)) == [None, 0.2, 0.3, 0.4]
        assert first_samples(b.answers(2)) == [None, 0.6]
        assert [answer.number for answer in a.answers(4)] == [1, 2, 3, 4]
        assert [answer.text for answer in a.answers(4)] == ["", "", "", " word4"]
        assert engine.session.threads == {"engine"}  # type: ignore[attr-defined]


def test_a_backlog_is_caught_up_at_once_and_a_single_frame_waits_for_its_tick() -> None:
    with running() as engine:
        guest, start = Guest(engine, 0), time.monotonic()
        guest.says(*[0.1] * 20)
        guest.answers(19)
        assert time.monotonic() - start < 10 * FRAME_SEC


def test_late_and_dropped_frames_are_counted() -> None:
    with running(step_sec=0.2) as engine:
        guest = Guest(engine, 0, most=3)
        guest.says(*[0.1] * 8)
        last = guest.answers(2)[-1]
        assert last.dropped_frames >= 5 and last.late_frames >= 1 and last.latency_sec > 2 * FRAME_SEC
        text = engine.metrics.text().decode()
        assert f"moshi_ttt_late_frames_total {last.late_frames}.0" in text


@pytest.mark.parametrize("value", [BROKEN, NOT_FINITE])
def test_a_model_error_ends_one_session_alone(value: float, caplog: pytest.LogCaptureFixture) -> None:
    with running(3) as engine:
        a, b, c = [Guest(engine, row) for row in range(3)]
        engine.call(lambda session: [guest.says(0.1, 0.2) for guest in (a, c)] + [b.says(value)]).result(5)
        assert first_samples(a.answers(2)) == first_samples(c.answers(2)) == [None, 0.2]
        wait_until(lambda: bool(b.of(SessionEnded)))
        assert [ended.ending for ended in b.of(SessionEnded)] == [MODEL_ERROR]
        assert "secret" not in str(b.of(SessionEnded)[0])
        b.says(0.1)
        fresh = Guest(engine, 1)
        fresh.says(0.3, 0.4)
        assert first_samples(fresh.answers(2)) == [None, 0.4] and b.of(Answer) == []
    assert "Row 1 failed." in caplog.text


def test_a_row_is_fresh_for_the_next_guest_and_silent_for_the_last() -> None:
    with running(1) as engine:
        a = Guest(engine, 0)
        a.says(0.1, 0.2)
        a.answers(2)
        engine.call(lambda session: session.set_memory_on(0, False)).result(5)
        engine.stand_up(0).result(5)
        a.says(0.3)
        b = Guest(engine, 0)
        assert engine.session.memory == [0] and engine.session.is_memory_on == [True]  # type: ignore[attr-defined]
        b.says(0.5, 0.6)
        assert first_samples(b.answers(2)) == [None, 0.6] and len(a.of(Answer)) == 2


def test_reports_go_to_those_who_want_them() -> None:
    with running() as engine:
        a, b = Guest(engine, 0, wants_reports=True), Guest(engine, 1)
        a.says(*[0.1] * 14)
        b.says(*[0.1] * 14)
        a.answers(14)
        b.answers(14)
        assert [report.layers[0]["norm"] for report in a.of(MemoryReport)] == [1, 13]
        assert b.of(MemoryReport) == []


def test_calls_run_on_the_engine_and_their_errors_come_back() -> None:
    with running() as engine:
        assert engine.call(lambda session: threading.current_thread().name).result(5) == "engine"
        with pytest.raises(ValueError, match="no file"):
            engine.call(lambda session: (_ for _ in ()).throw(ValueError("no file"))).result(5)
        wait_until(lambda: engine.is_alive(1.0))
    assert not engine.is_alive(1e9)
    with pytest.raises(RuntimeError, match=r"^The engine has ended\.$"):
        engine.call(lambda session: None).result(5)


def test_what_fails_for_one_row_after_the_step_ends_that_row_alone() -> None:
    with running() as engine:
        a, b = Guest(engine, 0, wants_reports=True), Guest(engine, 1)
        engine.session.memory_stats = lambda row: {}["no such layer"]  # type: ignore[method-assign]
        a.says(0.1)
        wait_until(lambda: bool(a.of(SessionEnded)))
        b.says(0.1, 0.2)
        assert first_samples(b.answers(2)) == [None, 0.2] and a.of(SessionEnded)[0].ending is MODEL_ERROR
