"""Hashes tell models apart, and know one again in another dtype."""

import torch

from hf_moshi_ttt.live.fingerprint import fingerprint

from .conftest import awake_model


def test_hashes_follow_values_and_the_portable_one_not_the_dtype() -> None:
    model, own = awake_model(), fingerprint(awake_model())
    assert fingerprint(model) == own
    half = fingerprint(awake_model().to(torch.bfloat16))
    assert half.portable == own.portable and half.exact != own.exact
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    other = fingerprint(model)
    assert other.exact != own.exact and other.portable != own.portable


def test_hashes_follow_what_a_state_depends_on() -> None:
    model, own = awake_model(), fingerprint(awake_model())
    model.config.ttt.centering_horizon_frames += 1
    other = fingerprint(model)
    assert other.exact != own.exact and other.portable != own.portable
