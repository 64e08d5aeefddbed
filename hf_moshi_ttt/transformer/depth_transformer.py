"""The depth transformer: from one frame's hidden state to its codebooks, in order.

Codebook i is predicted from the hidden state and codebooks 0..i-1 of the same step (codebook 0 from the text token).
Every linear has its own weights per codebook, kept as ordinary `nn.Linear`s so that adapters find them by name.

Legend: B batch, T frames, N = B * T, Q codebooks, D depth width, V codebook size.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GradientCheckpointingLayer

from ..configuration_moshi_ttt import MoshiTTTConfig
from ..special_ids import FREE_ID, NO_INPUT_ID
from .attention import GatedMLP, RMSNorm, plus_mlp
from .codebook_linears import each_linear, linear_per_codebook, mlp_per_codebook, products_per_codebook
from .losses import codebook_losses, head_losses
from .row_buffers import RowCodebooks, row_codebooks, row_hidden
from .row_product import (
    counts_kernels,
    has_hooks,
    is_compiled,
    is_one_row,
    may_write,
    product_into,
    row_plus_product,
    row_product,
)


class CodeEmbedding(nn.Embedding):
    """An embedding of codes with one more id for the initial token; a code that is absent (-1) has a zero embedding."""

    def __init__(self, num_codes: int, hidden_size: int) -> None:
        super().__init__(num_codes + 1, hidden_size)

    def forward(self, codes: Tensor, any_absent: bool = True) -> Tensor:
        """`[...]` int64 -> `[..., D]`; without `any_absent` no code may be -1."""
        if not any_absent:
            return super().forward(codes)
        present = (codes != NO_INPUT_ID)[..., None]
        return super().forward(codes.clamp_min(0)).masked_fill(~present, 0)


def embed_codes(embeddings: Sequence[nn.Module], codes_BRT: Tensor) -> Tensor:
    """`[R, B, T, D]`: each of R streams in its own embedding; zero where a code is absent (-1)."""
    present = (codes_BRT != NO_INPUT_ID).transpose(0, 1)[..., None]
    streams = zip(embeddings, codes_BRT.clamp_min(0).unbind(1), strict=True)
    return torch.stack([embed(codes, any_absent=False) for embed, codes in streams]) * present


class DepthOutput(NamedTuple):
    """What the depth transformer says of all steps: its logits `[B, T, V]` of each codebook, where asked for, and the
    losses `[B, Q, T]` at its targets, where there are any."""

    logits: tuple[Tensor, ...] | None
    losses: Tensor | None


class StepCodebooks(NamedTuple):
    """Queries, keys and values of a step in one layer, `[Q, N, 3, H, F]`, which each codebook writes its own to."""

    heads: Tensor


class DepthLayer(GradientCheckpointingLayer):
    """One layer, with its own linears for each codebook."""

    def __init__(self, config: MoshiTTTConfig) -> None:
        super().__init__()
        depth, count = config.depth_decoder_config, config.num_codebooks
        width = depth.hidden_size
        self.num_heads = depth.num_attention_heads
        self.input_layernorm = RMSNorm(width, config.rms_norm_eps)
        self.qkv_proj = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(count))
        self.o_proj = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(count))
        self.post_attention_layernorm = RMSNorm(width, config.rms_norm_eps)
        self.mlp = nn.ModuleList(GatedMLP(width, depth.ffn_dim) for _ in range(count))

    def forward(
        self, x: Tensor, codebook: int | None = None, past: Tensor | StepCodebooks | RowCodebooks | None = None
    ) -> tuple[Tensor, Tensor | StepCodebooks | RowCodebooks | None]:
        """All codebooks of `x` `[Q, N, D]`, or one codebook of `x` `[N, D]`, or `[D]` of one row, after those before.

        Args:
            past: keys and values `[N, 2 * H, codebook, F]` of the codebooks before; given unless `codebook` is 0. Or,
                and of one row always, what holds them.

        Returns:
            x after the layer, and of one codebook the keys and values of all so far.
        """
        if codebook is None:
            return self._all(x), None
        if isinstance(past, RowCodebooks):
            return self._one_row(x, codebook, past), past
        return self._one(x, codebook, past)

    def _all(self, x_QND: Tensor) -> Tensor:
        qkv = linear_per_codebook(self.qkv_proj, self.input_layernorm(x_QND))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 1, 3, 0, 4)  # [3, N, H, Q, F]
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True).permute(2, 0, 1, 3)
        x_QND = x_QND + linear_per_codebook(self.o_proj, out.flatten(-2))
        return x_QND + mlp_per_codebook(self.mlp, self.post_attention_layernorm(x_QND))

    def _one(
        self, x_ND: Tensor, codebook: int, past: Tensor | StepCodebooks | None
    ) -> tuple[Tensor, Tensor | StepCodebooks]:
        normed = self.input_layernorm(x_ND)
        if isinstance(past, StepCodebooks):
            product_into(self.qkv_proj[codebook], normed, past.heads[codebook].view(len(x_ND), -1))
            q = past.heads[codebook, :, 0, :, None]
            k, v = past.heads[: codebook + 1, :, 1:].permute(2, 1, 3, 0, 4)
        else:
            heads = self.qkv_proj[codebook](normed).view(len(x_ND), 3 * self.num_heads, 1, -1)
            q, new = heads.split([self.num_heads, 2 * self.num_heads], dim=1)
            past = new if past is None else torch.cat([past, new], dim=2)
            k, v = past.chunk(2, dim=1)
        x_ND = x_ND + self.o_proj[codebook](F.scaled_dot_product_attention(q, k, v).flatten(1))
        return plus_mlp(x_ND, self.mlp[codebook], self.post_attention_layernorm), past

    def _one_row(self, x_D: Tensor, codebook: int, row: RowCodebooks) -> Tensor:
        """As `_one`, in as few calls as it takes."""
        row_product(self.qkv_proj[codebook], self.input_layernorm(x_D), out=row.projected[codebook])
        query, seen = row.queries[codebook], row.seen[codebook]
        out = F.scaled_dot_product_attention(query, row.keys, row.values, attn_mask=seen)
        x_D = row_plus_product(x_D, self.o_proj[codebook], out.view(-1))
        normed, mlp = self.post_attention_layernorm(x_D), cast(GatedMLP, self.mlp[codebook])
        return x_D + mlp(normed) if has_hooks(mlp) else mlp.added_to(x_D, normed, row.hidden)


class DepthTransformer(nn.Module):
    """Predicts Moshi's own codebooks of a step."""

    def __init__(self, config: MoshiTTTConfig) -> None:
        super().__init__()
        self.sizes = config.depth_decoder_config
        width, count = self.sizes.hidden_size, config.num_codebooks
        self.codebook_size = config.codebook_size
        self.input_projections = nn.ModuleList(nn.Linear(config.hidden_size, width, bias=False) for _ in range(count))
        self.embed_text = CodeEmbedding(config.text_vocab_size, width)
        self.embed_audio = nn.ModuleList(CodeEmbedding(config.codebook_size, width) for _ in range(count - 1))
        self.layers = nn.ModuleList(DepthLayer(config) for _ in range(self.sizes.num_hidden_layers))
        self.lm_heads = nn.ModuleList(nn.Linear(width, config.codebook_size, bias=False) for _ in range(count))

    def forward(
        self, hidden_BTD: Tensor, codes_BQT: Tensor, targets_BQT: Tensor | None = None, return_logits: bool = True
    ) -> DepthOutput:
        """All codebooks of all steps, teacher-forced.

        Args:
            hidden_BTD: `[B, T, temporal width]` output of the temporal transformer.
            codes_BQT: text and all codebooks but the last of the same steps, `[B, Q, T]`.
            targets_BQT: the codebooks to predict, below 0 where there is no loss; None for no losses.
            return_logits: without them, those of large inputs are never held all at once.
        """
        embedded = embed_codes([self.embed_text, *self.embed_audio], codes_BQT)
        projected = each_linear(self.input_projections, hidden_BTD)
        x = (projected + embedded).flatten(1, 2)  # [Q, N, D]
        for layer in self.layers:
            x, _ = layer(x)
        if targets_BQT is not None and not return_logits and counts_kernels(x):
            targets_QN = targets_BQT.transpose(0, 1).flatten(1)
            heads = products_per_codebook(self.lm_heads, x)
            losses_QN = codebook_losses(heads, x, targets_QN, self.codebook_size)
            return DepthOutput(None, losses_QN.unflatten(1, hidden_BTD.shape[:2]).transpose(0, 1))
        states = x.unflatten(1, hidden_BTD.shape[:2]).unbind(0)
        if targets_BQT is None:
            return DepthOutput(tuple(head(state) for head, state in zip(self.lm_heads, states, strict=True)), None)
        predictions = zip(self.lm_heads, states, targets_BQT.unbind(1), strict=True)
        found = [head_losses(*one, self.codebook_size, return_logits) for one in predictions]
        logits, losses = zip(*found, strict=True)
        return DepthOutput(logits if return_logits else None, torch.stack(losses, dim=1))

    def step(
        self, hidden_BD: Tensor, drawn_text_B: Tensor, given_BR: Tensor, draw: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One step, codebook by codebook.

        Args:
            hidden_BD: `[B, temporal width]`.
            drawn_text_B: the text ids drawn for the step.
            given_BR: text and codebooks that are known, `[B, 1 + Q]`; -2 (free) for those that are drawn.
            draw: from logits `[B, V]` of a codebook to ids `[B]`.

        Returns:
            Logits `[B, Q, V]`, and the ids `[B, 1 + Q]`, given or drawn.
        """
        if is_one_row(hidden_BD) and not any(map(is_compiled, self.layers)):
            return self._step_of_one_row(hidden_BD[0], drawn_text_B, given_BR, draw)
        is_free, present = given_BR == FREE_ID, (given_BR != NO_INPUT_ID).to(hidden_BD.dtype)
        columns = [x.unbind(1) for x in (is_free, given_BR.clamp_min(0), present[:, :, None])]
        past = self._step_codebooks(hidden_BD)
        logits, drawn = [], [drawn_text_B]
        for i, (free, given, factor) in enumerate(zip(*(x[:-1] for x in columns), strict=True)):
            embed = self.embed_audio[i - 1] if i else self.embed_text
            token = embed(torch.where(free, drawn[-1], given), any_absent=False)
            x = torch.addcmul(self.input_projections[i](hidden_BD), token, factor)
            for index, layer in enumerate(self.layers):
                x, past[index] = layer(x, i, past[index])
            logits.append(self.lm_heads[i](x))
            drawn.append(draw(logits[-1]))
        return torch.stack(logits, dim=1), torch.where(is_free, torch.stack(drawn, dim=1), given_BR)

    def _step_of_one_row(
        self, hidden_D: Tensor, drawn_text_1: Tensor, given_1R: Tensor, draw: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `step`, in as few calls as it takes; where all codes are free, none is chosen or masked."""
        is_free = given_1R == FREE_ID
        all_free = bool(is_free.all())
        if not all_free:
            present = (given_1R != NO_INPUT_ID).to(hidden_D.dtype)[..., None]
            columns = [x.unbind(1) for x in (is_free, given_1R.clamp_min(0), present)]
        past, drawn = self._row_codebooks(hidden_D), [drawn_text_1]
        logits_1QV = hidden_D.new_empty(1, len(self.lm_heads), self.codebook_size)
        for i, (logits_V, logits_1V) in enumerate(zip(logits_1QV[0].unbind(0), logits_1QV.unbind(1), strict=True)):
            embed = self.embed_audio[i - 1] if i else self.embed_text
            if all_free:
                token = embed(drawn[-1], any_absent=False)
            else:
                free, given, factor = (column[i] for column in columns)
                token = embed(torch.where(free, drawn[-1], given), any_absent=False) * factor
            x = row_plus_product(token[0], self.input_projections[i], hidden_D)
            for layer, row in zip(self.layers, past, strict=True):
                x, _ = layer(x, i, row)
            row_product(self.lm_heads[i], x, out=logits_V)
            drawn.append(draw(logits_1V))
        codes = torch.stack(drawn, dim=1)
        return logits_1QV, codes if all_free else torch.where(is_free, codes, given_1R)

    def _step_codebooks(self, hidden_BD: Tensor) -> list[Any]:
        """What each layer has of a step before its first codebook."""
        if not may_write(hidden_BD):
            return [None] * len(self.layers)
        heads, width = self.sizes.num_attention_heads, self.sizes.hidden_size
        shape = len(self.layers), len(self.lm_heads), len(hidden_BD), 3, heads, width // heads
        return [StepCodebooks(one) for one in hidden_BD.new_empty(shape).unbind(0)]

    def _row_codebooks(self, like: Tensor) -> list[RowCodebooks]:
        """What each layer writes its codebooks to, in the dtype of `like`."""
        hidden = row_hidden(like, self.sizes.ffn_dim)
        projected = like.new_zeros(len(self.layers), len(self.lm_heads), 3 * self.sizes.hidden_size)
        return [row_codebooks(one, self.sizes.num_attention_heads, hidden) for one in projected.unbind(0)]
