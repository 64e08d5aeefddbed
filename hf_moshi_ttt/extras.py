"""Packages that only some commands need: what for, and the command that gets each of them."""

from importlib.util import find_spec
from typing import NamedTuple

MOSHI_VERSION = "0.2.13"


class Extra(NamedTuple):
    """An optional package: the module to import, what needs it, and how to get it."""

    module: str
    purpose: str
    command: str


def _extra(module: str, purpose: str, name: str) -> Extra:
    return Extra(module, purpose, f"pip install 'hf_moshi_ttt[{name}]'")


EXTRAS = {
    "moshi": Extra(
        "moshi",
        "comparison with Kyutai's engine",
        f"pip install --no-deps moshi=={MOSHI_VERSION} (without --no-deps it would replace torch and huggingface_hub "
        "with old versions that it pins and does not need)",
    ),
    "pocketsphinx": _extra("pocketsphinx", "annotate: word times from transcripts", "align"),
    "tensorboard": _extra("tensorboard", "report_to=tensorboard", "trackers"),
    "trackio": _extra("trackio", "report_to=trackio", "trackers"),
    "wandb": _extra("wandb", "report_to=wandb", "trackers"),
    "aiohttp": _extra("aiohttp", "serve: the live server", "live"),
    "prometheus-client": _extra("prometheus_client", "serve: the live server", "live"),
    "av": _extra("av", "M4A and M4B files; demo: human speech", "m4a"),
    "chatterbot-corpus": _extra("chatterbot_corpus", "demo: conversations", "demo"),
    "hibari-tts": _extra("hibari", "demo: narrated books", "demo"),
    "rdata": _extra("rdata", "demo: texts of books", "demo"),
    "silero-vad": _extra("silero_vad", "turn-taking: --vad silero", "turn-taking"),
    "onnxruntime": _extra("onnxruntime", "turn-taking: --vad silero", "turn-taking"),
    "flash-linear-attention": Extra("fla", "gated_delta at full speed on GPUs", "pip install flash-linear-attention"),
    "triton": Extra("triton", "kernels of flash-linear-attention and torch.compile on GPUs", "pip install triton"),
    "torchcodec": Extra(
        "torchcodec", "Audio features of datasets; our own reader needs it not", "pip install torchcodec"
    ),
}


def how_to_get(module: str | None) -> str | None:
    """What to say of a module that is missing: who needs it and how to get it; None for one that is not optional."""
    known = {extra.module: (package, extra) for package, extra in EXTRAS.items()}
    package, extra = known.get((module or "").partition(".")[0], (None, None))
    return extra and f"{package} is not installed, which is for {extra.purpose}. Get it: {extra.command}"


def require_extras(packages: list[str]) -> None:
    """Raises ValueError for the first of some packages that is optional and not installed."""
    for package in packages:
        if package in EXTRAS and find_spec(EXTRAS[package].module) is None:
            raise ValueError(f"{how_to_get(EXTRAS[package].module)}")
