"""The gated delta rule as a learner of a TTT layer: the strong linear baseline.

Each head keeps a matrix S that maps keys to values. With unit keys k, write strength beta and retention alpha of each
frame (Yang et al. 2024, "Gated Delta Networks", equation 10):

    S_t = alpha_t S_{t-1} + beta_t k_t (v_t - alpha_t S_{t-1}^T k_t)^T;  o_t = S_t^T q_t / sqrt(F)

The rule itself is transformers' (Qwen3-Next), on GPUs by fla's kernels where that package is installed. It computes in
float32 whatever it is given.
"""

import inspect
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

from ..configuration_moshi_ttt import TTTConfig
from ..transformer.stream_state import StreamState
from .naive import MemoryDiagnostics, key_dependent_share
from .retention import LearnedRetention


@dataclass
class GatedDeltaState(StreamState):
    """The matrices `[B, H, F, F]` (key, value) of one layer in float32."""

    matrix: Tensor


class GatedDeltaLearner(LearnedRetention):
    """The learner; its gates per frame and head are the logit of beta and the logarithm of the decay's scale."""

    gates_per_head = 2
    answers_at_own_size = False

    def __init__(self, num_heads: int, head_dim: int, ttt_config: TTTConfig) -> None:
        super().__init__()
        self.config = ttt_config
        self.num_heads, self.head_dim = num_heads, head_dim
        self.output_norm_weight = nn.Parameter(torch.empty(num_heads, head_dim))
        self.make_retention(num_heads)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Answers at RMS 1 and the initial retention."""
        init.ones_(self.output_norm_weight)
        self.reset_retention()

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> GatedDeltaState:
        """A fresh memory of `batch_size` rows."""
        shape = (batch_size, self.num_heads, self.head_dim, self.head_dim)
        return GatedDeltaState(torch.zeros(shape, device=device or self.output_norm_weight.device))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gates_BHTR: Tensor,
        state: GatedDeltaState | None,
        diagnostics: bool,
        lr_scale: float = 1.0,
    ) -> tuple[Tensor, GatedDeltaState, MemoryDiagnostics | None]:
        """z `[B, H, T, F]` of q, k, v `[B, H, T, F]` and gates `[B, H, T, 2]`, with the state after the last frame.

        Raises:
            ValueError: another `lr_scale` than 1, as the rule has no inner rate.
        """
        if lr_scale != 1:
            raise ValueError(f"lr_scale={lr_scale!r}, but the gated delta rule has no inner rate to scale.")
        q, k, v, gates_BHTR = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v, gates_BHTR))
        beta, log_retention = torch.sigmoid(gates_BHTR[..., 0]), self.log_retention(gates_BHTR[..., 1])
        before = None if state is None else state.matrix
        answers, matrix = _rule(q, k, v, log_retention, beta, before)
        z = F.rms_norm(answers, (self.head_dim,), eps=1e-6) * self.output_norm_weight.to(q.dtype)[:, None]
        found = self._diagnose(k, v, log_retention, beta, before, matrix) if diagnostics else None
        return z, GatedDeltaState(matrix), found

    @torch.no_grad()
    def _diagnose(
        self, k: Tensor, v: Tensor, log_retention: Tensor, beta: Tensor, before: Tensor | None, matrix: Tensor
    ) -> MemoryDiagnostics:
        """Errors of reconstruction from the rule over twice the frames: each decays and is asked, then is written."""
        twice_k, twice_v = (torch.repeat_interleave(x, 2, dim=2) for x in (k, v))
        zeros = torch.zeros_like(beta)
        decays, writes = (torch.stack(pair, dim=-1).flatten(2) for pair in ((log_retention, zeros), (zeros, beta)))
        answers = _rule(twice_k, twice_k, twice_v, decays, writes, before)[0] * math.sqrt(self.head_dim)
        error_before, error_after = (v - answers[:, :, start::2] for start in (0, 1))
        share = key_dependent_share(F.normalize(k, dim=-1).to(matrix.dtype) @ matrix)
        initial, before_step, after_step = (error.square().mean(-1) for error in (v, error_before, error_after))
        return MemoryDiagnostics(initial, before_step, after_step, delta_ratio=None, key_dependent_share=share)


def _rule(
    q: Tensor, k: Tensor, v: Tensor, log_retention: Tensor, beta: Tensor, before: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Answers `[B, H, T, F]` and the matrices after the last frame."""
    # With fla installed both are its kernels on every device, and its recurrent one has no backward pass.
    is_single = q.shape[2] == 1 and not torch.is_grad_enabled()
    rule = qwen3_next.torch_recurrent_gated_delta_rule if is_single else qwen3_next.torch_chunk_gated_delta_rule
    rule = rule if _is_on_gpu(q) else inspect.unwrap(rule)
    answers, matrix = rule(
        *(x.transpose(1, 2) for x in (q, k, v)),
        g=log_retention.transpose(1, 2),
        beta=beta.transpose(1, 2),
        initial_state=before,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    return answers.transpose(1, 2), matrix


def _is_on_gpu(x: Tensor) -> bool:
    return x.is_cuda
