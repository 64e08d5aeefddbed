"""Live streams: the tokens of Kyutai's `LMGen`, rows that do not know each other, and a memory that can be silenced."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from moshi.models.lm import LMGen

from hf_moshi_ttt.checkpoints.kyutai import from_kyutai
from hf_moshi_ttt.checkpoints.lazy_weights import as_lazy
from hf_moshi_ttt.live.session import MoshiTTTSession, SessionFrame
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.processing_moshi_ttt import MoshiTTTProcessor
from hf_moshi_ttt.streaming.generation_moshi_ttt import GREEDY, Sampling

from ..fixtures.live_storages import LiveStorages
from .conftest import assert_same_speech, awake_model, played, voices

OpenSession = Callable[..., MoshiTTTSession]
FRAMES = 40  # two and a half windows


@pytest.fixture(scope="module")
def plain(lm_model: Any, codec_path: str) -> MoshiTTTForConditionalGeneration:
    """Kyutai's seeded model as ours."""
    model = awake_model(ttt=None, codec=codec_path)
    weights = from_kyutai(as_lazy(lm_model.state_dict()), model.config.num_codebooks)
    model.load_state_dict({name: lazy[...] for name, lazy in weights.items()})
    return model


def test_greedy_tokens_are_those_of_lmgen(plain: MoshiTTTForConditionalGeneration, lm_model: Any) -> None:
    """Two users, past the window; LMGen does not read what is said in its first step either."""
    processor, sound = MoshiTTTProcessor(plain.config), voices(2, FRAMES)
    session = MoshiTTTSession(plain, processor, batch_size=2, sampling=GREEDY)
    free = torch.full((2,), -2)  # this model has no tokenizer
    ours = [session.step(sound[:, frame], forced_text_B=free) for frame in range(FRAMES)]
    user = processor.codec.encode(sound[:, 1:].flatten(1)[:, None]).audio_codes
    generator = LMGen(lm_model, use_sampling=False)
    with torch.no_grad(), generator.streaming(2):
        assert generator.step(torch.full((2, 8, 1), 7)) is None and not ours[0].ready_B.any()
        for frame in range(1, FRAMES):
            theirs = generator.step(user[:, :, frame - 1 : frame])[:, :, 0]
            assert torch.equal(ours[frame].text_ids_B, theirs[:, 0]), frame
            assert torch.equal(ours[frame].codes_BQ, theirs[:, 1:]), frame
            assert ours[frame].ready_B.all()
    assert len({tuple(frame.codes_BQ[0].tolist()) for frame in ours}) > FRAMES / 2  # it does not repeat itself


def test_codes_are_drawn_as_the_model_says(open_session: OpenSession) -> None:
    session = open_session()
    assert session.sampling == Sampling.from_generation_config(session.model.generation_config) == Sampling()


def test_what_is_said_is_the_sound_of_the_codes(open_session: OpenSession) -> None:
    """Silence before the first frame, then the codec's stream of the codes."""
    session = open_session(batch_size=1)
    ours = played(session, voices(1, 12))
    assert not ours[0].samples_BN.any() and ours[0].codes_BQ.eq(-1).all() and ours[0].text == [""]
    codes = torch.stack([frame.codes_BQ for frame in ours[1:]], dim=2)
    alone = open_session(batch_size=1)
    expected = alone.codec.decode(codes, torch.ones(1, dtype=torch.bool))
    assert torch.equal(torch.cat([frame.samples_BN for frame in ours[1:]], dim=1), expected)
    assert expected.abs().max() > 1e-3 and ours[0].samples_BN.dtype == torch.float32


def test_draws_of_a_row_are_those_of_its_seed_alone(open_session: OpenSession) -> None:
    sound = voices(3, 8)
    together = played(open_session(batch_size=3, seeds=[5, 6, 5]), sound[[0, 1, 0]])
    alone = played(open_session(seeds=[6]), sound[1:2])
    assert_same_speech([row_of(frame, 1) for frame in together], alone)
    assert all(torch.equal(frame.codes_BQ[0], frame.codes_BQ[2]) for frame in together)
    other = played(open_session(seeds=[7]), sound[1:2])
    assert any(not torch.equal(a.codes_BQ, b.codes_BQ) for a, b in zip(alone, other, strict=True))


def row_of(frame: SessionFrame, row: int) -> SessionFrame:
    """One row of a frame, as a session of one row gives it."""
    rows = slice(row, row + 1)
    return SessionFrame(
        frame.samples_BN[rows], frame.text_ids_B[rows], frame.text[rows], frame.codes_BQ[rows], frame.ready_B[rows]
    )


