"""Perplexity of the text that Moshi's speaker says in conversations with word times, such as DailyTalk's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.collator import MoshiTTTCollator
from ..special_ids import IGNORE_ID
from ..transformer.losses import code_losses
from .long_context import evaluation_mode
from .loss_curve import estimate_ratio

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration


def evaluate_text_perplexity(
    model: "MoshiTTTForConditionalGeneration",
    conversations: Sequence[np.ndarray],
    block_frames: int = 512,
    progress: bool = True,
) -> dict[str, Any]:
    """Perplexities with their intervals over conversations, each read from a fresh state with both voices given.

    Args:
        conversations: codes `[K, T]`; frames whose text is -1 are left out.

    Returns:
        `dailytalk_text_perplexity` over word pieces only, `dailytalk_text_perplexity_with_padding` over all frames
        (PAD and EPAD included), each with `<key>_interval`, and how many of what there were.

    Raises:
        ValueError: a recording without text, or no word at all.
    """
    collator, config = MoshiTTTCollator(model.config), model.config
    sums = np.zeros((len(conversations), 2, 2))  # conversation; words, all; loss, count
    with evaluation_mode(model):
        for row, codes in enumerate(tqdm(conversations, desc="text", unit="conversation", disable=not progress)):
            if len(codes) != config.num_streams:
                raise ValueError(f"Conversation {row} is {list(codes.shape)}: only [{config.num_streams}, T] has text.")
            frames, labels = collator.frame_codes(np.array(codes, dtype=np.int64))
            losses = _text_losses(model, frames, block_frames)
            said = labels[0] != IGNORE_ID
            is_word = said & (labels[0] != config.pad_token_id) & (labels[0] != config.end_pad_token_id)
            for column, chosen in enumerate((is_word, said)):
                sums[row, column] = losses[chosen].sum(), chosen.sum()
    results: dict[str, Any] = {"conversations": len(conversations)}
    for column, suffix in enumerate(("", "_with_padding")):
        total, count = sums[:, column, 0], sums[:, column, 1]
        if count.sum() == 0:
            raise ValueError("The conversations hold no word: encode them with a text tokenizer and word times.")
        estimate = estimate_ratio(total[count > 0], count[count > 0])
        key = f"dailytalk_text_perplexity{suffix}"
        results |= {key: float(np.exp(estimate.value)), f"{key}_tokens": int(count.sum())}
        if estimate.low is not None and estimate.high is not None:
            results[f"{key}_interval"] = [float(np.exp(estimate.low)), float(np.exp(estimate.high))]
    return results


def _text_losses(model: "MoshiTTTForConditionalGeneration", codes_KT: np.ndarray, block_frames: int) -> np.ndarray:
    """Cross-entropy of the text at every frame, `[T]`."""
    codes = torch.from_numpy(codes_KT)[None].to(model.device)
    state, losses = model.init_state(1), []
    for first in range(0, codes.shape[2], block_frames):
        block = codes[:, :, first : first + block_frames]
        output = model(block, state=state, text_only=True)
        state = output.state
        losses.append(code_losses(output.text_logits, block[:, 0])[0])
    return torch.cat(losses).cpu().numpy()
