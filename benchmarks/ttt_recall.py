"""The sweep that chose `base_lr`, the initialisation and `initial_retention` of the preset `mini_batch`.

    python benchmarks/ttt_recall.py                 # about 15 minutes on one core

Every cell is a fresh memory on a stream with a known key -> value map (`memory/recall.py`); printed are inner losses
divided by that of the best constant answer (1 = nothing learned, 2 = a random answer). Tasks: 32 keys, 64 keys,
noisy values (noise as large as the values), each over 4 minutes (3,000 frames, mean loss of the last 3), and a map that
changes every minute for 2 hours (mean loss of the last half hour). The score of a setting is the geometric mean over
tasks and depths; each setting is scored with its best partners.

An inner learning rate is left out where it cannot be trained: the outer gradient of the answers to the last 16 frames
by the first 100 frames exceeds that by the last 16 themselves, on a stream of 3,000 frames with every gate of the
inner learning rate at its maximum (twice the initial one).
"""

import argparse
import itertools
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from hf_moshi_ttt import TTTConfig
from hf_moshi_ttt.memory.layer import TTTLearner
from hf_moshi_ttt.memory.recall import RecallStream, best_constant_loss, follow, make_recall_stream

BASE_LRS = (0.3, 1.0, 3.0, 10.0, 30.0)
SPREADS = ("0.02", "x0.3", "x1", "x3")  # N(0, 0.02) as in the paper, or fan-in times a factor
RETENTIONS = (0.98, 0.99, 0.995, 0.998, 0.9999)
SHORT_TASKS = {"32 keys": {}, "64 keys": {"num_keys": 64}, "noise": {"noise": 1.0}}
WIDTH, SHORT_FRAMES, MINUTE_FRAMES = 64, 3000, 750
Setting = tuple[float, str, float]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--hours", type=float, default=2.0, help="of the changing map (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_learner(depth: int, heads: Sequence[tuple[str, float]], seed: int) -> TTTLearner:
    """A learner with one head for each (spread, retention); its highest rate is twice the largest of `BASE_LRS`."""
    torch.manual_seed(seed)
    learner = TTTLearner(
        len(heads), WIDTH, TTTConfig(preset="mini_batch", ttt_mlp_layers=depth, base_lr=2 * max(BASE_LRS))
    )
    with torch.no_grad():
        for weight in learner.inner_weights:
            fan_in = weight[0].clone()
            for head, (spread, _) in enumerate(heads):
                weight[head] = fan_in * (0.02 / fan_in.std() if spread == "0.02" else float(spread[1:]))
        learner.keep_logit.copy_(torch.tensor([math.log(retention / (1 - retention)) for _, retention in heads]))
    return learner


def rate_logits(base_lrs: Sequence[float]) -> Tensor:
    """Gate logits with which the learner above runs at `base_lr` and an initial gate of one half."""
    return torch.tensor([lr / 2 / (2 * max(BASE_LRS)) for lr in base_lrs]).logit()


def losses(learner: TTTLearner, stream: RecallStream, heads: int, last_frames: int) -> Tensor:
    """Mean loss over the last frames divided by that of the best constant answer, `[rate, head]`."""
    before, after = stream.part(0, len(stream.keys_TF) - last_frames), stream.part(-last_frames, len(stream.keys_TF))
    logits = rate_logits(BASE_LRS)
    _, state = follow(learner, before, heads, gate_logits_B=logits, diagnostics=False, chunk_frames=3000)
    found, _ = follow(learner, after, heads, state, logits)
    assert found is not None, "diagnostics were asked for"
    return found.loss_before.mean(-1) / best_constant_loss(learner, stream)


def gradient_growth(depth: int, heads: Sequence[tuple[str, float]], seed: int) -> Tensor:
    """How much larger the outer gradient by the first 100 values is than by the last 16, `[rate, head]`."""
    learner, stream = make_learner(depth, heads, seed), make_recall_stream(SHORT_FRAMES, WIDTH, seed=seed)
    growth = []
    for base_lr in BASE_LRS:
        shape = (1, len(heads), *stream.keys_TF.shape)
        k, v = stream.keys_TF.expand(shape), stream.values_TF.expand(shape).clone().requires_grad_()
        gates = rate_logits([2 * base_lr]).expand(*shape[:3], 1)
        z, _, _ = learner(k, k, v, gates, None, False)
        probe = torch.randn(z[:, :, -16:].shape, generator=torch.Generator().manual_seed(seed))
        (grad,) = torch.autograd.grad((z[:, :, -16:] * probe).sum(), v)
        norms = grad.norm(dim=-1)[0]
        growth.append(norms[:, :100].mean(-1) / norms[:, -16:].mean(-1))
    return torch.stack(growth)


def print_table(title: str, columns: Sequence[object], values: Tensor) -> None:
    print(f"\n{title}\n{'base_lr':>9} " + " ".join(f"{column!s:>8}" for column in columns))
    for base_lr, row in zip(BASE_LRS, values.tolist(), strict=True):
        print(f"{base_lr:>9} " + " ".join(f"{value:>8.3g}" for value in row), flush=True)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    start, seed = time.monotonic(), arguments.seed
    heads = list(itertools.product(SPREADS, RETENTIONS))
    scores = {setting: 0.0 for setting in ((lr, *head) for lr in BASE_LRS for head in heads)}
    trainable = dict.fromkeys(scores, True)
    middle = RETENTIONS.index(TTTConfig(preset="mini_batch").initial_retention)
    for depth in tqdm(arguments.depths, desc="depth"):
        growth = gradient_growth(depth, heads, seed)
        print_table(
            f"depth {depth}: growth of the outer gradient, by spread", SPREADS, growth[:, middle :: len(RETENTIONS)]
        )
        tasks = {}
        for name, options in SHORT_TASKS.items():
            stream = make_recall_stream(SHORT_FRAMES, WIDTH, seed=seed, **options)
            tasks[name] = losses(make_learner(depth, heads, seed), stream, len(heads), 3 * MINUTE_FRAMES)
        frames = int(arguments.hours * 60 * MINUTE_FRAMES)
        changing = make_recall_stream(frames, WIDTH, period_frames=MINUTE_FRAMES, seed=seed)
        tasks["changing"] = losses(make_learner(depth, heads, seed), changing, len(heads), frames // 4)
        for name, found in tasks.items():
            print_table(
                f"depth {depth}, {name}: by spread, retention {RETENTIONS[middle]}",
                SPREADS,
                found[:, middle :: len(RETENTIONS)],
            )
        fan_in = slice(SPREADS.index("x1") * len(RETENTIONS), (SPREADS.index("x1") + 1) * len(RETENTIONS))
        print_table(f"depth {depth}, changing: by retention, spread x1", RETENTIONS, tasks["changing"][:, fan_in])
        for (row, base_lr), (column, head) in itertools.product(enumerate(BASE_LRS), enumerate(heads)):
            setting = (base_lr, *head)
            scores[setting] += sum(math.log(found[row, column]) for found in tasks.values())
            trainable[setting] &= bool(growth[row, column] < 1)
    print_verdict(scores, trainable, cells=4 * len(arguments.depths))
    print(f"{time.monotonic() - start:.0f} s")


def print_verdict(scores: dict[Setting, float], trainable: dict[Setting, bool], cells: int) -> None:
    means = {setting: math.exp(score / cells) for setting, score in scores.items()}
    retained = {setting: mean for setting, mean in means.items() if trainable[setting]}
    for index, name in enumerate(("base_lr", "initial spread", "retention")):
        values = dict.fromkeys(setting[index] for setting in scores)
        best = {v: min((mean for s, mean in retained.items() if s[index] == v), default=None) for v in values}
        found = ", ".join(f"{v}: {'cannot be trained' if mean is None else f'{mean:.3f}'}" for v, mean in best.items())
        print(f"\n{name}, with the best partners: {found}")
    best_setting = min(retained, key=retained.__getitem__)
    config = TTTConfig(preset="mini_batch")
    default = (config.base_lr, "x1", config.initial_retention)
    print(
        f"\nbest: base_lr, spread, retention = {best_setting} with {retained[best_setting]:.3f}; default {default}",
        end="",
    )
    print(f" with {means[default]:.3f}" if default in means else " is not in the sweep")


if __name__ == "__main__":
    main()