@pytest.mark.parametrize("seed", range(2))
def test_rows_that_join_rest_leave_and_start_again_equal_separate_runs(open_session: OpenSession, seed: int) -> None:
    """Each row follows a random plan of steps, rests and resets; its frames are those of a session of its own."""
    random = torch.Generator().manual_seed(seed)
    session, sound = open_session(batch_size=3, seeds=[0, 1, 2]), voices(3, 24, seed)
    alone = [open_session(seeds=[row]) for row in range(3)]
    for step in range(24):
        active = torch.rand(3, generator=random) < 0.7
        for row in range(3):
            if torch.rand((), generator=random) < 0.08:
                session.reset(row, seed=step)
                alone[row] = open_session(seeds=[step])
        off = int(torch.randint(6, (), generator=random))
        if off < 3:
            session.set_memory_on(off, step % 2 == 0)
            alone[off].set_memory_on(0, step % 2 == 0)
        together = session.step(sound[:, step], active_B=active)
        for row in range(3):
            if active[row]:
                assert_same_speech([row_of(together, row)], [alone[row].step(sound[row : row + 1, step])])
            else:
                assert not together.ready_B[row] and not together.samples_BN[row].any()


def test_a_reset_row_may_keep_its_memory_alone(open_session: OpenSession) -> None:
    session = open_session(batch_size=2)
    played(session, voices(2, 9))
    before = {name: tensor.clone() for name, tensor in session.state.named_tensors().items()}
    other = {name: tensor[1].clone() for name, tensor in session.codec.tensors().items()}
    session.reset(0, keep_memory=True)
    fresh = open_session(batch_size=2).state.named_tensors()
    for name, tensor in session.state.named_tensors().items():
        assert torch.equal(tensor[0], (before if name.startswith("memory.") else fresh)[name][0]), name
        assert torch.equal(tensor[1], before[name][1]), name
    assert all(torch.equal(tensor[1], other[name]) for name, tensor in session.codec.tensors().items())
    assert [session.memory_stats(row)[0]["age_sec"] for row in range(2)] == [0.72, 0.72]
    session.reset(0)
    assert session.memory_stats(0)[0] | {"write_strength": 0} == {
        "layer": 1, "norm": 0.0, "write_strength": 0, "num_bytes": session.memory_stats(1)[0]["num_bytes"], "age_sec": 0
    }  # fmt: skip


def test_a_silenced_memory_is_not_heard_but_goes_on_learning(open_session: OpenSession) -> None:
    """The row speaks as a model whose gates are 0, the other row as ever; switched on again, it has learned."""
    sound = voices(2, 20)
    session, loud = (open_session(batch_size=2, sampling=GREEDY) for _ in range(2))
    session.set_memory_on(0, False)
    ours, other = played(session, sound), played(loud, sound)
    assert_same_speech([row_of(frame, 1) for frame in ours], [row_of(frame, 1) for frame in other])
    assert any(not torch.equal(a.codes_BQ[0], b.codes_BQ[0]) for a, b in zip(ours, other, strict=True))
    assert session.memory_stats(0)[0]["norm"] > 0
    config = session.model.config
    model = awake_model(
        codec=config.codec, text_tokenizer=config.text_tokenizer, text_vocab_size=config.text_vocab_size
    )
    for layer in model.model.layers:
        if layer.has_ttt:
            torch.nn.init.zeros_(layer.ttt_gate.weight)
    without = played(MoshiTTTSession(model, session.processor, sampling=GREEDY), sound[:1])
    assert_same_speech([row_of(frame, 0) for frame in ours], without)
    assert not any(module._forward_hooks for module in session.model.modules())


def test_forced_text_and_codes_are_said(open_session: OpenSession) -> None:
    session, sound = open_session(batch_size=2), voices(2, 6)
    text, codes = torch.tensor([9, -2]), torch.full((2, 8), -2)
    codes[1] = torch.arange(8)
    frames = [session.step(sound[:, step], forced_text_B=text, forced_codes_BQ=codes) for step in range(3)]
    text_list: Any = text.tolist()  # as an array or a list too
    frames += [
        session.step(sound[:, step], forced_text_B=text_list, forced_codes_BQ=codes.numpy())  # type: ignore[arg-type]
        for step in range(3, 6)
    ]
    assert all(frame.text_ids_B[0] == 9 and frame.codes_BQ[1].tolist() == list(range(8)) for frame in frames[1:])
    assert any(frame.text_ids_B[1] != 9 for frame in frames[1:])
    assert len({tuple(frame.codes_BQ[0].tolist()) for frame in frames[1:]}) > 1


