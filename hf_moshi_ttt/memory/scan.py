"""The fast form of the inner loop: any number of frames, each row at its own position of a mini-batch.

`ttt` computes what `naive.naive_ttt` says, in the dual form. Training is one call from a fresh memory, prefill a call
with a state, a live frame a call of length 1. Frames are laid on the grid of mini-batches after the rows' unfinished
ones; how many mini-batches that takes follows from T alone, so nothing is read back from the device. The mini-batches
that are whole for every row run with a derivative written by hand (`derivative.py`), the others with autograd's;
a single frame touches only its own slot of the rings.

Legend: B batch, H heads, N = B * H, T frames, C frames per mini-batch, M mini-batches, F head width, I and O the input
and output width of an inner layer.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .derivative import run_mini_batches
from .dual_form import Frames, Layers, Rule, UnmergedLayers, commit, first_hidden, keys_pass, queries_pass
from .naive import (
    LN_EPS,
    InnerNetwork,
    InnerTokens,
    MemoryDiagnostics,
    TTTState,
    answer,
    apply_network,
    fresh_state,
    frozen_features,
    inner_loss,
    inner_target,
    key_dependent_share,
)


class _Grid(NamedTuple):
    """Frames `[N, M * C, ...]` on the grid of M mini-batches, and what is the same for all of them.

    `slots` `[N, T]` is where each frame lies, `frames_B` how many frames of a row lie before its end.
    """

    rule: Rule
    start: Layers
    frames: Frames
    slots: Tensor
    frames_B: Tensor

    def mini_batches(self, first: int, last: int) -> Frames:
        """Mini-batches `first` .. `last - 1`."""
        size = len(self.rule.position_weights)
        return Frames(*(x[:, first * size : last * size] for x in self.frames))

    def frames_from(self, index: int) -> Tensor:
        """Frames `[B]` of each row from mini-batch `index` on."""
        return self.frames_B - index * len(self.rule.position_weights)

    def taken_back(self, x: Tensor) -> Tensor:
        """The frames' values `[N, T, ...]` from the grid's `[N, M * C, ...]`."""
        if x.shape[1] == self.slots.shape[1]:
            return x
        return x.gather(1, self.slots.view(*self.slots.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))


def ttt(net: InnerNetwork, tokens: InnerTokens, state: TTTState | None = None) -> tuple[Tensor, TTTState]:
    """Learns from all frames and answers to them.

    Args:
        state: the memory to continue from, or None for a fresh one. It is not changed.

    Returns:
        z `[B, H, T, F]` and the state after the last frame.
    """
    (batch, heads, length), size = tokens.q.shape[:3], net.mini_batch_size
    grid, count = _laid_out(net, tokens, state)
    fresh, state = state is None, state or fresh_state(net, tokens)
    if length == 1 and not fresh:
        normed, state_after = _single_frame(grid, _flat(state))
    else:
        whole = range(0 if fresh else 1, length // size)
        normed, state_after = _scan(grid, _flat(state), whole, count)
        normed = grid.taken_back(normed)
    position = (state.position + length) % size
    state_after = state_after.map(lambda name, x: position if name == "position" else _in_heads(x, batch))
    return tokens.q + normed.unflatten(0, (batch, heads)), state_after


def _in_heads(x: Tensor, batch: int) -> Tensor:
    """`[B * H, ...]` as `[B, H, ...]`; where it has a gradient no view, as FSDP2 cannot hook one safely."""
    rows = x.unflatten(0, (batch, -1))
    return rows.clone() if rows.requires_grad else rows


def _laid_out(net: InnerNetwork, tokens: InnerTokens, state: TTTState | None) -> tuple[_Grid, int]:
    """Frames on the grid after the rows' unfinished mini-batches, and the number of mini-batches.

    A single frame of a stream stays as it is, `[N, 1, ...]`.
    """
    (batch, heads, length), size, first = tokens.q.shape[:3], net.mini_batch_size, net.first_learned
    position = tokens.q.new_zeros(batch, dtype=torch.int64) if state is None else state.position
    slots = (position[:, None] + torch.arange(length, device=position.device)).repeat_interleave(heads, 0)
    count = math.ceil(length / size) if state is None else (length + size - 2) // size + 1
    q, k, target = (x.flatten(0, 1) for x in _learned_tokens(net, tokens))
    frames = Frames(q, k, target, tokens.lr.flatten(0, 1))
    if state is None or length > 1:
        frames = Frames(*(_to_grid(x, slots, count * size) for x in frames))
    start = Layers(list(net.weights[first:]), list(net.biases[first:]))
    return _Grid(_rule_of(net, batch), start, frames, slots, position + length), count


def _flat(state: TTTState) -> TTTState:
    """The state with samples and heads on one axis, N."""
    return state.map(lambda name, x: x if name == "position" else x.flatten(0, 1))


def _rule_of(net: InnerNetwork, batch: int) -> Rule:
    """The network's rule for N = batch * H."""

    def per_row(x_HF: Tensor) -> Tensor:
        return x_HF.expand(batch, -1, -1).flatten(0, 1)[:, None]

    retention = None if net.retention_H is None else per_row(net.retention_H[:, None])
    return Rule(net.position_weights_C, retention, per_row(net.norm_weight_HF), per_row(net.norm_bias_HF), LN_EPS)


