"""The `model` section of the configuration: the shape of the transformer."""

import math
from dataclasses import dataclass

from utils.options import option


def automatic_ffn_size(hidden_size: int) -> int:
    """8/3 of the width, rounded up to a multiple of 64 for fast GPU products. A gated block of this size has as many
    parameters as one without a gate that is four times as wide as the model."""
    return math.ceil(8 * hidden_size / (3 * 64)) * 64


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the transformer. The defaults are the 25M model."""

    vocab_size: int = option(32_016, "checked against the tokenizer and the dataset", minimum=1, maximum=65_536)
    hidden_size: int = option(384, "width of the residual stream", minimum=1)
    num_hidden_layers: int = option(8, "transformer blocks", minimum=1)
    num_attention_heads: int = option(6, "query heads; divides `hidden_size`", minimum=1)
    num_key_value_heads: int = option(2, "key-value heads; divides `num_attention_heads`", minimum=1)
    intermediate_size: int | None = option(
        1024, "width of the feed-forward block; null: 8/3 of `hidden_size`, rounded up to a multiple of 64", minimum=1
    )
    max_position_embeddings: int = option(
        1024,
        "longest context without scaled positions, at least `dataset.window`; a new run lowers it to the window",
        minimum=2,
    )
    rope_theta: float = option(10_000.0, "base of the rotary frequencies", above=0.0)
    rope_scaling: str = option(
        "none",
        "extend the context by `rope_scaling_factor` by scaling the positions",
        choices=("none", "linear", "ntk", "yarn"),
    )
    rope_scaling_factor: float = option(1.0, "1 with `none`, above 1 otherwise", minimum=1.0, maximum=1024.0)
    norm: str = option("rms", "RMSNorm or LayerNorm", choices=("rms", "layer"))
    norm_eps: float = option(1e-5, "added to the variance in every norm", above=0.0)
    activation: str = option("swiglu", "gated feed-forward activation", choices=("swiglu", "geglu", "reglu"))
    tie_word_embeddings: bool = option(True, "use one matrix as input embedding and output head")
    qk_norm: bool = option(False, "RMSNorm on queries and keys, as in Qwen3")
    dropout: float = option(0.0, "on residual branches, in training only", minimum=0.0, maximum=0.9)
    depth_scaled_init: bool = option(
        True, "scale down the initial weights of projections into the residual stream in deeper models"
    )
    activation_checkpointing: bool = option(
        False, "recompute blocks in the backward pass: a third more work for a fraction of the memory"
    )

    @property
    def context_length(self) -> int:
        """The longest sequence that the model accepts, including scaled positions."""
        return int(self.max_position_embeddings * self.rope_scaling_factor)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def ffn_size(self) -> int:
        """`intermediate_size`, or SwiGLU's 8/3 of the width rounded up to a multiple of 64."""
        return self.intermediate_size or automatic_ffn_size(self.hidden_size)

    def problem(self) -> str:
        """Describe sizes that contradict each other, or return an empty string."""
        if self.hidden_size % self.num_attention_heads:
            heads = f"model.num_attention_heads {self.num_attention_heads}"
            return f"model.hidden_size {self.hidden_size} is not divisible by {heads}"
        if self.num_attention_heads % self.num_key_value_heads:
            groups = f"model.num_key_value_heads {self.num_key_value_heads}"
            return f"model.num_attention_heads {self.num_attention_heads} is not divisible by {groups}"
        if self.head_dim % 2:
            return (
                f"the head size (hidden_size / num_attention_heads) is {self.head_dim}, but RoPE requires an even one"
            )
        if (self.rope_scaling == "none") != (self.rope_scaling_factor == 1):
            scaling = f"model.rope_scaling {self.rope_scaling!r}"
            return f"{scaling} with model.rope_scaling_factor {self.rope_scaling_factor}; expected both or neither"
        return ""