def test_a_model_without_text_is_given_that_of_its_training(codec_path: str) -> None:
    """In all rows, at each step; it may be asked to choose."""
    model = awake_model(codec=codec_path, text_stream="pad")
    session = MoshiTTTSession(model, MoshiTTTProcessor(model.config), batch_size=2, sampling=GREEDY)
    for frame in played(session, voices(2, 5))[1:]:
        assert frame.text_ids_B.tolist() == [model.config.pad_token_id] * 2 and frame.text == ["", ""]
    session.step(None, forced_text_B=torch.tensor([-2, 7]))
    free, given = session.step(None).text_ids_B.tolist()
    assert free != model.config.pad_token_id and given == 7


def test_text_is_spelled_by_the_tokenizer(open_session: OpenSession) -> None:
    session = open_session()
    word = session.processor.tokenizer.encode("a")
    frames = [session.step(voices(1, 1)[:, 0], forced_text_B=torch.tensor([token])) for token in [*word, 3, 3]]
    assert [frame.text for frame in frames] == [[""], [" "], ["a"], [""]]


def test_a_prompt_may_end_within_a_character(open_session: OpenSession) -> None:
    """The first frame that is said ends it, as if the prompt had been said live."""
    session = open_session()
    tokens = session.processor.tokenizer.encode("\u00e9")
    assert len(tokens) == 3 and session.processor.tokenizer.is_byte(tokens[1])
    codes = torch.zeros(1, 17, 5, dtype=torch.int64)
    codes[0, 0, 2:] = torch.tensor(tokens)
    session.prefill(codes)
    assert session.step(None).text == ["\u00e9"]


def test_memory_is_described_by_layer(open_session: OpenSession) -> None:
    session = open_session(batch_size=2)
    assert session.memory_stats(1)[0]["write_strength"] is None
    played(session, voices(2, 3))
    rests = session.memory_stats(0)
    session.step(voices(2, 1)[:, 0], active_B=[False, True])
    assert session.memory_stats(0) == rests
    stats = session.memory_stats(1)
    assert [layer["layer"] for layer in stats] == session.model.config.ttt_layer_indices
    assert 0 < stats[0]["write_strength"] < 1 and stats[0]["norm"] > 0 and stats[0]["age_sec"] == 0.32
    total = session.state.map(lambda _, tensor: tensor[1:]).num_bytes_by_layer()["memory.0"]
    assert stats[0]["num_bytes"] == total


def test_no_memory_is_held_beyond_the_first_frames(open_session: OpenSession) -> None:
    session, sound = open_session(batch_size=2), voices(2, 20)
    with LiveStorages() as storages:
        played(session, sound[:, :3])
        held = storages.num_bytes
        played(session, sound[:, 3:])
        assert storages.num_bytes == held


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"user_samples_BS": torch.zeros(2, 5)},
            r"samples must be float32 \[2, 5760\]; got torch.float32 \[2, 5\]",
        ),
        (
            {"user_samples_BS": torch.zeros(2, 5760, dtype=torch.int16)},
            r"samples must be float32 \[2, 5760\]; got torch.int16",
        ),
        (
            {"user_samples_BS": torch.full((2, 5760), torch.nan)},
            r"samples of rows \[0, 1\] are NaN or infinite",
        ),
        (
            {"codes_BKT": torch.full((2, 17, 3), -1)},
            "Some codes of Moshi's voice are absent: what was said",
        ),
        ({"codes_BKT": torch.full((2, 17, 3), 999)}, "codes must lie in -1..265"),
        ({"codes_BKT": np.zeros((2, 17, 3), np.int64)}, "codes must be a tensor int64 .*; got ndarray"),
    ],
)
def test_impossible_prompts_are_refused(open_session: OpenSession, changes: dict, message: str) -> None:
    session = open_session(batch_size=2)
    with pytest.raises(ValueError, match=message):
        session.prefill(**{"codes_BKT": torch.zeros(2, 17, 3, dtype=torch.int64), **changes})


