"""The transformer: Llama's shape in Hugging Face's layout.

    from model import create_model
    model = create_model("config.json")
    outputs = model(input_ids, labels=input_ids)     # {"loss": …, "logits": (B, T, V)}; labels are shifted inside

This file reads from top to bottom: attention, block, decoder, language model. The optimizations are in
`pipeline/modeling/`: kernels and masks (`attention_kernels`), the loss without full logits (`head_loss`), the key-value
cache (`kv_cache`), compute type and compiler (`execution`).

Shapes: B batch, T time, H query heads, K key-value heads, D head size, C width, V vocabulary, S positions attended to.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from utils.cli import require_package, run, stage_parser

if __name__ == "__main__":
    require_package("torch")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.configuration import Config, config_from_dict, load_config
from pipeline.modeling.attention_kernels import Mask, attend, segment_mask
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.execution import Execution
from pipeline.modeling.head_loss import IGNORED, cross_entropy_sum, head_loss_sum, next_token_labels
from pipeline.modeling.norms import RMSNorm, make_norm
from pipeline.modeling.recomputation import run_again_in_backward
from pipeline.modeling.weights import load_weights
from utils.activations import FEED_FORWARDS
from utils.arithmetic import ceil_div
from utils.cast_linear import Embedding, FusedLinear, Linear, WeightMatrix
from utils.errors import PipelineError
from utils.rope import RotaryEmbedding, apply_rotary
from utils.terminal import say

if TYPE_CHECKING:
    from pipeline.generation.generate import GenerateOptions
    from pipeline.modeling.kv_cache import Cache

__all__ = ["FastMultiHeadAttention", "TransformerLM", "create_model", "load_model", "load_weights"]

Rotation = tuple[Tensor, Tensor]  # cosines and sines of the positions, (T, 1, D/2) or (B, T, 1, D/2)


class FastMultiHeadAttention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245): H / K query heads share a key-value head."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer  # index of this layer in the cache
        self.num_heads = config.num_attention_heads  # H
        self.num_key_value_heads = config.num_key_value_heads  # K
        self.head_dim = config.head_dim  # D
        key_value_size = self.num_key_value_heads * self.head_dim
        self.qkv_proj = FusedLinear(config.hidden_size, (config.hidden_size, key_value_size, key_value_size))
        self.o_proj = Linear(config.hidden_size, config.hidden_size)
        self.q_norm = RMSNorm(self.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, rotation: Rotation, *, mask: Mask | None = None, cache: "Cache | None" = None
    ) -> Tensor:
        """`x` (B, T, C) → (B, T, C). `mask` (…, T, S) is True where a query may look; None: causal."""
        batch, length, width = x.shape
        heads, groups = self.num_heads, self.num_key_value_heads
        qkv = self.qkv_proj(x).view(batch, length, heads + 2 * groups, self.head_dim)  # (B, T, H + 2K, D)
        q, k, v = torch.split(qkv, [heads, groups, groups], dim=2)  # (B, T, H, D), and (B, T, K, D) twice
        q = apply_rotary(self.q_norm(q), *rotation)  # (B, T, H, D)
        k = apply_rotary(self.k_norm(k), *rotation)  # (B, T, K, D)
        if cache is None:
            y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask).transpose(1, 2)  # (B, T, H, D)
        else:
            y = cache.attend(self.layer, q, k, v, mask)  # (B, T, H, D)
        return self.o_proj(y.reshape(batch, length, width))  # (B, T, C)


class Block(nn.Module):
    """One pre-norm layer: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.self_attn = FastMultiHeadAttention(config, layer)
        self.post_attention_layernorm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.mlp = FEED_FORWARDS[config.activation](config.hidden_size, config.ffn_size)
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, rotation: Rotation, *, mask: Mask | None = None, cache: "Cache | None" = None
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), rotation, mask=mask, cache=cache)  # (B, T, C)
        x = x + F.dropout(attended, self.dropout, self.training)
        thought = self.mlp(self.post_attention_layernorm(x))  # (B, T, C)
        return x + F.dropout(thought, self.dropout, self.training)


