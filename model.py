"""The transformer: Llama's shape in Hugging Face's layout.

from model import create_model
model = create_model("config.json")
outputs = model(input_ids, labels=input_ids)     # {"loss": …, "logits": (B, T, V)}; the shift is inside
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import load_config_from, require_package, run, stage_parser

if __name__ == "__main__":
    require_package("torch")

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.configuration import Config, config_from_dict, load_config
from pipeline.modeling.attention_kernels import FastMultiHeadAttention, segment_mask
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.flash_attention import flash_kernels_only, same_kernels_again
from pipeline.modeling.head_loss import IGNORED, cross_entropy_sum, head_loss_sum, next_token_labels
from pipeline.modeling.norms import make_norm
from utils.activations import FEED_FORWARDS
from utils.cast_linear import Linear
from utils.errors import PipelineError
from utils.rope import RotaryEmbedding

if TYPE_CHECKING:
    from pipeline.modeling.kv_cache import KVCache

__all__ = ["FastMultiHeadAttention", "TransformerLM", "create_model", "load_model"]


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
        self, x: Tensor, rotation: tuple[Tensor, Tensor], *, mask: Tensor | None, cache: "KVCache | None"
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), rotation, mask=mask, cache=cache)
        x = x + F.dropout(attended, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), self.dropout, self.training)


class Decoder(nn.Module):
    """Embedding, blocks and final norm. The embedding is a call of its own, so that the rest can be compiled alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.context = config.context_length
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.rotary = RotaryEmbedding(config)
        self.activation_checkpointing = config.activation_checkpointing
        self.compute_dtype: torch.dtype | None = None  # None: the weights' own
        self.segment_mask = segment_mask

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) → (B, T, C) in the compute type.

        Not compiled: the compiler adds up the gradients of a token that stands at several places in whatever order the
        threads come, and a resumed run would no longer be the same to the last bit.
        """
        x = self.embed_tokens(input_ids)
        return x if self.compute_dtype is None else x.to(self.compute_dtype)

    def forward(self, x: Tensor, *, cache: "KVCache | None", segment_ids: Tensor | None) -> Tensor:
        """Embedded tokens (B, T, C) → hidden states (B, T, C)."""
        length = x.shape[1]
        if cache is None:
            _check_length(length, self.context)
            positions = torch.arange(length, device=x.device)
            mask = None if segment_ids is None else self.segment_mask(segment_ids)
        else:
            positions, mask = cache.positions(length), cache.mask(length)
        rotation = self.rotary(positions)
        for layer in self.layers:
            if self.activation_checkpointing and self.training:
                # Compiled, both runs are traced at once, and a context function would mean something else.
                again = {} if torch.compiler.is_compiling() else {"context_fn": same_kernels_again}
                x = checkpoint(layer, x, rotation, mask=mask, cache=None, use_reentrant=False, **again)
            else:
                x = layer(x, rotation, mask=mask, cache=cache)
        if cache is not None:
            cache.advance(length)
        return self.norm(x)


class TransformerLM(nn.Module):
    """The language model. Weights have Hugging Face's names, except for the fused products (`hf_names.py`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.eos_id: int | None = None  # what ends a text; a checkpoint records it
        self.flash_only = False  # in training no kernel but a flash one; `pipeline.training.prepare_model` sets it
        self._compiled_decoder: Callable[..., Tensor] | None = None
        self.reset_parameters()

    @property
    def head_weight(self) -> Tensor:
        """The output projection (V, C), which is the embedding where the two are tied."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that activations have."""
        return self.model.compute_dtype or self.model.embed_tokens.weight.dtype

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def hidden_states(
        self, input_ids: Tensor, *, cache: "KVCache | None" = None, segment_ids: Tensor | None = None
    ) -> Tensor:
        """Token ids (B, T) → hidden states (B, T, C) after the final norm."""
        x = self.model.embed(input_ids)
        if cache is not None:
            return self.model(x, cache=cache, segment_ids=segment_ids)
        decoder = self._compiled_decoder or self.model
        with flash_kernels_only() if self.flash_only and self.training else nullcontext():
            return decoder(x, cache=None, segment_ids=segment_ids)

    def compile_training(self, *, dynamic: bool) -> None:
        """Compiles what runs without a cache; `dynamic` for batches that differ in length."""
        if dynamic:  # For CUDA, torch 2.13 cannot compile what makes a mask of any number of blocks (CantSplit).
            self.model.segment_mask = torch.compiler.disable(segment_mask)
        self._compiled_decoder = torch.compile(self.model.forward, dynamic=dynamic)

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, C) → logits (…, V)."""
        return F.linear(hidden, self.head_weight.to(hidden.dtype))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal with deviation 0.02. Scaled by depth, what is added to the residual stream starts smaller by the root
        of the number of additions, so that the stream's variance does not grow (Radford et al. 2019, GPT-2)."""
        additions = 2 * self.config.num_hidden_layers if self.config.depth_scaled_init else 1
        residual = 0.02 / math.sqrt(additions)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
            else:
                added = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(0.0, residual if added else 0.02)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        cache: "KVCache | None" = None,
        segment_ids: Tensor | None = None,
        num_tokens: Tensor | float | None = None,
        return_logits: bool = True,
    ) -> dict[str, Tensor | None]:
        """The logits of `input_ids` (B, T) and, with labels, the loss of predicting each next token.

        Args:
            labels: (B, T), usually `input_ids` itself: the shift is made here; -100 is not predicted.
            cache: keys and values of the tokens before; read and written.
            segment_ids: (B, T); tokens of different segments do not attend to each other.
            num_tokens: what the summed loss is divided by; None: the number of predicted tokens in this batch. With
                accumulation, pass the number in the whole step.
            return_logits: False leaves them out of the result where there are labels; they are then never held at once.

        Returns:
            ``loss`` (None without labels), a float32 scalar, and ``logits`` (B, T, V) or None.
        """
        hidden = self.hidden_states(input_ids, cache=cache, segment_ids=segment_ids)
        if labels is None:
            return {"loss": None, "logits": self.project(hidden)}
        targets = next_token_labels(labels)
        count = (targets != IGNORED).sum() if num_tokens is None else num_tokens
        if return_logits:
            logits = self.project(hidden)
            return {"loss": cross_entropy_sum(logits, targets) / count, "logits": logits}
        total = head_loss_sum(
            hidden.flatten(0, 1),
            self.head_weight,
            targets.flatten(),
            compiled=self._compiled_decoder is not None,
        )
        return {"loss": total / count, "logits": None}

    def generate(self, prompt_ids: Tensor | Sequence[int], **options: Any) -> Tensor:
        """The prompt with its continuation; `max_length` counts new tokens. Options: `pipeline.generation.generate`."""
        from pipeline.generation.generate import generate

        return generate(self, prompt_ids, **options)


