"""`MoshiTTTSession`: live streams, 80 ms of sound in and 80 ms of sound and a text token out.

B independent streams are stepped together, a row each; rows join, pause, leave and start again without touching the
others. The delays are those of Kyutai's `LMGen`: at step s a stream hears the user's frame s - 1, the model chooses its
frame s, and frame s - 1, then complete, is what is said. So the sound of a stream's very first call is before its
beginning and ignored, and nothing is said in it. Beside these, the codec may have a delay of its own
(`codec.delay_samples`, 0 for Mimi).

Axes: B batch, Q Moshi's codebooks, N samples of a frame.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..codec.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, sec_from_frames
from ..codec.pretrained_codec import codec_sha256
from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from ..processing_moshi_ttt import MoshiTTTProcessor
from ..special_ids import FREE_ID, NO_INPUT_ID
from ..streaming.generation_moshi_ttt import Sampling
from ..streaming.state import MoshiTTTState
from .codec_stream import open_codec_stream
from .fingerprint import Fingerprint, fingerprint
from .memory_file import MEMORY_PREFIX, Manifest, read_manifest, read_memory_file, write_memory_file
from .memory_stats import memory_stats, write_strength
from .memory_switch import silenced_rows
from .text_pieces import TextPieces


@dataclass(frozen=True)
class SessionFrame:
    """What one step of a session gives, on the CPU.

    Args:
        samples_BN: `[B, 1920]` float32 in [-1, 1], Moshi's voice; zeros where it is not ready.
        text_ids_B: `[B]` int64, the text token of the frame; -1 where it is not ready.
        text: the same as text, "" for a token that says nothing.
        codes_BQ: `[B, Q]` int64, the codes of Moshi's voice; -1 where it is not ready.
        ready_B: `[B]` bool, False in a row's first step, whose frame is complete one step later, and where a row rests.
    """

    samples_BN: Tensor
    text_ids_B: Tensor
    text: list[str]
    codes_BQ: Tensor
    ready_B: Tensor


class MoshiTTTSession:
    """B independent streams stepped together, one row each.

    A session keeps everything of its streams itself: several may use one model, from one thread at a time.

    Args:
        model: in evaluation mode; its weights must not change while a session runs.
        processor: the model's own, whose codec must be loaded where it shall run.
        batch_size: B.
        sampling: how codes are drawn, as the model's `generation_config` says if None. Its generator is not used.
        seeds: of each row's own draws; 0 to B - 1 if None.
        diagnostics: whether the strength of writes is measured, which costs about a tenth of a frame's time.

    Raises:
        ValueError: B below 1, another number of seeds, a model in training mode, or a codec that cannot stream.
    """

    sample_rate_hz = SAMPLE_RATE_HZ
    frame_samples = FRAME_SAMPLES

    def __init__(
        self,
        model: MoshiTTTForConditionalGeneration,
        processor: MoshiTTTProcessor,
        *,
        batch_size: int = 1,
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
        diagnostics: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}, but a session has at least 1 row.")
        seeds = list(range(batch_size)) if seeds is None else list(seeds)
        if len(seeds) != batch_size:
            raise ValueError(f"{len(seeds)} seeds for {batch_size} rows: give one a row.")
        if any(module.training for module in (model, processor.codec)):
            raise ValueError("The model is in training mode: call model.eval() first.")
        self.model, self.processor, self.seeds = model, processor, seeds
        self.sampling = sampling or Sampling.from_generation_config(model.generation_config)
        self.diagnostics = diagnostics
        self.num_rows, self.num_codebooks = batch_size, model.config.num_codebooks
        self.codec = open_codec_stream(processor.codec, batch_size, self.num_codebooks)
        self.state: MoshiTTTState = model.init_state(batch_size)
        self.generators = [torch.Generator(model.device).manual_seed(seed) for seed in seeds]
        self.memory_frames = [0] * batch_size
        self.memory_on_B = torch.ones(batch_size, dtype=torch.bool, device=model.device)
        self._idle_generator = torch.Generator(model.device)
        self._tokenizer = processor.tokenizer if model.config.text_tokenizer else None
        self._texts = [self._new_text() for _ in seeds]
        layers = len(model.config.ttt_layer_indices)
        self._write_strength_LB = torch.full((layers, batch_size), torch.nan, device=model.device)

    def _new_text(self) -> TextPieces:
        config = self.model.config
        return TextPieces(self._tokenizer, {config.pad_token_id, config.end_pad_token_id})

    @torch.no_grad()
    def step(
        self,
        samples_BN: Tensor | np.ndarray,
        active_B: Tensor | Sequence[bool] | None = None,
        forced_text_B: Tensor | None = None,
        forced_codes_BQ: Tensor | None = None,
    ) -> SessionFrame:
        """The next 80 ms of every active row.

        Args:
            samples_BN: `[B, 1920]` float32, what the users say; anything finite in rows that are not active.
            active_B: `[B]`, False for rows that rest: nothing of them changes; all advance if None.
            forced_text_B: `[B]` int64, the text of the frame that is chosen now, -2 where the model chooses.
            forced_codes_BQ: `[B, Q]` int64, its codes, likewise.

        Raises:
            ValueError: wrong shapes or types, samples that are not finite, or ids out of range. Nothing has changed
                then.
        """
        samples, active = self._checked_samples(samples_BN), self._checked_rows(active_B)
        frame = self._frame_to_choose(forced_text_B, forced_codes_BQ)
        begun = active & (self.state.frames > 0)
        codec_device = self.processor.codec.device
        heard = self.codec.encode(samples.to(codec_device), begun.to(codec_device))[:, :, 0].to(self.model.device)
        state = self.state.with_user_codes(heard, begun)
        with silenced_rows(self.model, ~self.memory_on_B):
            output: Any = self.model.step_with_logits(
                frame, state, self._sampling_of(active), active_rows=None if bool(active.all()) else active,
                diagnostics=self.diagnostics,
            )  # fmt: skip
        self.state = output.state
        if output.diagnostics:
            self._write_strength_LB = torch.where(active, write_strength(output.diagnostics), self._write_strength_LB)
        for row in active.nonzero()[:, 0].tolist():
            self.memory_frames[row] += 1
        return self._frame_of(output.complete_codes, active & (output.frames.amin(1) >= 0))

    def _checked_samples(self, samples_BN: Tensor | np.ndarray) -> Tensor:
        samples, expected = torch.as_tensor(samples_BN), [self.num_rows, FRAME_SAMPLES]
        if list(samples.shape) != expected or samples.dtype != torch.float32:
            raise ValueError(f"samples must be float32 {expected}; got {samples.dtype} {list(samples.shape)}.")
        if not bool(samples.isfinite().all()):
            rows = (~samples.isfinite()).any(1).nonzero()[:, 0].tolist()
            raise ValueError(f"samples of rows {rows} are NaN or infinite: clean the audio.")
        return samples

    def _checked_rows(self, rows_B: Tensor | Sequence[bool] | None) -> Tensor:
        if rows_B is None:
            return torch.ones(self.num_rows, dtype=torch.bool, device=self.model.device)
        return self.state.row_mask(torch.as_tensor(rows_B))

    def _checked_row(self, row: int) -> int:
        if not 0 <= row < self.num_rows:
            raise ValueError(f"row {row}, but this session has rows 0 to {self.num_rows - 1}.")
        return row

    def _frame_to_choose(self, text_B: Tensor | None, codes_BQ: Tensor | None) -> Tensor:
        """Codes `[B, K]` of Moshi's next frame, -2 where they are free; the user's are heard one step later."""
        frame = torch.full((self.num_rows, self.model.config.num_streams), FREE_ID, device=self.model.device)
        frame[:, 1 + self.num_codebooks :] = NO_INPUT_ID
        own_BQ = frame[:, 1 : 1 + self.num_codebooks]
        for name, given, part in (("forced_text_B", text_B, frame[:, 0]), ("forced_codes_BQ", codes_BQ, own_BQ)):
            if given is None:
                continue
            if given.shape != part.shape or given.dtype != torch.int64:
                raise ValueError(f"{name} must be int64 {list(part.shape)}; got {given.dtype} {list(given.shape)}.")
            part.copy_(given)
        self.model.check_frame(frame, self.state)
        return frame

    def _sampling_of(self, active_B: Tensor) -> Sampling:
        """Rows that rest draw from a generator that nobody else uses."""
        pairs = zip(self.generators, active_B.tolist(), strict=True)
        return replace(self.sampling, generator=[own if active else self._idle_generator for own, active in pairs])

    def _frame_of(self, complete_BK: Tensor, ready_B: Tensor) -> SessionFrame:
        codes_BQ = complete_BK[:, 1 : 1 + self.num_codebooks]
        codec_device = self.processor.codec.device
        samples_BN = self.codec.decode(
            codes_BQ.where(ready_B[:, None], 0)[:, :, None].to(codec_device), ready_B.to(codec_device)
        )
        text_ids_B = complete_BK[:, 0].where(ready_B, NO_INPUT_ID).cpu()
        return SessionFrame(
            samples_BN.float().cpu(),
            text_ids_B,
            [text.piece(token) for text, token in zip(self._texts, text_ids_B.tolist(), strict=True)],
            codes_BQ.where(ready_B[:, None], NO_INPUT_ID).cpu(),
            ready_B.cpu(),
        )

    @torch.no_grad()
    def reset(self, row: int, *, keep_memory: bool = False, seed: int | None = None) -> None:
        """Makes a row a fresh stream, whose draws start again; the others do not change.

        Args:
            keep_memory: whether it keeps what its memories have learned, with nothing else of its past.
            seed: of its draws from here on; the row's present one if None.
        """
        row = self._checked_row(row)
        for name, tensor in self.state.named_tensors().items():
            if not (keep_memory and name.startswith("memory.")):
                tensor[row] = self.state.fresh_value(name, tensor)[row]
        self.codec.reset(row)
        self.seeds[row] = self.seeds[row] if seed is None else seed
        self.generators[row].manual_seed(self.seeds[row])
        self.memory_frames[row] = self.memory_frames[row] if keep_memory else 0
        self._write_strength_LB[:, row] = torch.nan
        self.memory_on_B[row] = True
        self._texts[row] = self._new_text()

    def set_memory_on(self, row: int, on: bool) -> None:
        """Whether a row's memory answers; it is what `memory="off"` means in the evaluation, for one stream.

        While it is off, the gate of each TTT layer is 0 for the row: the rest of the model goes on as if there were no
        memory, while the memory goes on learning from what it hears.
        """
        self.memory_on_B[self._checked_row(row)] = on

    def memory_stats(self, row: int) -> list[dict[str, Any]]:
        """What the memory of each TTT layer is, in order of the layers.

        Keys: `layer`; `norm` of what was learned; `num_bytes`; `write_strength`, the mean over heads of the last
        frame's step, None before the first one, for learners without one and without `diagnostics`; `age_sec`, how much
        the memory has heard.
        """
        row, age_sec = self._checked_row(row), sec_from_frames(self.memory_frames[row])
        layers, written_L = self.model.config.ttt_layer_indices, self._write_strength_LB[:, row].tolist()
        return [
            {"layer": layer, **memory_stats(memory, row), "write_strength": _number(written), "age_sec": age_sec}
            for layer, memory, written in zip(layers, self.state.memory, written_L, strict=True)
        ]

    @cached_property
    def identity(self) -> tuple[Fingerprint, str]:
        """The hashes of the model and of the codec; the first use reads all weights (about 1 s a GB)."""
        return fingerprint(self.model), codec_sha256(self.processor.codec)

    def save(self, path: str | Path, row: int = 0, memory_only: bool = False) -> None:
        """Writes a row to a safetensors file that `load` and `restore` go on from.

        Args:
            memory_only: whether to keep only what its memories have learned, for another conversation: no window, no
                codes, no draws. Such a file also fits the same model in another dtype.
        """
        row = self._checked_row(row)
        tensors = {name: tensor[row : row + 1] for name, tensor in self._tensors().items()}
        if memory_only:
            tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(MEMORY_PREFIX)}
        write_memory_file(path, tensors, self._manifest(row, memory_only))

    def _tensors(self) -> dict[str, Tensor]:
        """All that the streams remember in tensors with a row each, by the names they have in a file."""
        state = {f"state.{name}": tensor for name, tensor in self.state.named_tensors().items()}
        return {**state, **{f"codec.{name}": tensor for name, tensor in self.codec.tensors().items()}}

    def _manifest(self, row: int, memory_only: bool) -> Manifest:
        model, codec = self.identity
        kind, heard = "memory" if memory_only else "session", self.memory_frames[row]
        manifest = Manifest(kind, model.exact, model.portable, codec, heard, self.memory_stats(row))
        if memory_only:
            return manifest
        return replace(
            manifest,
            seed=self.seeds[row],
            generator_device=self.model.device.type,
            generator=self.generators[row].get_state().numpy().tobytes().hex(),
            memory_on=bool(self.memory_on_B[row]),
            sampling=asdict(replace(self.sampling, generator=None)),
            text_bytes=self._texts[row].unfinished.hex(),
        )

    @classmethod
    def load(
        cls, path: str | Path, model: MoshiTTTForConditionalGeneration, processor: MoshiTTTProcessor, **options: Any
    ) -> Self:
        """A session of one row that goes on from a file, bit for bit where the file holds a whole stream.

        Args:
            options: further ones of the class; codes are drawn as in the file unless `sampling` is among them.

        Raises:
            ValueError: as in `restore`.
        """
        saved = read_manifest(path).sampling
        if saved is not None and "sampling" not in options:
            try:
                options["sampling"] = Sampling(**saved)
            except TypeError as error:
                raise ValueError(f"{path}: its manifest has sampling={saved}, which none can be.") from error
        session = cls(model, processor, **options)
        session.restore(path)
        return session

    @torch.no_grad()
    def restore(self, path: str | Path, row: int = 0) -> None:
        """Makes a row the stream of a file, or a fresh stream with the memory of a file; the others do not change.

        A whole stream continues bit for bit. Its draws do on the kind of device they were saved on; elsewhere they
        start again from their seed.

        Raises:
            ValueError: a file that is missing, damaged or foreign, or of another model or codec. Nothing has changed
                then.
        """
        row, manifest = self._checked_row(row), read_manifest(path)
        self._require_same_model(path, manifest)
        whole, own = manifest.kind == "session", self._tensors()
        expected = {name: torch.empty_like(tensor[:1], device="meta") for name, tensor in own.items()}
        if not whole:
            expected = {name: tensor for name, tensor in expected.items() if name.startswith(MEMORY_PREFIX)}
        generator = self._saved_generator(path, manifest)
        tensors = read_memory_file(path, expected, manifest, self.model.initial_codes())
        self.reset(row, seed=manifest.seed if whole else None)
        self.generators[row] = generator or self.generators[row]
        for name, tensor in tensors.items():
            own[name][row] = tensor[0].to(own[name].device)
        self.memory_frames[row], self.memory_on_B[row] = manifest.memory_frames, manifest.memory_on
        self._texts[row].resume(bytes.fromhex(manifest.text_bytes))
        for layer, saved in enumerate(manifest.layers):
            written = saved["write_strength"]
            self._write_strength_LB[layer, row] = math.nan if written is None else written

    def _saved_generator(self, path: str | Path, manifest: Manifest) -> torch.Generator | None:
        """A generator that goes on from the saved draws; None where they are made on another kind of device."""
        device = self.model.device
        if manifest.kind != "session" or manifest.generator_device != device.type:
            return None
        generator = torch.Generator(device)
        try:
            return generator.set_state(torch.tensor(list(bytes.fromhex(manifest.generator)), dtype=torch.uint8))
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{path}: the state of its draws is none of {device.type}'s. Take another copy."
            ) from error

    def _require_same_model(self, path: str | Path, manifest: Manifest) -> None:
        model, codec = self.identity
        whole = manifest.kind == "session"
        found, expected = (manifest.model_exact, model.exact) if whole else (manifest.model_portable, model.portable)
        if found != expected:
            raise ValueError(
                f"{path}: belongs to another model (hash {str(found)[:8]}, but this one has {expected[:8]}). Load the "
                "model that it was saved with" + (", in the same dtype." if whole else ".")
            )
        if manifest.codec_sha256 != codec:
            raise ValueError(
                f"{path}: belongs to another codec (sha256 {str(manifest.codec_sha256)[:8]}, but this one has "
                f"{codec[:8]}). Load the codec that it was saved with."
            )
        if [layer["layer"] for layer in manifest.layers] != self.model.config.ttt_layer_indices:
            raise ValueError(f"{path}: its manifest lists other layers than the model has memories in. Take another.")


def _number(value: float) -> float | None:
    """None for NaN, which JSON has not."""
    return None if math.isnan(value) else value
