"""Turn-taking while a model trains: every N steps it answers the users of a few held-out conversations.

trainer.add_callback(TurnTakingCallback(trainer, Corpus(codes, silence_codes), every_steps=500))
"""

from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoints.adapters import without_adapters
from ..evaluation.turn_outcomes import DELAYS, RATES
from ..processing_moshi_ttt import MoshiTTTProcessor
from ..streaming.generation_moshi_ttt import Sampling

if TYPE_CHECKING:
    from ..evaluation.conversation_runs import Corpus, Setup

LOGGED = (*RATES, *(f"{name}_median_sec" for name in DELAYS), "backchannels_per_min", "model_speaking_share")


class TurnTakingCallback(TrainerCallback):
    """Logs `eval_<name>` for the names in `LOGGED`; a number without any event is absent from that log.

    The training does not change: draws come from a generator of their own, with the same seed each time.

    Args:
        trainer: whose log takes the numbers.
        corpus: the conversations; all of them are driven each time.
        setup: how they are driven and heard; `Setup()` by default.

    Raises:
        ValueError: `every_steps` below 1, or a codec that is not that of the model.
    """

    def __init__(self, trainer: Trainer, corpus: "Corpus", every_steps: int, setup: "Setup | None" = None) -> None:
        if every_steps < 1:
            raise ValueError(f"every_steps={every_steps}, but it must be at least 1.")
        self.trainer = trainer
        self.corpus = corpus
        self.every_steps = every_steps
        self.setup = setup
        self.processor = MoshiTTTProcessor(self._model().config)
        self.processor.codec  # noqa: B018  a codec that is not there is missed before the training

    def _model(self) -> Any:
        return without_adapters(self.trainer.model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """transformers' hook."""
        if state.global_step % self.every_steps == 0:
            numbers = self._measure()
            should_log = control.should_log
            self.trainer.log({f"eval_{name}": numbers[name] for name in LOGGED if name in numbers})
            control.should_log = should_log  # Trainer takes a log for the one that this step is due
        return control

    def _measure(self) -> dict[str, Any]:
        from ..evaluation.conversation_runs import Setup, hear_model
        from ..evaluation.turn_taking import turn_taking_numbers

        model = self._model()
        sampling = Sampling.from_generation_config(model.generation_config)
        heard = hear_model(model, self.processor, self.corpus, self.setup or Setup(), sampling, progress=False)
        return turn_taking_numbers(heard)
