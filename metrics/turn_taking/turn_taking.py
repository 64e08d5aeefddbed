"""Turn-taking of two-channel conversations, as a module of `evaluate`."""

import datasets
import evaluate

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

    def _compute(self, user, model, vad="energy"):
        return turn_taking_numbers([hear(*both, vad=vad) for both in zip(user, model, strict=True)])
