"""The log-mel codec on streams: exact in any pieces, row by row, and its sound is that of the codes."""

import pytest
import torch

from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecModel
from hf_moshi_ttt.codec.log_mel_stream import LogMelStream
from hf_moshi_ttt.codec.pretrained_codec import load_codec

from ..conftest import chirps_S

EVERYONE = torch.tensor([True, True])


@pytest.fixture(scope="module")
def codec(codec_path: str) -> LogMelCodecModel:
    return load_codec(codec_path)


@pytest.fixture(scope="module")
def sound() -> torch.Tensor:
    """`[2, 10 * 1920]`."""
    return torch.stack([torch.from_numpy(chirps_S(0.8, seed)) for seed in range(2)])


def pieces(x: torch.Tensor, frames: list[int], frame: int) -> list[torch.Tensor]:
    return list(x.split([n * frame for n in frames], dim=-1))


@pytest.mark.parametrize("frames", [[1] * 10, [3, 1, 6]], ids=str)
def test_any_pieces_give_the_codes_of_the_whole(codec: LogMelCodecModel, sound: torch.Tensor, frames: list) -> None:
    whole, stream = codec.encode(sound[:, None], num_quantizers=5).audio_codes, LogMelStream(codec, 2, 5)
    codes = [stream.encode(piece, EVERYONE) for piece in pieces(sound, frames, 1920)]
    assert torch.equal(torch.cat(codes, dim=-1), whole)


@pytest.mark.parametrize("frames", [[1] * 10, [3, 1, 6]], ids=str)
def test_any_pieces_give_the_same_sound(codec: LogMelCodecModel, sound: torch.Tensor, frames: list) -> None:
    codes, stream = codec.encode(sound[:, None]).audio_codes, LogMelStream(codec, 2, 8)
    whole = LogMelStream(codec, 2, 8).decode(codes, EVERYONE)
    assert torch.equal(torch.cat([stream.decode(piece, EVERYONE) for piece in pieces(codes, frames, 1)], dim=-1), whole)


def test_the_sound_is_that_of_the_codes_and_late_by_its_delay(codec: LogMelCodecModel, sound: torch.Tensor) -> None:
    """Moved back by its delay, its log-mels are nearly as near to those of the codes as the whole decoder's."""
    codes, stream = codec.encode(sound[:1, None]).audio_codes, LogMelStream(codec, 1, 8)
    live, whole = stream.decode(codes, EVERYONE[:1]), codec.decode(codes).audio_values[:, 0]
    wanted = codec.log_mels_of_codes(codes)

    def distance(samples: torch.Tensor) -> float:
        return float((codec.log_mels(samples[:, None]) - wanted)[:, :-1].abs().mean())

    moved = {delay: distance(torch.nn.functional.pad(live[:, delay:], (0, delay))) for delay in range(64, 1504, 240)}
    assert stream.delay_samples == 784 == min(moved, key=moved.get) and moved[784] < 1.4 * distance(whole)


def test_resting_and_fresh_rows_do_not_touch_the_others(codec: LogMelCodecModel, sound: torch.Tensor) -> None:
    """Row 0 rests while row 1 goes on, and starts again later."""
    frames, codes = sound.reshape(2, 10, 1920), codec.encode(sound[:, None]).audio_codes
    stream, alone = LogMelStream(codec, 2, 8), LogMelStream(codec, 2, 8)
    for step in range(9):
        active = torch.tensor([step not in (2, 3), True])
        if step == 6:
            stream.reset(0)
        position = [step if step < 2 else step - 2 if step < 6 else step - 6, step]
        heard = stream.encode(torch.stack([frames[row, position[row]] for row in range(2)]), active)
        spoken = stream.decode(torch.stack([codes[row, :, position[row]] for row in range(2)])[:, :, None], active)
        expected = alone.decode(codes[:, :, step : step + 1], EVERYONE)
        assert torch.equal(heard[1, :, 0], codes[1, :, step]) and torch.equal(spoken[1], expected[1])
        if active[0]:
            assert torch.equal(heard[0, :, 0], codes[0, :, position[0]])
        else:
            assert not spoken[0].any()
    assert {len(tensor) for tensor in stream.tensors().values()} == {2}
