"""What the log of a run says, and what to do about it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..evaluation.preflight import Finding

_LOW_SHARE = 0.01  # of the answers' mean square that varies between keys
_RISE = 1.01


def run_findings(entries: Sequence[dict[str, Any]], settings: dict[str, Any], config: dict[str, Any]) -> list[Finding]:
    """Findings about a run, those with a remedy first.

    Args:
        entries: the lines of metrics.jsonl.
        settings: those of the run's last session.
        config: the model's configuration by key.
    """
    found = [*_progress(entries, settings), *_losses(entries, config), *_held_out(entries), *_memories(entries)]
    return sorted(found, key=lambda finding: finding.remedy is None)


def _progress(entries: Sequence[dict[str, Any]], settings: dict[str, Any]) -> Iterator[Finding]:
    step, most = max((entry["step"] for entry in entries), default=0), settings.get("max_steps")
    if most is None or step >= most:
        yield Finding(f"The run is at its end, step {step}")
    else:
        left = next((entry["seconds_left"] for entry in reversed(entries) if "seconds_left" in entry), None)
        when = "" if left is None else f", at its last speed {left / 3600:.1f} h before the end"
        remedy = "If it was stopped, run the same command again with resume_from_checkpoint=true"
        yield Finding(f"Step {step} of {most}{when}", remedy)


def _losses(entries: Sequence[dict[str, Any]], config: dict[str, Any]) -> Iterator[Finding]:
    logged = [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]
    wrong = [step for step, loss in logged if not math.isfinite(loss)]
    if wrong:
        yield Finding(
            f"{len(wrong)} logged losses are not finite, the first at step {wrong[0]}",
            "Lower learning_rate, set max_grad_norm=1.0, and continue from a checkpoint before that step",
        )
    last = next((entry["audio_loss"] for entry in reversed(entries) if "audio_loss" in entry), None)
    if last is not None and "codebook_size" in config:
        chance = math.log(config["codebook_size"])
        text = f"Audio loss {last:.3f} nats a codebook; drawing codes at random costs {chance:.3f}"
        remedy = "Train longer, or raise learning_rate; if it stays, compare the codec of model and codes"
        yield Finding(text, remedy if last >= chance else None)


def _held_out(entries: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    losses = [(entry["eval_loss"], entry["step"]) for entry in entries if "eval_loss" in entry]
    if not losses:
        yield Finding("No loss of held-out segments was logged", "Set eval_codes and eval_strategy to see overfitting")
        return
    (best, best_step), (last, last_step) = min(losses), losses[-1]
    remedy = f"It was lowest at step {best_step}: take that checkpoint, or train on more recordings"
    yield Finding(
        f"Held-out loss {last:.3f} at step {last_step}, lowest {best:.3f} at step {best_step}",
        remedy if last > _RISE * best else None,
    )


def _memories(entries: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    gated = (entry for entry in reversed(entries) if any(name.endswith("/gate") for name in entry))
    last: dict[str, Any] = next(gated, {})
    for name, gate in last.items():
        if name.endswith("/gate"):
            layer = name.removesuffix("/gate")
            share = last.get(f"{layer}/key_dependent_share")
            text = f"{layer}: gate {gate:.4f}" + ("" if share is None else f", key_dependent_share {share:.3f}")
            has_collapsed = share is not None and share < _LOW_SHARE
            remedy = "Every key gets the same answer: lower config.ttt.base_lr, or set inner_lr_warmup_steps"
            yield Finding(text, remedy if has_collapsed else None)
