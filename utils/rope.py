"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) in Hugging Face's half-split layout.

rotary = RotaryEmbedding(head_dim=64, context=1024, theta=10_000.0)
cos, sin = rotary(positions)
q = apply_rotary(q, cos, sin)
"""

import torch
from torch import Tensor, nn


def rope_frequencies(head_dim: int, theta: float) -> Tensor:
    """Radians a position for each of the ``head_dim / 2`` pairs, float64."""
    return theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of every position's angles; no parameters and nothing in the state dict."""

    def __init__(self, *, head_dim: int, context: int, theta: float) -> None:
        super().__init__()
        self.head_dim, self.context, self.theta = head_dim, context, theta
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)
        self._fill(torch.get_default_device())

    def _fill(self, device: torch.device) -> None:
        with torch.device("cpu"):
            positions = torch.arange(self.context, dtype=torch.float64)
            angles = torch.outer(positions, rope_frequencies(self.head_dim, self.theta))  # (context, D/2)
            self.cos, self.sin = angles.cos().float().to(device), angles.sin().float().to(device)

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        if self.cos.dtype != torch.float32 or self.cos.is_meta:  # `.to(bfloat16)` is meant for the weights
            self._fill(self.cos.device)
        return self

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The tables' rows for `positions`, (T,) or (B, T): cosines and sines of shape (…, T, 1, D/2)."""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` (B, T, H, D) rotated by its positions' angles; any number of heads, so queries and keys alike.

    Real-valued and without complex views, which the compiler cannot fuse. Computed in float32.
    """
    first, second = x.float().chunk(2, dim=-1)  # half-split: pair i is (i, i + D/2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
