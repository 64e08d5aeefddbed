"""Checks before and after an evaluation; each problem comes with its remedy."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import align_module_device

from ..codec.audio import sec_from_frames
from ..data.codes import Provenance
from ..data.compatibility import require_codes_of_model
from .long_context_settings import LongContextSettings

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration

_MOST_SILENCE = 0.5
_SLEEPING_GATE = 1e-3
_HIGH_LOSS_NATS = 8.0
_JUMP_NATS = 1.0
_EXACT_NATS = 1e-4


@dataclass(frozen=True)
class Finding:
    """A fact about an evaluation; with a `remedy`, a problem."""

    what: str
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.what}." if self.remedy is None else f"WARNING: {self.what}. {self.remedy}."


def preflight(
    model: "MoshiTTTForConditionalGeneration",
    recordings: Sequence[np.ndarray],
    settings: LongContextSettings,
    provenance: Provenance | None = None,
) -> list[Finding]:
    """Looks at codes, memory, window and lengths before anything runs.

    Args:
        recordings: codes `[Q, T]` or `[K, T]` each.
        provenance: where the codes come from, where that is known.

    Raises:
        ValueError: codes of another codec or text tokenizer than the model's.
    """
    return [
        *_codes(model, recordings, provenance),
        *_silence(model, recordings, provenance),
        *_memory(model, settings),
        *_lengths(model, recordings, settings),
        _room(model, settings),
    ]


def _own_rows(model: "MoshiTTTForConditionalGeneration", codes: np.ndarray) -> np.ndarray:
    count = model.config.num_codebooks
    return codes[1 : 1 + count] if len(codes) == model.config.num_streams else codes


def _codes(
    model: "MoshiTTTForConditionalGeneration", recordings: Sequence[np.ndarray], provenance: Provenance | None
) -> list[Finding]:
    size = model.config.codebook_size
    own = [_own_rows(model, codes) for codes in recordings]
    lowest, highest = min(int(codes.min()) for codes in own), max(int(codes.max()) for codes in own)
    frames = sum(codes.shape[1] for codes in own)
    rows = sorted({len(codes) for codes in recordings})
    used = min(len(np.unique(np.concatenate([codes[q] for codes in own]))) for q in range(len(own[0])))
    findings = [
        Finding(
            f"{len(recordings)} recordings of {rows} rows and {min(c.shape[1] for c in own)} to "
            f"{max(c.shape[1] for c in own)} frames, {sec_from_frames(frames) / 3600:.2f} h in all; codes "
            f"{lowest}..{highest} of 0..{size - 1}"
        )
    ]
    if highest < size // 2 and frames > size:
        findings.append(
            Finding(
                f"No code is above {highest}, but the model has {size} ids a codebook",
                "The codes seem to come from another codec; encode with the model's own (hf-moshi-ttt prepare)",
            )
        )
    if used < 8:
        findings.append(
            Finding(
                f"One codebook has {used} different ids in all",
                "The codec's codebooks are empty or the audio is; decode some codes and listen",
            )
        )
    if provenance is not None:
        config = model.config
        remedy = "If these are two codecs or tokenizers, encode again; if they are two names of one, all is well"
        unknown = require_codes_of_model(config, provenance, provenance.source or "the recordings")
        is_named_alike = provenance.codec == config.codec and provenance.text_tokenizer in (None, config.text_tokenizer)
        findings += [Finding(sentence, None if is_named_alike else remedy) for sentence in unknown]
    return findings


def _silence(
    model: "MoshiTTTForConditionalGeneration", recordings: Sequence[np.ndarray], provenance: Provenance | None
) -> list[Finding]:
    if provenance is None:
        return []
    silence = np.asarray(provenance.silence_codes)[:, None]
    silent = [(_own_rows(model, codes)[0] == silence[0]).mean() for codes in recordings]
    shares = np.average(silent, weights=[codes.shape[1] for codes in recordings])
    finding = f"{shares:.0%} of frames have the first code of digital silence, {max(silent):.0%} in one recording"
    if max(silent) <= _MOST_SILENCE:
        return [Finding(finding)]
    return [Finding(finding, "Look at that recording: silence is easily predicted and lowers the loss")]


def _memory(model: "MoshiTTTForConditionalGeneration", settings: LongContextSettings) -> list[Finding]:
    config: Any = model.config
    layers: list[Any] = [layer for layer in model.modules() if getattr(layer, "has_ttt", False)]
    if not layers:
        return [Finding("The model has no TTT layers: what it remembers is its attention window")]
    gates, outputs = zip(*(_gate_and_output(layer) for layer in layers), strict=True)
    findings = [
        Finding(
            f"TTT ({config.ttt.learner}) in layers {config.ttt_layer_indices}, mean gate "
            f"{min(gates):.4f} to {max(gates):.4f}, memory={settings.memory}"
        )
    ]
    if max(outputs) == 0:
        findings.append(
            Finding("The TTT layers were never trained: their output is zero", "Train them, or load what was trained")
        )
    elif max(gates) < _SLEEPING_GATE:
        findings.append(
            Finding("The gates of the TTT layers are shut", "Train with a higher gate_lr_multiplier or initial gate")
        )
    return findings


def _gate_and_output(layer: Any) -> tuple[float, float]:
    """The mean gate of a layer and the largest of its outputs' weights, fetched where they are offloaded."""
    with ExitStack() as stack:
        for module in (layer.ttt_gate, *layer.ttt.output_modules()):
            stack.enter_context(align_module_device(module))
        return layer.ttt_gate.factor().abs().mean().item(), layer.ttt.output_sizes().max().item()


