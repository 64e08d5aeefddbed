"""Speed of reading a long recording: blocks against single frames, with given text and with text the model chooses.

    python benchmarks/long_context.py                                                  # preset small, this CPU
    python benchmarks/long_context.py --model runs/demo/finetune --codes runs/demo/codes/librilight_heldout
    python benchmarks/long_context.py --preset moshi-7b --device cuda --dtype bfloat16 --batch-sizes 1 4

Every case starts after the attention window. Ratios are frames per second over those of `stream` at one recording and
the same text. With random weights every frame has a word piece that cannot be guessed, the worst case of `predicted`;
`--pad-logit` makes such a model say PAD more often, and `--model` measures a trained one. Nothing else should run on
the machine.
"""

import argparse
import os
import platform
import time
from typing import Any

import torch
from torch import Tensor

from hf_moshi_ttt import MoshiTTTConfig, MoshiTTTForConditionalGeneration
from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.data.collator import MoshiTTTCollator
from hf_moshi_ttt.evaluation.streamed_losses import BlockReader, losses_by_frame, run_block
from hf_moshi_ttt.special_ids import FREE_ID

POSITIONS = 24_990


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a trained checkpoint in place of a preset with random weights")
    parser.add_argument("--codes", help="folder of encoded recordings, needed with --model")
    parser.add_argument("--preset", default="small", help="(%(default)s)")
    parser.add_argument("--pad-logit", type=float, default=0.0, help="added to that of PAD (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--frames", type=int, default=4000, help="read in blocks (%(default)s)")
    parser.add_argument("--stream-frames", type=int, default=200, help="read one by one (%(default)s)")
    parser.add_argument("--block-frames", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--texts", nargs="+", default=["given", "predicted"], choices=["given", "predicted"])
    return parser.parse_args()


def load(arguments: argparse.Namespace) -> Any:
    if arguments.model:
        model = MoshiTTTForConditionalGeneration.from_pretrained(arguments.model)
    else:
        torch.manual_seed(0)
        with torch.device(arguments.device):
            model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset(arguments.preset))
        for layer in model.model.layers:
            if layer.has_ttt:
                torch.nn.init.normal_(layer.ttt.o_proj.weight, std=0.02)
    bias_V = torch.zeros(model.config.text_vocab_size, device=arguments.device)
    bias_V[model.config.pad_token_id] = arguments.pad_logit
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias_V.to(logits.dtype))
    return model.to(arguments.device, getattr(torch, arguments.dtype)).eval()


def codes_of(model: Any, arguments: argparse.Namespace, frames: int) -> Tensor:
    """`[1, K, T]`, of one recording or random."""
    config = model.config
    if arguments.model is None:
        own = torch.randint(config.codebook_size, (config.num_codebooks, frames)).numpy()
        silence = [0] * config.num_codebooks
    else:
        rows, provenance = load_codes(arguments.codes)
        own = max((row["codes"] for row in rows), key=lambda codes: codes.shape[1])[:, :frames]
        silence = provenance.silence_codes
    return torch.from_numpy(MoshiTTTCollator(config, silence).frame_codes(own.astype("int64"))[0])[None]


def seconds_of(run: Any, device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def nothing(frames: int) -> None:
    pass


def after_window(model: Any, codes_1KT: Tensor, batch: int) -> tuple[Tensor, Any]:
    """The codes after the first attention window, `batch` times, and the state there."""
    window = model.config.sliding_window
    codes = codes_1KT.expand(batch, -1, -1).to(model.device)
    given = codes[:, :, :window].clone()
    given[:, 0] = model.config.end_pad_token_id
    return codes[:, :, window:], BlockReader(model, 512).losses(given, model.init_state(batch), nothing)[1]


def measure(model: Any, codes_1KT: Tensor, batch: int, block: int | None, frames: int) -> tuple[float, int]:
    """Frames per second after the window, over all recordings, and passes."""
    codes, state = after_window(model, codes_1KT, batch)
    part, device = codes[:, :, :frames], str(model.device)
    if block is None:
        losses_by_frame(model, part[:, :, :3], state.clone(), nothing)
        seconds = seconds_of(lambda: losses_by_frame(model, part, state, nothing), device)
        return batch * part.shape[2] / seconds, part.shape[2]
    reader = BlockReader(model, block)
    BlockReader(model, block).losses(part[:, :, :block], state, nothing)
    seconds = seconds_of(lambda: reader.losses(part, state, nothing), device)
    return batch * part.shape[2] / seconds, reader.passes


def pad_share(model: Any, codes_1KT: Tensor) -> float:
    """Of the text that the model chooses in the first frames after the window."""
    codes, state = after_window(model, codes_1KT, 1)
    text = run_block(model, codes[:, :, :256], state).codes[:, 0]
    return float((text == model.config.pad_token_id).float().mean())


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    model = load(arguments)
    codes = codes_of(model, arguments, model.config.sliding_window + arguments.frames)
    device = torch.cuda.get_device_name() if arguments.device != "cpu" else f"{platform.processor()} CPU"
    print(f"{arguments.model or arguments.preset}, {arguments.dtype}, {device}, {arguments.threads} threads, ", end="")
    print(f"window {model.config.sliding_window}, torch {torch.__version__}")
    print(f"{'text':10} {'mode':14} {'batch':>5} {'frames/s':>9} {'ratio':>6} {'passes':>6} {POSITIONS} positions")
    for text in arguments.texts:
        read = codes.clone()
        if text == "predicted":
            read[:, 0] = FREE_ID
            print(f"PAD in {pad_share(model, read):.0%} of frames")
        cases: list[tuple[int, int | None]] = [(1, None)]
        cases += [(batch, block) for batch in arguments.batch_sizes for block in arguments.block_frames]
        baseline = None
        for batch, block in cases:
            frames = arguments.stream_frames if block is None else arguments.frames
            speed, passes = measure(model, read, batch, block, frames)
            baseline = baseline or speed
            mode = "stream" if block is None else f"block {block}"
            print(
                f"{text:10} {mode:14} {batch:5} {speed:9.1f} {speed / baseline:6.1f} {passes:6} "
                f"{POSITIONS / speed:8.0f} s"
            )


if __name__ == "__main__":
    main()
