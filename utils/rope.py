"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) in Hugging Face's half-split layout.

    rotary = RotaryEmbedding(config.model)
    cos, sin = rotary(positions)
    q = apply_rotary(q, cos, sin)

Models do not generalize beyond the positions they were trained on. `model.rope_scaling` and
`model.rope_scaling_factor` extend them: linear divides all positions (arXiv:2306.15595), NTK raises the base so that
high frequencies hardly change, and YaRN (arXiv:2309.00071) keeps high frequencies, divides low ones and sharpens
attention.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from pipeline.modeling.config import ModelConfig

# YaRN keeps pairs that rotate more than 32 times in the trained context and divides those that rotate less than once.
_YARN_FAST = 32
_YARN_SLOW = 1


def rope_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Radians per position for each of the D/2 pairs (float64), and the factor on cosines and sines (1 if not YaRN)."""
    size = config.head_dim
    factor = config.rope_scaling_factor
    theta = config.rope_theta
    if config.rope_scaling == "ntk":
        theta *= factor ** (size / (size - 2))
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64, device="cpu") / size)
    if config.rope_scaling == "linear":
        return frequencies / factor, 1.0
    if config.rope_scaling == "yarn":
        divided = _yarn_share_divided(size, theta, config.max_position_embeddings)
        return frequencies * (1 - divided) + frequencies / factor * divided, 0.1 * math.log(factor) + 1.0
    return frequencies, 1.0


def _yarn_share_divided(size: int, theta: float, context: int) -> Tensor:
    """How much each pair is scaled, (D/2,): 0 for high frequencies, 1 for low ones, a ramp in between."""

    def pair_that_turns(times: float) -> float:
        return size * math.log(context / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(_YARN_FAST)), 0)
    high = min(math.ceil(pair_that_turns(_YARN_SLOW)), size - 1)
    pairs = torch.arange(size // 2, dtype=torch.float64, device="cpu")
    return ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of every position's angles; no parameters and nothing in the state dict."""

    cos: Tensor  # (context, D/2), float32
    sin: Tensor

    if TYPE_CHECKING:

        def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]: ...

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)
        self._fill(torch.get_default_device())

    def _fill(self, device: torch.device) -> None:
        frequencies, factor = rope_frequencies(self.config)
        positions = torch.arange(self.config.context_length, dtype=torch.float64, device="cpu")
        angles = torch.outer(positions, frequencies)  # (context, D/2)
        self.cos = (angles.cos() * factor).float().to(device)  # (context, D/2)
        self.sin = (angles.sin() * factor).float().to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        was_meta = self.cos.is_meta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # untyped in torch
        if was_meta or self.cos.dtype != torch.float32:  # `.to(bfloat16)` is for the weights only
            self._fill(self.cos.device)
        return self

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The tables' rows for `positions`, (T,) or (B, T): cosines and sines of shape (…, T, 1, D/2)."""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` (B, T, H, D) rotated by the angles of its positions, computed in float32.

    Works for any number of heads. Avoids complex numbers, which the compiler cannot fuse.
    """
    first, second = x.float().chunk(2, dim=-1)  # half-split: pair i is (i, i + D/2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