def _lengths(
    model: "MoshiTTTForConditionalGeneration", recordings: Sequence[np.ndarray], settings: LongContextSettings
) -> list[Finding]:
    window, longest = model.config.sliding_window, max(codes.shape[1] for codes in recordings)
    findings = [Finding(f"Attention sees {window} frames, {sec_from_frames(window):.0f} s")]
    if longest < window + 2 * settings.bin_frames:
        findings.append(
            Finding(
                f"The longest recording has {longest} frames, less than the window and two bins",
                "Join more chapters (librilight_max_chapters) or use narrower bins (bin_frames): there is no slope",
            )
        )
    missed = [at for at in settings.positions_frames if at + (settings.bin_frames + 1) // 2 > longest]
    if missed:
        findings.append(
            Finding(
                f"No recording reaches positions {missed}",
                f"They are left out of the results; positions_frames up to {longest - settings.bin_frames} are reached",
            )
        )
    trained = settings.training_frames
    if trained is not None and longest > trained:
        findings.append(Finding(f"Positions beyond {trained} frames are longer than the model's training segments"))
    return findings


def _room(model: "MoshiTTTForConditionalGeneration", settings: LongContextSettings) -> Finding:
    config = model.config
    state = model.init_state(settings.batch_size, device="meta").num_bytes()
    width = torch.finfo(model.dtype).bits // 8
    ids = config.num_codebooks * config.codebook_size + config.text_vocab_size
    logits = settings.batch_size * settings.block_frames * ids * (width + 4)
    room = f"Streams need {state / 1e9:.2f} GB and logits {logits / 1e9:.2f} GB beside the model"
    if model.device.type != "cuda":
        return Finding(room)
    free, _ = torch.cuda.mem_get_info(model.device)
    if state + logits < 0.8 * free:
        return Finding(f"{room}; {free / 1e9:.1f} GB are free")
    return Finding(f"{room}, but {free / 1e9:.1f} GB are free", "Lower batch_size, then block_frames")


def afterthoughts(results: dict[str, Any], codebook_size: int, dtype: str) -> list[Finding]:
    """Looks at the results of one model."""
    losses = [point["value"] for point in results["curve"]]
    findings = []
    if losses and max(losses) > _HIGH_LOSS_NATS:
        findings.append(
            Finding(
                f"The loss reaches {max(losses):.2f} nats; drawing codes at random costs {math.log(codebook_size):.2f}",
                "Was the model trained on this codec, this text_stream and this user_stream? Compare with mode=stream",
            )
        )
    jumps = np.abs(np.diff(losses[1:])) if len(losses) > 2 else np.zeros(1)
    if jumps.max() > _JUMP_NATS:
        findings.append(
            Finding(
                f"The loss is erratic: it jumps by {jumps.max():.2f} nats between neighbouring bins",
                "Look at the memories (inner loss above 2 or growing: lower ttt.base_lr), and listen to it",
            )
        )
    check = results["run"].get("block_check")
    if check is not None and check["max_difference_nats"] > _EXACT_NATS:
        findings.append(
            Finding(
                f"Blocks and single frames differ by up to {check['max_difference_nats']:.1e} nats in {dtype}",
                "Evaluate in float32 or with mode=stream where this is not small against the effect"
                if dtype != "float32"
                else "This should not be: use mode=stream and report it",
            )
        )
    return findings
