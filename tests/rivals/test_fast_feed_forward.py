"""The feed-forward with fast weights: alone as the slow one, and with each row's own weights."""

import torch
from torch import nn
from torch.func import functional_call

from hf_moshi_ttt.rivals.fast_feed_forward import FastGatedMLP, fast_weight_names
from hf_moshi_ttt.transformer.attention import GatedMLP


def make_pair() -> tuple[GatedMLP, FastGatedMLP]:
    torch.manual_seed(0)
    slow = GatedMLP(6, 20)
    return slow, FastGatedMLP.beside(slow)


def test_a_fresh_one_is_the_slow_one_to_the_bit() -> None:
    slow, pair = make_pair()
    x = torch.randn(2, 5, 6)
    assert torch.equal(pair(x), slow(x))
    assert pair.fc1 is slow.fc1 and pair.fc2 is slow.fc2 and bool(pair.fast_fc1.any())


def test_the_fast_one_is_added() -> None:
    slow, pair = make_pair()
    nn.init.normal_(pair.fast_fc2)
    other = GatedMLP(6, 20)
    other.load_state_dict({"fc1.weight": pair.fast_fc1, "fc2.weight": pair.fast_fc2})
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(pair(x), slow(x) + other(x))


def test_each_row_may_have_its_own_weights() -> None:
    _, pair = make_pair()
    x, rows = torch.randn(3, 5, 6), {"fast_fc1": torch.randn(3, 20, 6), "fast_fc2": torch.randn(3, 6, 10)}
    together = functional_call(pair, rows, (x,))
    for row in range(3):
        own = {name: weight[row] for name, weight in rows.items()}
        torch.testing.assert_close(together[row], functional_call(pair, own, (x[row],)))


def test_names_are_those_of_the_fast_weights() -> None:
    model = nn.Sequential(GatedMLP(6, 20), make_pair()[1], make_pair()[1])
    assert fast_weight_names(model) == ("1.fast_fc1", "1.fast_fc2", "2.fast_fc1", "2.fast_fc2")
