"""CPU time of a training step and of reading, of TTT-E2E beside the arms of recall on the motif (96 frames, 8 rows).

    python benchmarks/end_to_end.py

Arms take turns, and the least of all rounds counts; a load on the machine changes ratios little.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_moshi_ttt.training.recall_run import draw_test, make_model
from hf_moshi_ttt.training.recall_setup import CONTROL, make_setup

ARMS = ",".join(
    ["static", "window", "ttt", "e2e+inner_lr=0", "e2e", "e2e+second_order=false", "e2e+chunk_frames=8"]
)  # fmt: skip


def train(model: Any, optimizer: torch.optim.Optimizer, codes: Tensor) -> None:
    model(codes=codes, labels=codes, return_logits=False).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def read(model: Any, codes: Tensor) -> None:
    model(codes=codes, labels=codes, return_logits=False)


def cpu_sec(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default=ARMS, help="with static, which they are compared with (%(default)s)")
    parser.add_argument("--rounds", type=int, default=14)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setup = make_setup("motif", {})
    codes = draw_test(setup.stages[0], setup.size.batch_size).codes_BKT
    calls, parameters = {}, {}
    for arm in arguments.arms.split(","):
        torch.manual_seed(0)
        model = make_model(setup, arm)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        calls[arm] = (partial(train, model, optimizer, codes), partial(read, model, codes))
        parameters[arm] = sum(parameter.numel() for parameter in model.parameters())
    rounds = [{arm: [cpu_sec(call) for call in pair] for arm, pair in calls.items()} for _ in range(arguments.rounds)]
    least = {arm: [min(times) for times in zip(*(one[arm] for one in rounds), strict=True)] for arm in calls}
    for arm, (step, reading) in least.items():
        by_static = [mine / control for mine, control in zip((step, reading), least[CONTROL], strict=True)]
        print(
            f"{arm:28} training step {1e3 * step:6.1f} ms ({by_static[0]:.2f} x static), reading {1e3 * reading:6.1f} "
            f"ms ({by_static[1]:.2f} x), {parameters[arm]:,} parameters"
        )


if __name__ == "__main__":
    main()