def test_prompts_come_before_the_first_step(open_session: OpenSession) -> None:
    session = open_session()
    session.step(None)
    with pytest.raises(ValueError, match="Some rows have begun: prefill goes before the first step. Reset them first"):
        session.prefill(torch.zeros(1, 17, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0, but a session has a whole number of rows, at least 1"),
        ({"batch_size": 1.5}, "batch_size=1.5, but a session has a whole number of rows"),
        ({"sampling": {}}, "sampling={}, but it must be a Sampling"),
        ({"batch_size": 2, "seeds": [1]}, "1 seeds for 2 rows: give one a row"),
        ({"seeds": [-1]}, r"seed=-1, but it must be a whole number from 0 to 2\*\*63 - 1"),
        ({"seeds": [1 << 63]}, "seed=9223372036854775808, but it must be a whole number"),
        ({"seeds": [1.5]}, "seed=1.5, but it must be a whole number"),
    ],
)
def test_impossible_sessions_are_refused(open_session: OpenSession, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_session(**options)


def test_a_row_is_not_reset_to_a_seed_that_could_not_be_saved(open_session: OpenSession) -> None:
    session = open_session(seeds=[torch.tensor(3)])
    session.step(None)
    with pytest.raises(ValueError, match="seed=-1, but it must be a whole number"):
        session.reset(0, seed=-1)
    assert session.seeds == [3] and session.state.frames.tolist() == [1]


def test_a_model_in_training_mode_is_refused(open_session: OpenSession) -> None:
    model = awake_model().train()
    with pytest.raises(ValueError, match=r"The model is in training mode: call model.eval\(\) first"):
        MoshiTTTSession(model, open_session().processor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples_BN": torch.zeros(2, 1919)}, r"samples must be float32 \[2, 1920\]; got torch.float32 \[2, 1919\]"),
        ({"samples_BN": torch.zeros(2, 1920).double()}, r"got torch.float64 \[2, 1920\]"),
        ({"samples_BN": torch.tensor([[0.0], [torch.nan]]).repeat(1, 1920)}, r"samples of rows \[1\] are NaN or inf"),
        (
            {"samples_BN": torch.full((2, 1920), 5000.0)},
            r"samples of rows \[0, 1\] peak at 5000, but samples lie in \[-1, 1",
        ),
        ({"active_B": [True]}, "rows must be a bool tensor of 2 values"),
        ({"forced_text_B": torch.zeros(2)}, r"forced_text_B must be int64 \[2\]; got torch.float32 \[2\]"),
        ({"forced_codes_BQ": torch.zeros(2, 9, dtype=torch.int64)}, r"forced_codes_BQ must be int64 \[2, 8\]"),
        ({"forced_codes_BQ": torch.full((2, 8), 99)}, "codes_frame must hold ids"),
    ],
)
def test_bad_frames_are_refused_and_change_nothing(open_session: OpenSession, change: dict, message: str) -> None:
    session, sound = open_session(batch_size=2, sampling=Sampling()), voices(2, 6)
    expected = played(open_session(batch_size=2), sound)
    ours = played(session, sound[:, :3])
    with pytest.raises(ValueError, match=message):
        session.step(**{"samples_BN": sound[:, 3], **change})
    assert_same_speech([*ours, *played(session, sound[:, 3:])], expected)


def test_rows_that_rest_may_hold_samples_of_any_scale(open_session: OpenSession) -> None:
    sound = torch.cat([voices(1, 1)[:, 0], torch.full((1, 1920), 5000.0)])
    frame = open_session(batch_size=2).step(sound, [True, False])
    expected = open_session(batch_size=2).step(sound.clamp(-1, 1), [True, False])
    assert_same_speech([frame], [expected])


def test_rows_that_are_not_there_are_refused(open_session: OpenSession) -> None:
    session = open_session(batch_size=2)
    for call in (session.reset, session.memory_stats, lambda row: session.set_memory_on(row, True)):
        with pytest.raises(ValueError, match="row 2, but this session has rows 0 to 1"):
            call(2)
    with pytest.raises(ValueError, match="row '0', but this session has rows 0 to 1"):
        session.reset("0")  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["step_with_logits", "decode"])
def test_a_step_that_fails_can_be_made_again(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """By rows, as the engine does: the codecs have not heard the frame twice, and no draw is lost."""
    session, expected = open_session(batch_size=2), open_session(batch_size=2)
    sound = voices(2, 6)
    played(session, sound[:, :3])
    frames = played(expected, sound)
    where = session.model if part == "step_with_logits" else session.codec
    original = getattr(where, part)

    def failing(*given: Any, **options: Any) -> Any:
        original(*given, **options)
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(where, part, failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.step(sound[:, 3])
    for rows in ([True, False], [False, True]):
        alone = session.step(sound[:, 3], rows)
        row = rows.index(True)
        assert torch.equal(alone.codes_BQ[row], frames[3].codes_BQ[row]) and alone.text[row] == frames[3].text[row]
        torch.testing.assert_close(alone.samples_BN[row], frames[3].samples_BN[row], rtol=1e-3, atol=1e-4)
    assert_same_speech(played(session, sound[:, 4:]), frames[4:])