def _check_length(length: int, context: int) -> None:
    if length > context:
        raise PipelineError(
            f"a sequence of {length} tokens is longer than the model's context of {context}; shorten it, or stretch "
            f"it: --set model.rope_scaling=yarn --set model.rope_scaling_factor={-(-length // context)}"
        )


def create_model(config: str | Path | Config | ModelConfig = "config.json") -> TransformerLM:
    """A new model with random weights, from a configuration or the path of one."""
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
        dtype: the type that the weights are converted to; None keeps theirs.
        rope_scaling: a scaling other than ``none`` stretches the context in place of the checkpoint's own.
    """
    from pipeline.formats.checkpoint import read_checkpoint, refuse_without_config

    content, origin = read_checkpoint(Path(path)), f"checkpoint {path}"
    refuse_without_config(content, Path(path))
    config = config_from_dict(content["config"], origin=origin).model
    if rope_scaling != "none":
        config = replace(config, rope_scaling=rope_scaling, rope_scaling_factor=rope_scaling_factor)
    with torch.device("meta"):  # no random weights are drawn only to be replaced
        model = create_model(config)
    load_weights(model, content["model"], origin=origin, assign=True)
    model.model.rotary.to_empty(device="cpu")
    model.eos_id = (content.get("tokenizer") or {}).get("eos_id")
    return model.to(device=device, dtype=dtype).eval()


def load_weights(model: TransformerLM, state: dict[str, Tensor], *, origin: str, assign: bool = False) -> None:
    """Loads a state dict that must fit the model exactly; `origin` names it in the error. With `assign` the model takes
    the tensors themselves."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise PipelineError(
                f"{origin} does not fit the model: {name} is {found.get(name, 'missing')} there, "
                f"{expected.get(name, 'unknown')} in the model; use the configuration it was trained with"
            )
    model.load_state_dict(state, assign=assign)


def main(argv: list[str] | None = None) -> int:
    from pipeline.modeling.summary import summary

    parser = stage_parser("Describes a model before it is trained.")
    parser.add_argument(
        "--summary", action="store_true", required=True, help="parameters, operations, memory, expected speed"
    )
    parser.add_argument("--device-name", metavar="NAME", help="a GPU whose speed is estimated, such as H100")
    args = parser.parse_args(argv)
    print(summary(load_config_from(args), device_name=args.device_name))
    return 0


if __name__ == "__main__":
    run(main)
