"""What a log says becomes findings, those with a remedy first."""

from typing import Any

import pytest

from hf_moshi_ttt.training.run_findings import run_findings

CONFIG = {"codebook_size": 32}
GOOD = [
    {"step": 1, "loss": 3.0, "audio_loss": 3.0, "seconds_left": 7200.0},
    {"step": 1, "eval_loss": 3.1},
    {"step": 2, "loss": 2.0, "audio_loss": 2.0, "ttt/layer_1/gate": 0.5, "ttt/layer_1/key_dependent_share": 0.3},
    {"step": 2, "eval_loss": 2.1},
]


def found(entries: list[dict[str, Any]], **settings: Any) -> list[tuple[str, str | None]]:
    return [(finding.what, finding.remedy) for finding in run_findings(entries, settings, CONFIG)]


def test_a_finished_run_without_fault_has_no_remedies() -> None:
    assert found(GOOD, max_steps=2) == [
        ("The run is at its end, step 2", None),
        ("Audio loss 2.000 nats a codebook; drawing codes at random costs 3.466", None),
        ("Held-out loss 2.100 at step 2, lowest 2.100 at step 2", None),
        ("ttt/layer_1: gate 0.5000, key_dependent_share 0.300", None),
    ]


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({}, "Step 2 of 9, at its last speed 2.0 h before the end", "with resume_from_checkpoint=true"),
        ({"loss": float("nan")}, "1 logged losses are not finite, the first at step 3", "Lower learning_rate"),
        ({"audio_loss": 3.47}, "Audio loss 3.470 nats a codebook", "Train longer"),
        ({"eval_loss": 2.2}, "Held-out loss 2.200 at step 3, lowest 2.100 at step 2", "It was lowest at step 2: take"),
        ({"ttt/layer_1/gate": 0.5, "ttt/layer_1/key_dependent_share": 0.001}, "ttt/layer_1: gate", "lower config.ttt."),
    ],
)
def test_faults_have_a_remedy_and_come_first(change: dict[str, float], what: str, remedy: str) -> None:
    entries = [*GOOD, {"step": 3, **change}] if change else GOOD
    findings = found(entries, max_steps=9 if not change else 3)
    assert findings[0][0].startswith(what) and remedy in str(findings[0][1])
    assert [text for text, cure in findings[1:] if cure] == []


def test_a_run_without_held_out_recordings_or_logs() -> None:
    assert found([], max_steps=4)[:2] == [
        ("Step 0 of 4", "If it was stopped, run the same command again with resume_from_checkpoint=true"),
        ("No loss of held-out segments was logged", "Set eval_codes and eval_strategy to see overfitting"),
    ]
