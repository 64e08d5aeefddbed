"""The Space of the metric: two recordings in, the numbers out, the card below."""

from pathlib import Path
from typing import Any

import evaluate

from hf_moshi_ttt.evaluation.metric_widget import card_text

FOLDER = Path(__file__).parent


def page(metric: Any) -> Any:
    """The page, for `launch`."""
    import gradio

    sides = ("the user", "the model")
    return gradio.Interface(
        fn=lambda user, model: metric.compute(user=[user], model=[model]),
        inputs=[gradio.Audio(type="filepath", label=f"{side}, one channel, time-aligned") for side in sides],
        outputs=gradio.JSON(label="numbers"),
        title="Turn-taking",
        description=metric.info.description,
        article=card_text(FOLDER),
    )


if __name__ == "__main__":
    page(evaluate.load(str(FOLDER))).launch()