def _learned_tokens(net: InnerNetwork, tokens: InnerTokens) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys `[B, H, T, I]` as the first learned layer sees them, and the targets `[B, H, T, F]`."""
    target = inner_target(net, tokens.k, tokens.v)
    if net.first_learned == 0:
        return tokens.q, tokens.k, target
    if not torch.is_grad_enabled():
        return frozen_features(net, tokens.q), frozen_features(net, tokens.k), target
    q, k = (checkpoint(frozen_features, net, x, use_reentrant=False, preserve_rng_state=False) for x in tokens[:2])
    return q, k, target


def _to_grid(x: Tensor, slots_NT: Tensor, grid_frames: int) -> Tensor:
    """`[N, T, ...]` on the grid `[N, grid_frames, ...]`, zeros elsewhere."""
    if x.shape[1] == grid_frames:  # then every row starts at position 0
        return x
    index = slots_NT if x.dim() == 2 else slots_NT[:, :, None].expand_as(x)
    return x.new_zeros(x.shape[0], grid_frames, *x.shape[2:]).scatter(1, index, x)


def _scan(grid: _Grid, state: TTTState, whole: range, count: int) -> tuple[Tensor, TTTState]:
    """`count` mini-batches one after the other, of which `whole` are known to be full and to start empty."""
    outputs = []
    for index in range(count):
        if index not in whole:
            normed, state = _mini_batch(grid, index, state)
            outputs.append(normed)
        elif index == whole.start:
            normed, state = _whole_mini_batches(grid, whole, state)
            outputs.append(normed)
    return torch.cat(outputs, dim=1), state


def _whole_mini_batches(grid: _Grid, whole: range, state: TTTState) -> tuple[Tensor, TTTState]:
    """Mini-batches whose rings are empty before and after."""
    part, size = grid.mini_batches(whole.start, whole.stop), len(grid.rule.position_weights)
    frames = Frames(*(x.unflatten(1, (-1, size)).transpose(0, 1).contiguous() for x in part))
    normed, learned = run_mini_batches(frames, grid.rule, grid.start, _delta(state))
    state = replace(state, delta_weights=tuple(learned.weights), delta_biases=tuple(learned.biases))
    return normed.transpose(0, 1).flatten(1, 2), state


def _mini_batch(grid: _Grid, index: int, state: TTTState) -> tuple[Tensor, TTTState]:
    """One mini-batch that rows may enter or leave unfinished."""
    part = grid.mini_batches(index, index + 1)
    step = _step_in_mini_batch(grid, part, state)
    normed, _ = queries_pass(part.q, step.first_q, step.mixing, grid.rule, step.layers, step.inputs, step.grads)
    return normed, _behind(grid, step, state, grid.frames_from(index))


def _single_frame(grid: _Grid, state: TTTState) -> tuple[Tensor, TTTState]:
    """One frame a row, at the row's own position of its rings."""
    frame, layers, slot = grid.frames, UnmergedLayers(grid.start, _delta(state)), grid.slots
    first_k, first_q = first_hidden(frame.k, frame.q, layers)
    keys = keys_pass(frame.k, first_k, frame.target, grid.rule, layers)
    inputs, grads = (
        [ring.scatter(1, slot[:, :, None].expand_as(new), new) for ring, new in zip(rings, news, strict=True)]
        for rings, news in ((state.ring_inputs, keys.inputs), (state.ring_grads, keys.grads))
    )
    lr = state.ring_lr.scatter(1, slot, frame.lr)
    mixing = (grid.rule.position_weights[slot] * lr)[:, None]  # [N, 1, C]; slots to come have lr 0
    step = _Step(layers, inputs, grads, lr, mixing, first_q)
    normed, _ = queries_pass(frame.q, first_q, mixing, grid.rule, layers, inputs, grads)
    return normed, _behind(grid, step, state, grid.frames_B)


class _Step(NamedTuple):
    """The step of a mini-batch so far: weights in use, X_l, G_l and lr of its frames `[N, C, ...]`, and the mixing.

    `first_q` is the first layer's output for the queries.
    """

    layers: Layers | UnmergedLayers
    inputs: list[Tensor]
    grads: list[Tensor]
    lr: Tensor
    mixing: Tensor
    first_q: Tensor


def _step_in_mini_batch(grid: _Grid, part: Frames, state: TTTState) -> _Step:
    """What a row already holds of the mini-batch is taken from its rings."""
    layers = grid.start.plus(_delta(state))
    first_k, first_q = first_hidden(part.k, part.q, layers)
    keys = keys_pass(part.k, first_k, part.target, grid.rule, layers)
    held = state.ring_lr > 0  # [N, C]
    inputs, grads = (
        [_where(held, ring, new) for ring, new in zip(rings, news, strict=True)]
        for rings, news in ((state.ring_inputs, keys.inputs), (state.ring_grads, keys.grads))
    )
    lr = torch.where(held, state.ring_lr, part.lr)
    mixing = (grid.rule.position_weights[:, None] * lr[:, None, :]).tril()
    return _Step(layers, inputs, grads, lr, mixing, first_q)