class Decoder(nn.Module):
    """Embedding, blocks and final norm. `forward`, the compiled part, starts after the embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.context = config.context_length
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.rotary = RotaryEmbedding(config)
        self.activation_checkpointing = config.activation_checkpointing

    def forward(
        self,
        x: Tensor,
        *,
        cache: "Cache | None" = None,
        segment_ids: Tensor | None = None,
        make_mask: Callable[[Tensor], Mask] = segment_mask,
    ) -> Tensor:
        """Embedded tokens (B, T, C) → hidden states (B, T, C)."""
        length = x.shape[1]
        mask: Mask | None = None  # causal
        if cache is not None:
            positions = cache.positions(length)  # (T,) or (B, T)
            mask = cache.mask(length)
        else:
            _check_length(length, self.context)
            positions = torch.arange(length, device=x.device)  # (T,)
            if segment_ids is not None:
                mask = make_mask(segment_ids)
        rotation = self.rotary(positions)
        for layer in self.layers:
            if self.activation_checkpointing and self.training:
                x = run_again_in_backward(layer, x, rotation, mask)
            else:
                x = layer(x, rotation, mask=mask, cache=cache)  # (B, T, C)
        if cache is not None:
            cache.advance(length)
        return self.norm(x)


class TransformerLM(nn.Module):
    """The language model. Weights have Hugging Face's names, except for the fused products (`hf_names.py`)."""

    def __init__(self, config: ModelConfig, execution: Execution = Execution()) -> None:  # noqa: B008  # it is frozen
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.eos_id: int | None = None  # ends a text; stored in checkpoints
        self.run_as(execution)
        self.reset_parameters()

    def run_as(self, execution: Execution) -> None:
        """Switch to the compute type, kernels and compiled functions of `execution`."""
        self.execution = execution
        self._decode = execution.compile(self.model)

    @property
    def head(self) -> WeightMatrix:
        """The output projection (V, C), which is the embedding if the two are tied."""
        return self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the activations."""
        return self.execution.compute_dtype or self.model.embed_tokens.output_dtype

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) → (B, T, C) in the compute type.

        Not compiled: the compiled backward pass sums the gradients of repeated tokens in a nondeterministic order, so a
        resumed run would no longer be bit-identical.
        """
        return self.model.embed_tokens(input_ids).to(self.dtype)

    def hidden_states(
        self, input_ids: Tensor, *, cache: "Cache | None" = None, segment_ids: Tensor | None = None
    ) -> Tensor:
        """Token ids (B, T) → hidden states (B, T, C) after the final norm."""
        x = self.embed(input_ids)  # (B, T, C)
        if cache is not None:
            return self.model.forward(x, cache=cache)
        if not self.training:
            return self._decode(x, segment_ids=segment_ids)
        with self.execution.training_kernels():
            return self._decode(x, segment_ids=segment_ids)

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, C) → logits (…, V)."""
        return self.head.product(hidden)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        cache: "Cache | None" = None,
        segment_ids: Tensor | None = None,
        num_tokens: Tensor | float | None = None,
        return_logits: bool = True,
    ) -> dict[str, Tensor | None]:
        """The logits of `input_ids` (B, T) and, with labels, the loss of predicting each next token.

        Args:
            labels: (B, T), usually `input_ids` itself; shifted here. -100 is ignored.
            cache: keys and values of earlier tokens; read and updated.
            segment_ids: (B, T); tokens of different segments do not attend to each other.
            num_tokens: divisor of the summed loss; None: the number of predicted tokens in this batch. With
                accumulation, pass the number in the whole step.
            return_logits: with False and labels, the full logits are never in memory.

        Returns:
            ``loss``, a float32 scalar (None without labels), and ``logits`` (B, T, V) or None.
        """
        hidden = self.hidden_states(input_ids, cache=cache, segment_ids=segment_ids)  # (B, T, C)
        if labels is None:
            return {"loss": None, "logits": self.project(hidden)}
        targets = next_token_labels(labels)  # (B, T)
        count = (targets != IGNORED).sum() if num_tokens is None else num_tokens
        if return_logits:
            logits = self.project(hidden)  # (B, T, V)
            return {"loss": cross_entropy_sum(logits, targets) / count, "logits": logits}
        compiled = self.execution.compiled
        total = head_loss_sum(hidden.flatten(0, 1), self.head.weight, targets.flatten(), compiled=compiled)
        return {"loss": total / count, "logits": None}

    def generate(self, prompt_ids: Tensor | Sequence[int], **options: "Unpack[GenerateOptions]") -> Tensor:
        """The prompt and up to `max_length` new tokens. For the options, see `pipeline.generation.generate`."""
        from pipeline.generation.generate import generate

        return generate(self, prompt_ids, **options)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the weights: normal with standard deviation 0.02, norms at 1.

        With `depth_scaled_init`, projections into the residual stream are divided by the square root of their number,
        so that the variance of the stream does not grow (Radford et al. 2019, GPT-2).
        """
        additions = 2 * self.config.num_hidden_layers if self.config.depth_scaled_init else 1
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(0.0, 0.02 / math.sqrt(additions))
            else:
                parameter.normal_(0.0, 0.02)


