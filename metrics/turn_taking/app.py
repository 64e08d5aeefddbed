"""The Space of the metric: an audio file for each side of a conversation in, numbers out, the card below."""

from pathlib import Path
from typing import Any

import evaluate

from hf_moshi_ttt.evaluation.metric_widget import card_text
from hf_moshi_ttt.evaluation.voice_activity import METHODS

FOLDER = Path(__file__).parent


def interface(metric: Any) -> Any:
    """The page, for `launch`."""
    import gradio

    sides = [gradio.Audio(label=f"{side}: one channel, time-aligned", type="filepath") for side in ("user", "model")]
    method = gradio.Radio(list(METHODS), value=METHODS[0], label="voice activity")
    return gradio.Interface(
        fn=lambda user, model, vad: metric.compute(user=[user], model=[model], vad=vad),
        inputs=[*sides, method],
        outputs=gradio.JSON(label="numbers"),
        title="Turn-taking",
        article=card_text(FOLDER),
    )


if __name__ == "__main__":
    interface(evaluate.load(str(FOLDER))).launch()