def _behind(grid: _Grid, step: _Step, state: TTTState, frames_B: Tensor) -> TTTState:
    """The state after a mini-batch that holds `frames_B` frames of each row, C or more where it is full.

    Rows whose mini-batch is full take its step, and no frame of their rings has a rate any more; the others keep it in
    their rings.
    """
    state_with = replace(state, ring_inputs=tuple(step.inputs), ring_grads=tuple(step.grads), ring_lr=step.lr)
    full_B = frames_B >= step.lr.shape[1]
    looks = full_B.device.type == "cpu"  # where looking costs no wait for a device
    if looks and not full_B.any():
        return state_with
    learned = commit(grid.rule.position_weights[-1] * step.lr, grid.rule, _delta(state), step.inputs, step.grads)
    full, all_full = full_B.repeat_interleave(len(step.lr) // len(full_B)), looks and bool(full_B.all())

    def chosen(learned: list[Tensor], before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pairs = zip(learned, before, strict=True)
        return tuple(learned) if all_full else tuple(_where(full, *pair) for pair in pairs)

    return replace(
        state_with,
        delta_weights=chosen(learned.weights, state.delta_weights),
        delta_biases=chosen(learned.biases, state.delta_biases),
        ring_lr=step.lr.masked_fill(full[:, None], 0),
    )


def _delta(state: TTTState) -> Layers:
    return Layers(list(state.delta_weights), list(state.delta_biases))


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`torch.where` with a mask of the leading axes."""
    return torch.where(rows.view(*rows.shape, *[1] * (yes.dim() - rows.dim())), yes, no)


def answer_at_start(net: InnerNetwork, q: Tensor) -> Tensor:
    """z `[B, H, T, F]` of the start weights."""
    return answer(net, q, apply_network(q, net.weights, net.biases))


@torch.no_grad()
def diagnose(
    net: InnerNetwork, tokens: InnerTokens, state: TTTState | None, state_after: TTTState
) -> MemoryDiagnostics:
    """What the memory did in a call of `ttt` with these arguments and the state `after` it.

    The mini-batches are walked once more, and each is asked its own keys with the weights before and after each frame.
    """
    shape = tokens.lr.shape
    grid, count = _laid_out(net, tokens, state or fresh_state(net, tokens))
    if shape[2] == 1:
        grid = grid._replace(frames=Frames(*(_to_grid(x, grid.slots, net.mini_batch_size) for x in grid.frames)))
    flat, nothing, errors = _flat(state or fresh_state(net, tokens)), _delta(_flat(fresh_state(net, tokens))), []
    for index in range(count):
        part = grid.mini_batches(index, index + 1)
        step = _step_in_mini_batch(grid, part, flat)
        before = torch.cat([torch.zeros_like(step.mixing[:, :1]), step.mixing[:, :-1]], dim=1)
        cases = (
            (torch.zeros_like(before), grid.start.plus(nothing)),
            (before, step.layers),
            (step.mixing, step.layers),
        )
        answers = (
            queries_pass(part.k, w.linear(0, part.k), m, grid.rule, w, step.inputs, step.grads)[0] for m, w in cases
        )
        errors.append(torch.stack([(a - part.target).square().mean(-1) for a in answers], dim=2))
        flat = _behind(grid, step, flat, grid.frames_from(index))
    initial, before, after = grid.taken_back(torch.cat(errors, dim=1)).unflatten(0, shape[:2]).unbind(3)
    return MemoryDiagnostics(initial, before, after, _delta_ratio(net, state_after), _share(net, tokens.k, state_after))


def _delta_ratio(net: InnerNetwork, state: TTTState) -> Tensor:
    learned, start = (
        torch.stack([x.square().sum((-2, -1)) for x in side]).sum(0).sqrt()
        for side in (state.delta_weights, net.weights[net.first_learned :])
    )
    return learned / start


def _share(net: InnerNetwork, k: Tensor, state: TTTState) -> Tensor:
    first = net.first_learned
    weights, biases = (
        [*start[:first], *(w + d for w, d in zip(start[first:], deltas, strict=True))]
        for start, deltas in ((net.weights, state.delta_weights), (net.biases, state.delta_biases))
    )
    return key_dependent_share(answer(net, torch.zeros_like(k), apply_network(k, weights, biases)))


@torch.no_grad()
def diagnose_at_start(net: InnerNetwork, tokens: InnerTokens) -> MemoryDiagnostics:
    """As `diagnose` for start weights that take no steps."""
    target = inner_target(net, tokens.k, tokens.v)
    loss = inner_loss(net, apply_network(tokens.k, net.weights, net.biases), target) * 2 / target.shape[-1]
    share = key_dependent_share(answer_at_start(net, tokens.k) - tokens.k)
    return MemoryDiagnostics(loss, loss, loss, torch.zeros_like(share), share)
