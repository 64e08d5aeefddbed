"""What a model sounds like while it trains: every N steps it continues held-out recordings.

`RUN/samples/step-N/` holds a wav a recording, prompt and continuation, and `samples.json` with what is said; the
trackers of the run get both. The training does not change: random numbers, memories and the order of data stay as they
are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoints.adapters import without_adapters
from ..codec.audio import frames_from_sec
from ..codec.stream_rows import text_codes_without_words
from ..data.collator import MoshiTTTCollator
from ..evaluation.long_context import evaluation_mode
from ..special_ids import NO_INPUT_ID
from ..streaming.generation_moshi_ttt import Sampling
from .trackers import Exhibit, show

FOLDER = "samples"


@dataclass(frozen=True)
class SampleOptions:
    """How samples are made: after how many steps each, of how many recordings, and their lengths."""

    every_steps: int
    recordings: int = 2
    prompt_sec: float = 10.0
    new_sec: float = 5.0


class SampleCallback(TrainerCallback):
    """Writes samples every `options.every_steps` steps and hands them to the trackers.

    Args:
        recordings: held-out codes `[Q, T]` or `[K, T]`, of which the first ones are continued.
        silence_codes: `[Q]`, needed where the user's rows are silence.

    Raises:
        ValueError: the codec of the model cannot be opened.
        OSError: a name that cannot be reached.
    """

    def __init__(
        self,
        trainer: Trainer,
        recordings: Sequence[np.ndarray],
        options: SampleOptions,
        silence_codes: Sequence[int] | None = None,
    ) -> None:
        from ..processing_moshi_ttt import MoshiTTTProcessor

        self.trainer, self.options = trainer, options
        self.recordings = list(recordings)[: options.recordings]
        config: Any = without_adapters(trainer.model).config
        self.processor = MoshiTTTProcessor(config)
        self.rate_hz: int = self.processor.codec.config.sampling_rate  # a codec that is not there is missed at once
        self.collator = MoshiTTTCollator(config, silence_codes)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """transformers' hook."""
        if state.global_step % self.options.every_steps == 0:
            made = [self._continued(codes, args.seed) for codes in self.recordings]
            if state.is_world_process_zero:
                folder = Path(str(args.output_dir), FOLDER, f"step-{state.global_step}")
                show(self.trainer, self._written(folder, made), state.global_step)

    def _continued(self, codes: np.ndarray, seed: int) -> torch.Tensor:
        """Prompt and continuation, `[1, K, T]`."""
        model: Any = without_adapters(self.trainer.model)
        new_frames = frames_from_sec(self.options.new_sec)
        prompt = codes[:, : frames_from_sec(self.options.prompt_sec)]
        framed, _ = self.collator.frame_codes(np.array(prompt, dtype=np.int64))
        with evaluation_mode(model):
            seeded = torch.Generator(model.device).manual_seed(seed)
            sampling = Sampling.from_generation_config(model.generation_config, seeded)
            prompt_BKT = torch.from_numpy(framed)[None].to(model.device)
            given_frames = new_frames + model.config.max_delay_frames
            user = self._user_after(codes, prompt.shape[1], given_frames)
            user = user.to(model.device) if isinstance(user, torch.Tensor) else user
            new = model.generate(
                prompt_BKT,
                max_new_frames=new_frames,
                user_codes=user,
                sampling=sampling,
                text_codes=text_codes_without_words(self.collator.config, 1, given_frames, model.device),
            ).codes
        return torch.cat([prompt_BKT, new], dim=2).cpu()

    def _user_after(self, codes: np.ndarray, prompt_frames: int, frames: int) -> Any:
        """`generate`'s `user_codes`: a conversation's own with silence after its end, else as in training."""
        config = self.collator.config
        is_mono, silence = len(codes) == config.num_codebooks, self.collator.silence_codes
        if is_mono and config.user_stream != "silence":
            return "duplicate" if config.user_stream == "duplicate" else None
        filler = np.full(config.num_codebooks, NO_INPUT_ID) if silence is None else np.asarray(silence, dtype=np.int64)
        user = np.repeat(filler[:, None], frames, axis=1)
        if not is_mono:
            heard = codes[-config.num_codebooks :, prompt_frames : prompt_frames + frames]
            user[:, : heard.shape[1]] = heard
        return torch.from_numpy(user)[None]

    def _written(self, folder: Path, made: Sequence[torch.Tensor]) -> list[Exhibit]:
        folder.mkdir(parents=True, exist_ok=True)
        exhibits, listed = [], []
        for number, codes_BKT in enumerate(made):
            path, new_frames = folder / f"{number}.wav", frames_from_sec(self.options.new_sec)
            soundfile.write(path, self.processor.decode_audio(codes_BKT)[0], self.rate_hz)
            text = ""
            if self.processor.config.text_tokenizer is not None:
                text = self.processor.decode_text(codes_BKT[:, :, -new_frames:])[0]
            exhibits.append(Exhibit(f"{FOLDER}/{number}", path, text))
            new_sec, prompt_frames = self.options.new_sec, codes_BKT.shape[2] - new_frames
            listed.append({"wav": path.name, "prompt_frames": prompt_frames, "new_sec": new_sec, "text": text})
        (folder / "samples.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")
        return exhibits
