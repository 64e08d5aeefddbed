"""TTT-Moshi: Kyutai's Moshi with test-time-training layers, as a transformers model.

What differs from a language model:
- A frame (80 ms) is a column of K = 17 codes: text, 8 codebooks of Moshi's voice, 8 of the user's. Only the first 9 are
  predicted. Each stream has a delay; `forward` applies and undoes it, so logits are aligned with the codes given.
- The temporal transformer reads the sum of 17 embeddings, the depth transformer writes the frame's codebooks.
- Attention sees `sliding_window` frames. Some layers carry a TTT block between attention and feed-forward, whose memory
  reaches further. Memory and window live in a `MoshiTTTState`; the same function trains, continues and streams.

Legend: B batch, K streams, Q Moshi's codebooks, T frames, D width, V vocabulary or codebook size.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GradientCheckpointingLayer, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import capture_outputs

from .checkpoints.loading import MoshiTTTLoadingMixin, refuse_lost_memories
from .checkpoints.saving import MoshiTTTSavingMixin
from .configuration_moshi_ttt import MoshiTTTConfig
from .memory.diagnostics import of_branch
from .memory.in_place_layer import InPlaceLayer
from .memory.layer import TTTLayer, gated_sum
from .memory.naive import MemoryDiagnostics, TTTLayerOutput
from .memory.projections import TTTGate, TTTProjection
from .special_ids import FREE_ID, NO_INPUT_ID
from .streaming.generation_moshi_ttt import MoshiTTTStreamingMixin, Sampling
from .streaming.state import MoshiTTTState
from .transformer.attention import GatedMLP, KVCache, RMSNorm, SlidingWindowAttention, plus_mlp, shared_positions
from .transformer.code_bounds import require_codes, require_labels
from .transformer.constants import constant
from .transformer.delays import delayed, delayed_after, late_logits, undelayed, undelayed_logits
from .transformer.depth_transformer import CodeEmbedding, DepthTransformer, embed_codes
from .transformer.frame_positions import FramePositions
from .transformer.losses import head_losses, target_weights, weighted_mean
from .transformer.own_random_numbers import own_random_numbers
from .transformer.stream_state import StreamState


@dataclass
class MoshiTTTOutput(ModelOutput):
    """What `MoshiTTTForConditionalGeneration` returns.

    Args:
        loss: `text_loss_weight * text_loss + audio_loss`, where labels were given.
        text_loss, audio_loss: weighted means; 0 where no label carries weight.
        losses: `[B, 1 + Q, T]`, the cross-entropy at each label of the text and of Moshi's codebooks; 0 without one.
        text_logits: `[B, T, V]`, aligned with the codes.
        audio_logits: `[B, Q, T, V]`, aligned with the codes; NaN in the last frames of a delayed codebook, whose
            prediction needs the frames that follow.
        late_audio_logits: `[B, Q, max_delay, V]`, where a state was given: the predictions for the last frames before
            these codes that could not be made earlier; NaN elsewhere.
        last_hidden_state: `[B, T, D]`, of the temporal transformer.
        hidden_states: with `output_hidden_states`, `[B, T, D]` before the first temporal layer and after each one; the
            last is `last_hidden_state`.
        state: the state after the last frame, where one was given.
        diagnostics: what the memory of each TTT layer did, in order of the layers, where asked for.
    """

    loss: Tensor | None = None
    text_loss: Tensor | None = None
    audio_loss: Tensor | None = None
    losses: Tensor | None = None
    text_logits: Tensor | None = None
    audio_logits: Tensor | None = None
    late_audio_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    state: MoshiTTTState | None = None
    diagnostics: tuple[MemoryDiagnostics, ...] | None = None


class MoshiTTTDecoderLayer(GradientCheckpointingLayer):
    """Attention, the TTT block where this layer has one, feed-forward; each as a branch of the residual stream."""

    def __init__(self, config: MoshiTTTConfig, layer_index: int) -> None:
        super().__init__()
        width, num_heads, eps = config.hidden_size, config.num_attention_heads, config.rms_norm_eps
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = SlidingWindowAttention(width, num_heads, config.sliding_window, config.rope_theta)
        self.layer_index = layer_index
        self.has_ttt = layer_index in config.ttt_layer_indices
        self.is_in_place = config.ttt is not None and config.ttt.learner == "in_place"
        if config.ttt is not None and self.has_ttt:
            layer_class, size = (InPlaceLayer, config.ffn_dim // 2) if self.is_in_place else (TTTLayer, num_heads)
            with own_random_numbers(layer_index):
                self.ttt = layer_class(width, size, config.ttt)
            if not self.is_in_place:
                self.ttt_norm = RMSNorm(width, eps)
            self.ttt_gate = TTTGate(width, float(config.ttt.initial_gating_alpha))
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = GatedMLP(width, config.ffn_dim)

    def forward(
        self,
        x_BTD: Tensor,
        window: KVCache | None = None,
        memory: StreamState | None = None,
        frames_B: Tensor | None = None,
        diagnostics: bool = False,
        inner_lr_scale: float = 1.0,
        positions: FramePositions | None = None,
        embedded_BTD: Tensor | None = None,
    ) -> tuple[Tensor, KVCache | None, StreamState | None, MemoryDiagnostics | None]:
        """`[B, T, D]` -> `[B, T, D]`, with the window and the memory after the last frame, and what the memory did.

        `embedded_BTD` is what the first layer reads.
        """
        is_row = positions is not None and positions.row is not None
        x = x_BTD.view(-1) if is_row else x_BTD
        attended, window = self.self_attn(self.input_layernorm(x), window, frames_B, positions)
        x = x + attended
        if not self.has_ttt:
            x = plus_mlp(x, self.mlp, self.post_attention_layernorm)
            return x.view(x_BTD.shape) if is_row else x, window, None, None
        x_BTD = x.view(x_BTD.shape) if is_row else x
        if self.is_in_place:
            hidden = self.mlp.hidden(self.post_attention_layernorm(x_BTD))
            learned = self.ttt(hidden, embedded_BTD, memory, diagnostics, inner_lr_scale)
            x_BTD, found = self._with_branch(x_BTD + self.mlp.fc2(hidden), learned)
            return x_BTD, window, learned.state, found
        learned = self.ttt(self.ttt_norm(x_BTD), memory, diagnostics, inner_lr_scale)
        x_BTD, found = self._with_branch(x_BTD, learned)
        return plus_mlp(x_BTD, self.mlp, self.post_attention_layernorm), window, learned.state, found

    def _with_branch(self, x_BTD: Tensor, learned: TTTLayerOutput) -> tuple[Tensor, MemoryDiagnostics | None]:
        """The residual stream with the memory's answer, and what the memory did."""
        if learned.diagnostics is None:
            return gated_sum(x_BTD, self.ttt_gate, learned.output), None
        branch = self.ttt_gate(learned.output).to(x_BTD.dtype)
        gate = self.ttt_gate(torch.ones_like(x_BTD[0, 0])).detach()
        return x_BTD + branch, of_branch(learned.diagnostics, gate, branch.detach(), x_BTD.detach())


