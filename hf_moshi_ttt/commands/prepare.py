"""Encode a corpus once to int16 codes on disk; training and evaluation read nothing else.

The source is an index or a folder of audio (WAV, FLAC, MP3, Ogg, Opus, SPHERE, AIFF, ... of any rate, mono or two
channels), such as the trees of LibriLight, LibriSpeech and MLS; or, with --audio-column, a dataset of the Hub or of a
folder that `datasets` loads. Finished parts are kept in datasets' cache: a run that was killed continues where it
stopped.

    hf-moshi-ttt prepare RECORDINGS --output codes/mine --num-proc 8
    hf-moshi-ttt prepare openslr/librispeech_asr --audio-column audio --subset clean --split test --output codes/asr
    torchrun --nproc-per-node 8 -m hf_moshi_ttt.commands.console prepare RECORDINGS --output codes/mine
    hf-moshi-ttt prepare CONVERSATIONS --text-tokenizer tokenizer_spm_32k_3.model --output codes/talks
"""

import argparse
from typing import Any

from ..data.bad_files import MAX_BAD_FRACTION
from .parser import UsageError, add_json, number, whole

KINDS = ("librilight", "dailytalk")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "source", help="index of a corpus (.jsonl) or folder of audio; or, with --audio-column, a dataset"
    )
    parser.add_argument("--kind", choices=KINDS, help="kind of corpus; found from its files by default")
    parser.add_argument("--codec", default="kyutai/mimi", help="name or path of a codec (%(default)s)")
    parser.add_argument("--text-tokenizer", help="SentencePiece model for the words of conversations")
    parser.add_argument("--output", required=True, help="folder for the codes")
    parser.add_argument("--swap", action="store_true", help="make the right channel of conversations Moshi's")
    parser.add_argument("--main-speaker", help="label of the left channel's words (SPEAKER_MAIN)")
    parser.add_argument("--data-dir", help="folder that all audio must lie in (the index's own)")
    parser.add_argument("--window-sec", type=number(0.08), help="encode parts of this length, each from a fresh codec")
    parser.add_argument("--num-proc", type=whole(1), default=1, help="processes that encode (%(default)s)")
    parser.add_argument("--batch-size", type=whole(1), help="recordings encoded side by side (1; on a GPU 16)")
    parser.add_argument("--device", help="where the codec runs (a GPU where there is one)")
    parser.add_argument(
        "--max-bad-fraction", type=number(0, 1), default=MAX_BAD_FRACTION, help="unusable files allowed (%(default)s)"
    )
    parser.add_argument("--push-to-hub", metavar="USER/NAME", help="publish the codes as parquet")
    dataset = parser.add_argument_group("a source that datasets loads")
    dataset.add_argument("--audio-column", metavar="NAME", help="column of audio; the source is then a dataset's name")
    dataset.add_argument("--subset", help="its configuration, where it has several")
    dataset.add_argument("--split", help="its split (train)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Encodes the corpus; returns what came of it."""
    from ..data.codes import load_codes, push_codes
    from ..data.corpora import windows
    from ..data.encoding import EncodeOptions, encode_corpus
    from ..data.ranks import Rank

    skipped: dict[str, str] = {}
    kind, corpus = _corpus_of(arguments, skipped)
    print(f"{arguments.source}: {kind} ({'conversations with words' if kind == 'dailytalk' else 'audio alone'})")
    if arguments.window_sec is not None:
        corpus = windows(corpus, arguments.window_sec)
    options = EncodeOptions(
        arguments.device, arguments.num_proc, arguments.batch_size, max_bad_fraction=arguments.max_bad_fraction
    )
    codes = encode_corpus(
        corpus, arguments.codec, arguments.output, arguments.text_tokenizer, options, arguments.source, skipped
    )
    hours = sum(codes["duration_sec"]) / 3600
    print(f"{len(codes)} recordings, {hours:.2f} hours encoded in {arguments.output}")
    if arguments.push_to_hub and Rank.of_this_process().index == 0:
        push_codes(arguments.output, arguments.push_to_hub)
    provenance = load_codes(arguments.output)[1]
    lost = provenance.tokens_beyond_end
    if lost and arguments.window_sec is None:  # a window's last words go on in the next one
        print(f"{lost} text tokens did not fit before the end of their recordings")
    results = {"output": arguments.output, "kind": kind, "recordings": len(codes), "hours": hours}
    return {**results, "left_out": provenance.left_out}


def _corpus_of(arguments: argparse.Namespace, left_out: dict[str, str]) -> tuple[str, Any]:
    """The kind of the corpus, and the corpus.

    Args:
        left_out: takes the files that cannot be used, each with its reason.

    Raises:
        UsageError: options that do not go together.
    """
    loading = {"max_bad_fraction": arguments.max_bad_fraction, "left_out": left_out}
    if arguments.audio_column is None:
        from ..data.corpora import detect_kind, load_corpus

        if arguments.subset or arguments.split:
            raise UsageError("--subset and --split are those of a dataset: name its column with --audio-column")
        kind = arguments.kind or detect_kind(arguments.source, arguments.data_dir)
        speakers = {"swap": arguments.swap, "main_speaker": arguments.main_speaker}
        return kind, load_corpus(arguments.source, kind, data_dir=arguments.data_dir, **speakers, **loading)
    from ..data.audio_datasets import load_audio_dataset

    for option in ("swap", "main_speaker", "data_dir"):
        if getattr(arguments, option):
            raise UsageError(f"--{option.replace('_', '-')} is for files, not for a dataset (--audio-column)")
    if arguments.kind == "dailytalk":
        raise UsageError("--kind dailytalk: conversations with word times are files; a dataset is read as audio alone")
    split = arguments.split or "train"
    return "librilight", load_audio_dataset(
        arguments.source, arguments.audio_column, arguments.subset, split, **loading
    )
