"""Turn-taking of two-channel conversations, as a module of `evaluate`."""

from pathlib import Path

import datasets
import evaluate
import numpy as np

from hf_moshi_ttt.evaluation.spoken_words import words_from
from hf_moshi_ttt.evaluation.turn_taking import hear, turn_taking_numbers

_DESCRIPTION = """
How a speech model takes turns: whether it takes over in the user's pauses, answers at the ends of turns and how fast,
yields to interruptions, and says backchannels; and the events of dGSLM (inter-pausal units, pauses, gaps, overlaps).
"""
_CITATION = """
@article{lin2025fullduplexbench,
  title={Full-Duplex-Bench: A Benchmark to Evaluate Full-duplex Spoken Dialogue Models on Turn-taking Capabilities},
  author={Lin, Guan-Ting and Lian, Jiachen and Li, Tingle and Wang, Qirui and Anumanchipalli, Gopala and
    Liu, Alexander H. and Lee, Hung-yi},
  journal={arXiv preprint arXiv:2503.04721},
  year={2025}
}
@article{nguyen2022dgslm,
  title={Generative Spoken Dialogue Language Modeling},
  author={Nguyen, Tu Anh and Kharitonov, Eugene and Copet, Jade and Adi, Yossi and Hsu, Wei-Ning and Elkahky, Ali and
    Tomasello, Paden and Algayres, Robin and Sagot, Benoit and Mohamed, Abdelrahman and Dupoux, Emmanuel},
  journal={arXiv preprint arXiv:2203.16502},
  year={2022}
}
"""
_INPUTS = """
Args:
    user: the user's side of each conversation: samples at 24 kHz in [-1, 1], or the path of an audio file of any rate.
    model: the model's side of each, time-aligned and equally long, in the same form.
    words: what the model says in each, for takeovers by number of words: the path of a transcript as in
        Full-Duplex-Bench, or a list of [text, start_sec, end_sec]; None where unknown.
    vad: "energy", or "silero" (needs silero-vad and onnxruntime).
Returns:
    Rates with <name>_interval (Wilson) and <name>_count; delays as <name>_median_sec (with an interval over
    conversations), <name>_p90_sec and <name>_count; events as <event>_per_min and <event>_sec_per_min. What has no
    event is absent.
"""


class TurnTaking(evaluate.Metric):
    """`compute(user=[samples or path per conversation], model=[...])`."""

    def _info(self) -> evaluate.MetricInfo:
        samples, path = datasets.Sequence(datasets.Value("float32")), datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"user": samples, "model": samples}),
                datasets.Features({"user": path, "model": path}),
            ],
            reference_urls=["https://arxiv.org/abs/2503.04721", "https://arxiv.org/abs/2203.16502"],
        )

    def add_batch(self, *, user, model, **others):
        """evaluate's method, with errors that say what is expected; Path objects are taken too."""
        super().add_batch(**_sides(user, model), **others)

    def _compute(self, user, model, vad="energy", words=None):
        words = [None] * len(user) if words is None else [words_from(one) for one in words]
        if len(words) != len(user):
            raise ValueError(f"words of {len(words)} conversations for {len(user)}: give one a conversation, or None.")
        talks = zip(user, model, words, strict=True)
        return turn_taking_numbers([hear(*both, vad=vad, words=said) for *both, said in talks])


def _sides(user, model):
    """Both sides, with paths as texts."""
    for name, side in (("user", user), ("model", model)):
        if side is None or isinstance(side, (str, Path)) or not all(map(_is_side, side)):
            raise ValueError(
                f"{name} must be a list with an entry a conversation: samples [S] at 24 kHz, or the path of a file."
            )
    if not len(user) == len(model) > 0:
        raise ValueError(f"{len(user)} users and {len(model)} models: give both sides of one conversation at least.")
    kinds = {isinstance(entry, (str, Path)) for entry in (*user, *model)}
    if len(kinds) > 1:
        raise ValueError("Some entries are paths and some are samples: give all as one of the two.")
    return {"user": _plain(user), "model": _plain(model)}


def _is_side(entry):
    return isinstance(entry, (str, Path)) or (np.ndim(entry) == 1 and len(entry) > 0)


def _plain(side):
    return [str(entry) if isinstance(entry, Path) else entry for entry in side]
