"""The gate opens where the answer before came true, by the heads whose answers are about the next frame."""

import torch

from hf_moshi_ttt.memory.answer_gate import AnswerGate, gate_factors

F = 8


def start() -> tuple[torch.Tensor, torch.Tensor]:
    gate = AnswerGate(2).bfloat16()
    gate.reset_parameters()
    return gate()


def test_it_starts_open_where_an_answer_came_true_and_closed_elsewhere() -> None:
    v = torch.randn(1, 2, 3, F)
    answers = torch.stack([0.3 * v[:, :, 1], -v[:, :, 2], v[:, :, 0]], dim=2)  # right, the opposite, whatever
    found = gate_factors(answers, v, torch.zeros(1, 2, F), start(), 0)
    assert found.shape == (1, 2, 3, 1) and found.dtype == torch.float32
    assert (found[:, :, 1] > 0.99).all() and (found[:, :, [0, 2]] < 0.01).all()


def test_it_is_a_sigmoid_of_the_mean_cosine_over_heads_for_each_head() -> None:
    v, weights = torch.ones(1, 2, 2, F), (torch.tensor([0.0, 2.0]), torch.tensor([4.0, 1.0]))
    before = torch.stack([v[0, 0, 0], -v[0, 1, 0]])[None]
    found = gate_factors(torch.stack([v[:, :, 0], v[:, :, 0]], dim=2), v, before, weights, 0)
    logits = torch.tensor([[0.0, 4.0], [2.0, 3.0]])  # cosines 1 and -1, then 1 and 1
    torch.testing.assert_close(found[0, :, :, 0], torch.sigmoid(logits))


def test_heads_of_one_frame_have_no_say() -> None:
    v, answers = torch.randn(2, 2, 2, 4, F)
    before = torch.randn(2, 2, F)
    other = answers.clone()
    other[:, 0] = torch.randn(2, 4, F)
    for same, is_equal in ((1, True), (0, False)):
        found = [gate_factors(x, v, before, start(), same) for x in (answers, other)]
        assert torch.equal(*found) == is_equal
