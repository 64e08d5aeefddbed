"""Which of two recordings does the model find likelier? sWUGGY, sBLIMP, StoryCloze, SALMon.

Every recording is read from a fresh state with the losses of the long-context evaluation, and its score is the mean
loss a frame, so that longer ones are not at a disadvantage. The right one wins with 1, a tie counts 0.5; pairs of one
item (a word in several voices) are averaged first. Intervals are Wilson's (1927) for a fraction of that many items:
within 0..1 and of some width where all items are right. Codebook 0, the semantic one, and the weights of training are
scored beside the mean over codebooks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from .long_context import evaluate_long_context
from .long_context_settings import LongContextSettings
from .loss_curve import CONFIDENCE, Estimate, headline, weighted
from .paired_items import Pair

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration


def evaluate_pairs(
    model: "MoshiTTTForConditionalGeneration",
    pairs: Sequence[Pair],
    codes: Mapping[str, np.ndarray],
    settings: LongContextSettings,
    silence_codes: Sequence[int] | None = None,
    keep_in: str | None = None,
) -> dict[str, Any]:
    """Accuracies of a task.

    Args:
        codes: `[Q, T]` of each file, by its path in the pairs.
        settings: of reading; positions and bins are not used.
        keep_in: folder of losses of finished recordings.

    Returns:
        `accuracy`, `accuracy_codebook_0`, `accuracy_training_weights` as estimates over items, `items`, `pairs`, and
        `by_group` of the first.

    Raises:
        ValueError: `memory="no_reset"`, or a recording without a loss.
    """
    if settings.memory == "no_reset":
        raise ValueError("memory='no_reset', but every recording of a pair is read from a fresh state.")
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.right, pair.wrong)))
    recordings = [codes[name] for name in names]
    output = evaluate_long_context(model, recordings, settings, silence_codes=silence_codes, keep_in=keep_in)
    losses = {name: found.astype(np.float64) for name, found in zip(names, output.losses, strict=True)}
    config = model.config
    weights = [float(config.first_codebook_weight_multiplier)] + [1.0] * (config.num_codebooks - 1)
    scorers = {
        "accuracy": headline,
        "accuracy_codebook_0": lambda losses_QT: losses_QT[0],
        "accuracy_training_weights": lambda losses_QT: weighted(losses_QT, weights),
    }
    results: dict[str, Any] = {"items": len({pair.item for pair in pairs}), "pairs": len(pairs)}
    for key, by_frame in scorers.items():
        scores = {name: float(np.nanmean(by_frame(losses_QT))) for name, losses_QT in losses.items()}
        results[key] = asdict(accuracy(pairs, scores))
        if key == "accuracy":
            groups = sorted({group for pair in pairs for group in pair.groups})
            results["by_group"] = {
                group: asdict(accuracy([pair for pair in pairs if group in pair.groups], scores)) for group in groups
            }
    return results


def accuracy(pairs: Sequence[Pair], losses: Mapping[str, float]) -> Estimate:
    """The fraction of items whose right recording has the lower loss.

    Raises:
        ValueError: a recording without a loss, as one of a single frame.
    """
    unknown = [name for name, loss in losses.items() if not np.isfinite(loss)]
    if unknown:
        raise ValueError(f"{unknown[0]} and {len(unknown) - 1} more have no loss: they are too short.")
    won: dict[str, list[float]] = {}
    for pair in pairs:
        right, wrong = losses[pair.right], losses[pair.wrong]
        won.setdefault(pair.item, []).append(0.5 if right == wrong else float(right < wrong))
    count, share = len(won), float(np.mean([np.mean(values) for values in won.values()]))
    low, high = _wilson(share, count)
    return Estimate(share, low, high, count)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a fraction of `count` items."""
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