class MoshiTTTPreTrainedModel(PreTrainedModel):
    """Initialisation and loading, shared by the models below."""

    config_class = MoshiTTTConfig
    base_model_prefix = "model"
    main_input_name = "codes"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MoshiTTTDecoderLayer", "DepthLayer"]
    _supports_sdpa = True
    _input_embed_layer = "embed_text"
    _can_record_outputs = {"hidden_states": MoshiTTTDecoderLayer}
    _keep_in_fp32_modules_strict = {"learner", "ttt_gate"}

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs, also where its weights are offloaded."""
        device = super().device
        hooks = (getattr(module, "_hf_hook", None) for module in self.modules()) if device.type == "meta" else ()
        found = (getattr(part, "execution_device", None) for hook in hooks for part in getattr(hook, "hooks", [hook]))
        return next((torch.device(where) for where in found if where is not None), device)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For code outside transformers it skips modules whose own weights are all loaded, and so decoder layers, which
        # initialise their TTT block. `init` leaves loaded weights unchanged by itself.
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, TTTProjection):
            pass  # its decoder layer does it
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            fan_in = module.weight.shape[1]
            std = 1 / math.sqrt(fan_in)
            init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, TTTGate):
            init.constant_(module.weight, float(self.config.ttt.initial_gating_alpha))
        elif isinstance(module, MoshiTTTDecoderLayer) and module.has_ttt:
            with own_random_numbers(module.layer_index):
                module.ttt.reset_parameters()


class MoshiTTTModel(MoshiTTTPreTrainedModel):
    """The temporal transformer: delayed codes in, one hidden state a frame out."""

    def __init__(self, config: MoshiTTTConfig) -> None:
        super().__init__(config)
        self.embed_text = CodeEmbedding(config.text_vocab_size, config.hidden_size)
        self.embed_audio = nn.ModuleList(
            CodeEmbedding(config.codebook_size, config.hidden_size) for _ in range(2 * config.num_codebooks)
        )
        self.layers = nn.ModuleList(MoshiTTTDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(
        self,
        inputs_BKT: Tensor,
        state: MoshiTTTState | None = None,
        diagnostics: bool = False,
        inner_lr_scale: float = 1.0,
    ) -> tuple[Tensor, tuple[StreamState, ...], tuple[KVCache, ...], tuple[MemoryDiagnostics, ...]]:
        """Hidden states `[B, T, D]` of delayed codes `[B, K, T]`, memories, windows and diagnostics after them."""
        embedded = x = embed_codes([self.embed_text, *self.embed_audio], inputs_BKT).sum(0)
        memories = iter(state.memory) if state else None
        windows = state.window if state else None
        frames = state.frames if state and windows else None
        positions = shared_positions(self.layers, x, frames)
        new_memories, new_windows, memory_diagnostics = [], [], []
        for index, layer in enumerate(self.layers):
            memory = next(memories) if memories and layer.has_ttt else None
            window = windows[index] if windows else None
            x, window, memory, layer_diagnostics = layer(
                x, window, memory, frames, diagnostics, inner_lr_scale, positions, embedded
            )
            if memory is not None:
                new_memories.append(memory)
            if window is not None:
                new_windows.append(window)
            if layer_diagnostics is not None:
                memory_diagnostics.append(layer_diagnostics)
        return self.norm(x), tuple(new_memories), tuple(new_windows), tuple(memory_diagnostics)


class MoshiTTTForConditionalGeneration(  # type: ignore[misc]  # push_to_hub takes more than transformers'
    MoshiTTTStreamingMixin, MoshiTTTLoadingMixin, MoshiTTTSavingMixin, MoshiTTTPreTrainedModel
):
    """TTT-Moshi with its text head and depth transformer."""

    config: MoshiTTTConfig

    def __init__(self, config: MoshiTTTConfig) -> None:
        super().__init__(config)
        self.model = MoshiTTTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.text_vocab_size, bias=False)
        self.depth_decoder = DepthTransformer(config)
        self.generation_config = Sampling().to_generation_config()
        self.register_load_state_dict_pre_hook(refuse_lost_memories)
        self.post_init()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Not possible: the row after the vocabulary is the initial token.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "The embeddings of TTT-Moshi cannot be resized: their last row is the initial token. "
            "Make a configuration with another text_vocab_size or codebook_size instead."
        )

    def initial_codes(self, device: torch.device | None = None) -> Tensor:
        """The codes before the first frame, `[K]`, on the model's device if None."""
        config, device = self.config, self.device if device is None else device
        return constant([config.text_vocab_size] + [config.codebook_size] * (config.num_streams - 1), device)

    def init_state(
        self, batch_size: int, window: bool = True, device: torch.device | str | None = None
    ) -> MoshiTTTState:
        """The state of `batch_size` fresh streams.

        Args:
            window: whether attention continues across calls. False carries only the memory from segment to segment.
            device: the model's own if None; on `"meta"` it costs nothing, and `num_bytes_by_layer()` still gives the
                memory it needs, for a model on `"meta"` too.
        """
        device = device or self.device
        initial = self.initial_codes().to(device)
        depth = self.config.max_delay_frames + 1
        return MoshiTTTState(
            memory=tuple(layer.ttt.init_state(batch_size, device) for layer in self.model.layers if layer.has_ttt),
            window=tuple(layer.self_attn.init_cache(batch_size, self.dtype, device) for layer in self.model.layers)
            if window
            else None,
            history=initial[None, :, None].repeat(batch_size, 1, depth),
            initial=initial[None].repeat(batch_size, 1),
            frames=torch.zeros(batch_size, dtype=torch.int64, device=device),
        )

    @capture_outputs
    def forward(
        self,
        codes: Tensor,
        labels: Tensor | None = None,
        state: MoshiTTTState | None = None,
        diagnostics: bool = False,
        output_hidden_states: bool | int | list[int] | None = None,
        inner_lr_scale: float = 1.0,
        text_only: bool = False,
        return_logits: bool = True,
    ) -> MoshiTTTOutput:
        """Teacher-forced logits of all frames, alone or as the next frames of a stream.

        Args:
            codes: `[B, K, T]` int64; -1 is an absent code (zero embedding, no loss), which attention and memory still
                read. Shorter rows of a batch are padded with it at the end, never at the start.
            labels: `[B, K, T]`, the codes again with -100 or -1 where no loss is wanted; only Moshi's rows are used.
            state: the stream that the codes continue, any number of frames at a time. Go on with the returned one.
            diagnostics: whether to return what the memory of each TTT layer did.
            output_hidden_states: whether, or which of them; read by transformers' `capture_outputs`, which also takes
                `return_dict`.
            inner_lr_scale: what the TTT layers' `base_lr` is multiplied by; training warms the inner steps up with it.
            text_only: whether to leave out the depth transformer, and with it the audio logits.
            return_logits: whether to return logits beside the losses; without them much less memory is held.

        Raises:
            ValueError: wrong types or shapes, ids out of range, labels with `text_only`, or no logits without labels.
        """
        require_codes(codes, self.config)
        if state is not None and state.batch_size != codes.shape[0]:
            raise ValueError(f"codes have {codes.shape[0]} rows, but the state has {state.batch_size}.")
        if text_only and labels is not None:
            raise ValueError("text_only leaves out the audio, and so the losses: give it without labels.")
        if labels is None and not return_logits:
            raise ValueError("return_logits=False leaves the losses alone: give it with labels.")
        if labels is not None:
            require_labels(labels, codes, self.config)
        sequence = self._delayed(codes, state)  # [B, K, T + 1]
        hidden, memory, window, memory_diagnostics = self.model(sequence[:, :, :-1], state, diagnostics, inner_lr_scale)
        output = MoshiTTTOutput(last_hidden_state=hidden, diagnostics=memory_diagnostics or None)
        own_codes = sequence[:, : self.config.num_codebooks, 1:]
        if labels is not None:
            self._add_losses(output, own_codes, labels, return_logits, state)
        else:
            output.text_logits = self.lm_head(hidden)
            if not text_only:
                self._add_audio_logits(output, self.depth_decoder(hidden, own_codes).logits, state)
        if state is not None:
            output.state = self._advanced(state, codes, memory, window)
        return output

    def _add_losses(
        self,
        output: MoshiTTTOutput,
        own_codes_BQT: Tensor,
        labels: Tensor,
        return_logits: bool,
        state: MoshiTTTState | None,
    ) -> None:
        config, hidden = self.config, output.last_hidden_state
        assert hidden is not None
        delays = config.delays[1 : 1 + config.num_codebooks]
        targets_BQT = delayed(labels[:, 1 : 1 + config.num_codebooks], delays, NO_INPUT_ID)
        output.text_logits, text_losses = head_losses(
            self.lm_head, hidden, labels[:, 0], config.text_vocab_size, return_logits
        )
        depth = self.depth_decoder(hidden, own_codes_BQT, targets_BQT, return_logits)
        if return_logits:
            self._add_audio_logits(output, depth.logits, state)
        output.losses = torch.cat([text_losses[:, None], undelayed(depth.losses, delays)], dim=1)
        weights = target_weights(labels, config)
        output.text_loss = weighted_mean(output.losses[:, :1], weights[:, :1])
        output.audio_loss = weighted_mean(output.losses[:, 1:], weights[:, 1:])
        output.loss = config.text_loss_weight * output.text_loss + output.audio_loss

    def _add_audio_logits(self, output: MoshiTTTOutput, steps: tuple[Tensor, ...], state: MoshiTTTState | None) -> None:
        """Step logits as logits of the chunk's frames and, in a stream, of the `max_delay` frames before it."""
        delays, depth = self.config.delays[1 : 1 + len(steps)], self.config.max_delay_frames
        output.audio_logits = undelayed_logits(steps, delays)
        if state is not None:
            output.late_audio_logits = late_logits(steps, delays, depth, state.frames)

    def _delayed(self, codes: Tensor, state: MoshiTTTState | None) -> Tensor:
        """Codes as the transformers read them: column s holds frame s - 1 - delay; `[B, K, T + 1]`."""
        if state is None or state.window is None:
            past = self.initial_codes(codes.device)[None, :, None].expand(
                codes.shape[0], -1, self.config.max_delay_frames + 1
            )
        else:
            past = state.history
        sequence = torch.cat([past, codes], dim=2)
        if past.device.type == "cpu" and not torch.compiler.is_compiling() and (past == FREE_ID).any():
            raise ValueError("The stream's last frame is not complete: continue with step_with_logits or generate.")
        return delayed_after(sequence, self.config.delays, codes.shape[2] + 1)

    def _advanced(
        self, state: MoshiTTTState, codes: Tensor, memory: tuple[StreamState, ...], window: tuple[KVCache, ...]
    ) -> MoshiTTTState:
        if state.window is None:
            return MoshiTTTState(memory, None, state.history, state.initial, state.frames)
        history = torch.cat([state.history, codes], dim=2)[:, :, -state.history.shape[2] :]
        return MoshiTTTState(memory, window, history, state.initial, state.frames + codes.shape[2])
