"""Rooms delay nothing, cut off what their channel does not carry, and follow their seed."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hf_moshi_ttt.demo.rooms import Room


def tone(hz: float) -> NDArray[np.float32]:
    return (0.1 * np.sin(2 * np.pi * hz * np.arange(24_000) / 24_000)).astype(np.float32)


def recorded(room: Room, samples_S: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    return room.record(samples_S, np.random.default_rng(seed))


def test_an_empty_room_changes_nothing() -> None:
    assert np.array_equal(recorded(Room(), tone(500)), tone(500))


def test_an_echo_comes_after_the_sound_with_its_energy() -> None:
    click = np.zeros(24_000, np.float32)
    click[1000] = 1.0
    heard = recorded(Room(reverberation_sec=0.2, wet=0.25), click)
    assert np.abs(heard[:1000]).max() < 1e-6 and heard[1000] == pytest.approx(1, abs=1e-5)
    assert np.square(heard[1001:]).sum() == pytest.approx(0.25, rel=0.05)
    assert np.square(heard[1000 + 4800 :]).sum() < 1e-6


def test_a_channel_carries_half_its_rate() -> None:
    room = Room(channel_rate_hz=8000)
    low, high = recorded(room, tone(1000)), recorded(room, tone(6000))
    assert len(low) == 24_000 and np.std(low) == pytest.approx(np.std(tone(1000)), rel=0.02) and np.std(high) < 1e-3


def test_noise_has_its_level_and_its_seed() -> None:
    room = Room(snr_db=20)
    first, again, other = (recorded(room, tone(500), seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert 20 * np.log10(np.std(tone(500)) / np.std(first - tone(500))) == pytest.approx(20, abs=0.2)


def test_rooms_differ() -> None:
    rooms = [Room.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert len({room.channel_rate_hz for room in rooms}) == 4
    assert {room.wet == 0 for room in rooms} == {True, False} == {room.snr_db is None for room in rooms}
