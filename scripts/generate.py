"""Continues a held-out recording frame by frame from the streaming state and writes the continuation as a wav."""

import argparse
import json
import time
from pathlib import Path

import soundfile
import torch

from hf_moshi_ttt.codec.audio import FRAME_RATE_HZ, frames_from_sec
from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.data.collator import MoshiTTTCollator
from hf_moshi_ttt.data.compatibility import warn_where_unknown
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.processing_moshi_ttt import MoshiTTTProcessor
from hf_moshi_ttt.streaming.generation_moshi_ttt import Sampling


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="name or path of a TTT-Moshi checkpoint")
    parser.add_argument("--codes", required=True, help="folder of encoded recordings (scripts/prepare_data.py)")
    parser.add_argument("--recording", type=int, default=0, help="which of them to continue (%(default)s)")
    parser.add_argument("--prompt-sec", type=float, default=60.0, help="how much of it is the prompt (%(default)s)")
    parser.add_argument("--new-sec", type=float, default=10.0, help="how much is generated (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the audio codes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
    parser.add_argument("--output", required=True, help="the wav to write; a .json beside it says how it was made")
    arguments = parser.parse_args()
    if frames_from_sec(arguments.new_sec) < 1:
        parser.error(f"--new-sec {arguments.new_sec}: at least one frame of 0.08 s must be generated")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    model = MoshiTTTForConditionalGeneration.from_pretrained(arguments.model).eval()
    processor = MoshiTTTProcessor.from_pretrained(arguments.model)
    sample_rate_hz = processor.codec.config.sampling_rate  # a codec that is not there is missed before the long part
    codes, provenance = load_codes(arguments.codes)
    warn_where_unknown(model.config, provenance, arguments.codes)
    row = codes[arguments.recording]
    prompt = row["codes"][:, : frames_from_sec(arguments.prompt_sec)]
    frames, _ = MoshiTTTCollator(model.config, provenance.silence_codes).frame_codes(prompt.astype("int64"))
    state = model(torch.from_numpy(frames)[None], state=model.init_state(1)).state
    generator = torch.Generator().manual_seed(arguments.seed)
    start = time.monotonic()
    result = model.generate(
        state=state,
        max_new_frames=frames_from_sec(arguments.new_sec),
        sampling=Sampling(temperature=arguments.temperature, generator=generator),
        progress=True,
    )
    rate = result.codes.shape[2] / (time.monotonic() - start)
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(output, processor.decode_audio(result.codes)[0], sample_rate_hz)
    report = {"prompt": row["path"], "frames_per_second": rate, "real_time": rate / FRAME_RATE_HZ, **vars(arguments)}
    if model.config.text_tokenizer is not None:
        report["text"] = processor.decode_text(result.codes)[0]
    output.with_suffix(".json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(f"text: {report.get('text', 'none, the model was trained without text')!r}")
    print(f"{arguments.new_sec} s at {rate:.1f} frames/s, {rate / FRAME_RATE_HZ:.2f} times real time, in {output}")


if __name__ == "__main__":
    main()