def _check_length(length: int, context: int) -> None:
    if length > context:
        raise PipelineError(
            f"the sequence has {length} tokens, but the model's context is {context}; shorten it, or extend the "
            f"context: --set model.rope_scaling=yarn --set model.rope_scaling_factor={ceil_div(length, context)}"
        )


def create_model(config: str | Path | Config | ModelConfig = "config.json") -> TransformerLM:
    """A new model with random weights, from a configuration or the path to one."""
    if isinstance(config, (str, Path)):
        config = load_config(None if str(config) == "config.json" else config)
    model_config = config.model if isinstance(config, Config) else config
    if problem := model_config.problem():
        raise PipelineError(problem)
    return TransformerLM(model_config)


def load_model(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    rope_scaling: str = "none",
    rope_scaling_factor: float = 1.0,
) -> TransformerLM:
    """The model of a checkpoint file, ready for inference.

    Args:
        dtype: convert the weights to this type; None keeps theirs.
        rope_scaling: a scaling other than ``none`` extends the context and replaces the checkpoint's own.
    """
    from pipeline.formats.checkpoint import read_checkpoint, refuse_without_config

    content = read_checkpoint(Path(path))
    refuse_without_config(content, Path(path))
    origin = f"checkpoint {path}"
    config = config_from_dict(content["config"], origin=origin).model
    if rope_scaling != "none":
        config = replace(config, rope_scaling=rope_scaling, rope_scaling_factor=rope_scaling_factor)
    with torch.device("meta"):  # skip the random initialization
        model = create_model(config)
    load_weights(model, content["model"], origin=origin, assign=True)
    model.model.rotary.to_empty(device="cpu")
    model.eos_id = (content.get("tokenizer") or {}).get("eos_id")
    return model.to(device=device, dtype=dtype).eval()


def main(argv: list[str] | None = None) -> int:
    from pipeline.configuration import load_config_from
    from pipeline.modeling.summary import summary

    parser = stage_parser("Describe a model before training it.")
    parser.add_argument(
        "--summary", action="store_true", required=True, help="parameters, operations, memory, expected speed"
    )
    parser.add_argument("--device-name", metavar="NAME", help="also estimate the speed on this GPU, such as H100")
    args = parser.parse_args(argv)
    say(summary(load_config_from(args), device_name=args.device_name))
    return 0


if __name__ == "__main__":
    run(main)
