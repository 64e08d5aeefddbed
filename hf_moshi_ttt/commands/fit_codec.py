"""Fit a log-mel codec on a folder of recordings and save it for `AutoModel.from_pretrained`.

Reads all audio below AUDIO_DIR, an even share of `--max-minutes` from each. Every 20th file (the first, if
there are fewer) is held back, and the quality that is printed is measured on those.

    hf-moshi-ttt fit-codec AUDIO_DIR --output DIR
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .parser import SEED, add_json, number, whole

HELD_OUT_MINUTES = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("audio_dir", type=Path, help="folder of audio of any rate, mono or not")
    parser.add_argument("--output", type=Path, required=True, help="folder for config.json and model.safetensors")
    parser.add_argument(
        "--max-minutes", type=number(0, is_open=True), default=90.0, help="audio to fit on (%(default)s)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of excerpts, frames and k-means (%(default)s)")
    parser.add_argument("--num-quantizers", type=whole(1), default=8, help="codebooks (%(default)s)")
    parser.add_argument("--codebook-size", type=whole(1), default=2048, help="ids of a codebook (%(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fits, saves and measures the codec; returns its quality."""
    from ..codec.configuration_log_mel_codec import LogMelCodecConfig
    from ..codec.log_mel_codec_fit import fit_log_mel_codec, measure_codec, read_excerpts

    config = LogMelCodecConfig(num_quantizers=arguments.num_quantizers, codebook_size=arguments.codebook_size)
    paths = _audio_below(arguments.audio_dir)
    held_out = paths[::20]
    fitted = [path for path in paths if path not in held_out]
    rate_hz = config.sampling_rate
    start = time.monotonic()
    excerpts = read_excerpts(fitted, rate_hz, arguments.max_minutes * 60, arguments.seed)
    model = fit_log_mel_codec(excerpts, config, seed=arguments.seed)
    model.save_pretrained(arguments.output)
    print(f"{arguments.output}: fitted on {len(fitted)} recordings in {time.monotonic() - start:.0f} s")
    quality = measure_codec(model, read_excerpts(held_out, rate_hz, HELD_OUT_MINUTES * 60, arguments.seed))
    (arguments.output / "quality.json").write_text(json.dumps(asdict(quality)), encoding="utf-8")
    print(f"held-out log-mel variance kept: {quality.variance_kept:.4f} ({quality.num_frames} frames)")
    print("code perplexity by codebook:", " ".join(f"{value:.0f}" for value in quality.perplexity))
    return {"output": str(arguments.output), "recordings": len(fitted), **asdict(quality)}


def _audio_below(folder: Path) -> list[Path]:
    from ..data.bad_files import BadFiles
    from ..data.walk import walk_audio

    bad, left_out = BadFiles(), Counter[str]()
    paths = [folder / name for name in walk_audio(folder, bad, left_out)]
    for reason, count in left_out.items():
        print(f"{count} files left out: {reason}")
    bad.require_few(len(paths) + len(bad.reasons))
    if len(paths) < 2:
        raise ValueError(f"{folder} holds {len(paths)} audio files; one to fit, one to hold back")
    return paths
