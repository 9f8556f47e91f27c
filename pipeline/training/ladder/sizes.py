"""Smaller and larger models of the configured model's proportions.

    small = scaled_model(config.model, width=96, head_dim=32)
    sizes = ladder_sizes(config.model, largest_share=1 / 6, width_range=3.5)   # four models, from small to large

A model's size is the number of weights that every token is multiplied by, output head included
(`pipeline.modeling.flops.matrix_parameters`). In small models the head is most of the work, and laws fitted to the
non-embedding weights alone bend there (Porian et al. 2024, arXiv:2406.19146).
"""

from dataclasses import replace

from pipeline.modeling.config import ModelConfig
from pipeline.modeling.flops import matrix_parameters

NUM_SIZES = 4
_SMALLEST_HEAD_DIM = 4
_FFN_MULTIPLE = 8


def scaled_model(model: ModelConfig, *, width: int, head_dim: int) -> ModelConfig:
    """`model` at another width, a multiple of `head_dim`; depth and the feed-forward width keep their proportions."""
    share = width / model.hidden_size
    heads = width // head_dim
    groups = max(1.0, heads * model.num_key_value_heads / model.num_attention_heads)
    key_value_heads = max(count for count in range(1, heads + 1) if heads % count == 0 and count <= groups)
    layers = max(min(2, model.num_hidden_layers), round(model.num_hidden_layers * share))
    ffn = max(1, round(model.ffn_size * share / _FFN_MULTIPLE)) * _FFN_MULTIPLE
    return replace(
        model,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        num_hidden_layers=layers,
        intermediate_size=ffn,
    )


def ladder_sizes(model: ModelConfig, *, largest_share: float, width_range: float) -> list[ModelConfig]:
    """Four models whose widths are evenly spaced on a logarithmic scale; empty if `model` is too narrow for that.

    Args:
        largest_share: the size of the largest, as a share of `model`'s.
        width_range: the widest model's width over the narrowest one's.
    """
    head_dim = model.head_dim
    while head_dim >= min(_SMALLEST_HEAD_DIM, model.head_dim):
        widths = _widths(model, head_dim, largest_share, width_range)
        if widths:
            return [scaled_model(model, width=width, head_dim=head_dim) for width in widths]
        if head_dim % 4:
            break  # RoPE requires an even head size
        head_dim //= 2
    return []


def _widths(model: ModelConfig, head_dim: int, largest_share: float, width_range: float) -> list[int]:
    """Four different multiples of `head_dim`, or nothing if they would be too close to each other."""
    possible = range(head_dim, model.hidden_size, head_dim)
    if len(possible) < NUM_SIZES:
        return []
    target = largest_share * matrix_parameters(model)
    largest = min(possible, key=lambda width: abs(_size(model, width, head_dim) / target - 1))
    ratio = width_range ** (1 / (NUM_SIZES - 1))
    wanted = [largest / ratio**index for index in reversed(range(NUM_SIZES))]
    widths = [max(1, round(width / head_dim)) * head_dim for width in wanted]
    return widths if len(set(widths)) == NUM_SIZES and widths[0] * 2 < widths[-1] else []


def _size(model: ModelConfig, width: int, head_dim: int) -> int:
    return matrix_parameters(scaled_model(model, width=width, head_dim=head_dim))
