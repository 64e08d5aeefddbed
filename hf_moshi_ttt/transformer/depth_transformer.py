"""The depth transformer: from one frame's hidden state to its codebooks, in order.

Codebook i is predicted from the hidden state and codebooks 0..i-1 of the same step (codebook 0 from the text token).
Every linear has its own weights per codebook, kept as ordinary `nn.Linear`s so that adapters find them by name.

Legend: B batch, T frames, Q codebooks, D depth width, V codebook size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration_moshi_ttt import MoshiTTTConfig
from ..special_ids import NO_INPUT_ID
from .attention import GatedMLP, RMSNorm

KeysValues = tuple[Tensor, Tensor]


class CodeEmbedding(nn.Embedding):
    """An embedding of codes with one more id for the initial token; a code that is absent (-1) has a zero embedding."""

    def __init__(self, num_codes: int, hidden_size: int) -> None:
        super().__init__(num_codes + 1, hidden_size)

    def forward(self, codes: Tensor) -> Tensor:
        """`[...]` int64 -> `[..., D]`."""
        present = (codes != NO_INPUT_ID)[..., None]
        return super().forward(codes.clamp_min(0)).masked_fill(~present, 0)


class DepthLayer(nn.Module):
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

    def forward(self, x_NQD: Tensor, first: int = 0, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """Codebooks `first`, `first + 1`, ... of `x` `[N, Q, D]`.

        Args:
            past: keys and values `[N, H, first, F]` of the codebooks before; given unless `first` is 0.

        Returns:
            `[N, Q, D]` and the keys and values of all codebooks so far.
        """
        normed = self.input_layernorm(x_NQD)
        qkv = _per_codebook(self.qkv_proj, normed, first)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=x_NQD.shape[1] > 1)
        x_NQD = x_NQD + _per_codebook(self.o_proj, out.transpose(1, 2).flatten(-2), first)
        x_NQD = x_NQD + _per_codebook(self.mlp, self.post_attention_layernorm(x_NQD), first)
        return x_NQD, (k, v)


def _per_codebook(modules: nn.ModuleList, x_NQD: Tensor, first: int) -> Tensor:
    return torch.stack([modules[first + i](x) for i, x in enumerate(x_NQD.unbind(1))], dim=1)


class DepthTransformer(nn.Module):
    """Predicts Moshi's own codebooks of a step."""

    def __init__(self, config: MoshiTTTConfig) -> None:
        super().__init__()
        width, count = config.depth_decoder_config.hidden_size, config.num_codebooks
        self.input_projections = nn.ModuleList(nn.Linear(config.hidden_size, width, bias=False) for _ in range(count))
        self.embed_text = CodeEmbedding(config.text_vocab_size, width)
        self.embed_audio = nn.ModuleList(CodeEmbedding(config.codebook_size, width) for _ in range(count - 1))
        self.layers = nn.ModuleList(DepthLayer(config) for _ in range(config.depth_decoder_config.num_hidden_layers))
        self.lm_heads = nn.ModuleList(nn.Linear(width, config.codebook_size, bias=False) for _ in range(count))

    def forward(self, hidden_BTD: Tensor, codes_BQT: Tensor) -> Tensor:
        """Teacher-forced logits of all codebooks of all steps.

        Args:
            hidden_BTD: `[B, T, temporal width]` output of the temporal transformer.
            codes_BQT: text and all codebooks but the last of the same steps, `[B, Q, T]`.

        Returns:
            `[B, Q, T, V]`.
        """
        batch, length = hidden_BTD.shape[:2]
        embeddings = [self.embed_text, *self.embed_audio]
        inputs = [
            project(hidden_BTD) + embed(codes)
            for project, embed, codes in zip(self.input_projections, embeddings, codes_BQT.unbind(1), strict=True)
        ]
        x = torch.stack(inputs, dim=2).flatten(0, 1)  # [B * T, Q, D]
        for layer in self.layers:
            x, _ = layer(x)
        logits = [head(x[:, i]).unflatten(0, (batch, length)) for i, head in enumerate(self.lm_heads)]
        return torch.stack(logits, dim=1)

    def step(self, hidden_BD: Tensor, text_B: Tensor, choose: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """One step, codebook by codebook.

        Args:
            hidden_BD: `[B, temporal width]`.
            text_B: the step's text ids.
            choose: from a codebook's index and its logits `[B, V]` to its ids `[B]`.

        Returns:
            Logits `[B, Q, V]` and the chosen ids `[B, Q]`.
        """
        past: list[KeysValues | None] = [None] * len(self.layers)
        token, logits, chosen = text_B, [], []
        for i, head in enumerate(self.lm_heads):
            embed = self.embed_audio[i - 1] if i else self.embed_text
            x = (self.input_projections[i](hidden_BD) + embed(token))[:, None]
            for index, layer in enumerate(self.layers):
                x, past[index] = layer(x, first=i, past=past[index])
            logits.append(head(x[:, 0]))
            token = choose(i, logits[-1])
            chosen.append(token)
        return torch.stack(logits, dim=1), torch.stack(chosen, dim=1)
