"""A stream of ten simulated hours on a small seeded model: what grows, what slows down, what drifts.

    python benchmarks/ten_hours.py [--hours 10] [--learner ttt]

The hours pass in chunks of 1,000 frames, which are exact; at the start and after every hour some live frames are timed
and compared with one call on the same frames. Printed are the largest norm of the memories, the resident memory of the
process, the 50th and 99th percentile of a live frame, and the largest difference of its logits.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from hf_moshi_ttt import GREEDY, MoshiTTTConfig, MoshiTTTForConditionalGeneration, MoshiTTTState

CHUNK_FRAMES = 1000
FRAMES_PER_HOUR = 45_000


def make_model(learner: str) -> Any:
    """The tiny model with a memory that takes part."""
    torch.manual_seed(0)
    config = MoshiTTTConfig.from_preset("tiny", ttt={"learner": learner})
    model = MoshiTTTForConditionalGeneration(config).eval()
    for layer in model.model.layers:
        if layer.has_ttt:
            torch.nn.init.normal_(layer.ttt.o_proj.weight, std=0.3)
    return model


def random_codes(model: Any, frames: int) -> torch.Tensor:
    """Codes `[1, K, frames]`."""
    config = model.config
    codes = torch.randint(config.codebook_size, (1, config.num_streams, frames))
    codes[:, 0] = torch.randint(config.text_vocab_size, (1, frames))
    return codes


def memory_norm(state: MoshiTTTState) -> float:
    """The largest norm of a tensor of the memories, without what counts frames."""
    tensors = (x for memory in state.memory for x in memory.named_tensors().values())
    return max(float(x.norm()) for x in tensors if x.is_floating_point())


def resident_mib() -> float:
    """Memory of this process."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def live_frames(model: Any, state: MoshiTTTState, frames: int) -> tuple[MoshiTTTState, torch.Tensor, float]:
    """Steps frame by frame; the state after them, their times in ms, the largest difference to one call."""
    codes = random_codes(model, frames)
    whole, times, logits = model(codes, state=state.clone(), text_only=True).text_logits[0], [], []
    for frame in range(frames):
        begin = time.perf_counter()
        step = model.step_with_logits(codes[:, :, frame], state, GREEDY)
        times.append(1e3 * (time.perf_counter() - begin))
        state = step.state
        logits.append(step.text_logits[0])
    return state, torch.tensor(times), float((torch.stack(logits) - whole).abs().max())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=10)
    parser.add_argument("--learner", default="ttt", choices=["ttt", "gated_delta", "static"])
    parser.add_argument("--live-frames", type=int, default=200, help="timed at the start and after every hour")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = make_model(arguments.learner)
    state = model.init_state(1)
    live_frames(model, model.init_state(1), 50)  # warms up
    print(f"{'hour':>5} {'norm':>9} {'MiB':>8} {'p50 ms':>8} {'p99 ms':>8} {'difference':>11}")
    for hour in range(arguments.hours + 1):
        state, times, difference = live_frames(model, state, arguments.live_frames)
        p50, p99 = (float(times.quantile(q)) for q in (0.5, 0.99))
        cells = f"{memory_norm(state):>9.3f} {resident_mib():>8.0f} {p50:>8.2f} {p99:>8.2f} {difference:>11.1e}"
        print(f"{hour:>5} {cells}", flush=True)
        for _ in range(FRAMES_PER_HOUR // CHUNK_FRAMES if hour < arguments.hours else 0):
            state = model(random_codes(model, CHUNK_FRAMES), state=state, text_only=True).state


if __name__ == "__main__":
    main()
