"""Gated feed-forward blocks: SwiGLU, GeGLU, ReGLU (Shazeer 2020, arXiv:2002.05202).

feed_forward = SwiGLU(768)            # gate, up and down projections with an inner width of 2,048
y = feed_forward(x)                   # (…, 768) → (…, 768)
hidden = gated_activation("swiglu", gate, up)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.modeling.config import automatic_ffn_size
from utils.cast_linear import FusedLinear, Linear

# GeGLU uses the exact GELU: under torch.compile the tanh approximation is not faster.
_GATES: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": F.gelu, "reglu": torch.relu}


def gated_activation(name: str, gate: Tensor, up: Tensor) -> Tensor:
    """``f(gate) * up``, with the activation `f` called `name`; all three tensors have the same shape."""
    return _GATES[name](gate) * up


class GatedFeedForward(nn.Module):
    """``down(f(gate(x)) * up(x))`` without biases; a single product computes gate and up.

    Args:
        hidden_size: C, the width of input and output.
        intermediate_size: F, the inner width; None: 8/3 of `hidden_size`, rounded up to a multiple of 64.
    """

    name: ClassVar[str]

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def __init__(self, hidden_size: int, intermediate_size: int | None = None) -> None:
        super().__init__()
        size = intermediate_size or automatic_ffn_size(hidden_size)
        self.gate_up_proj = FusedLinear(hidden_size, (size, size))
        self.down_proj = Linear(size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)  # (…, F) each
        return self.down_proj(gated_activation(self.name, gate, up))  # (…, C)


class SwiGLU(GatedFeedForward):
    """Gated by SiLU (Swish), as in Llama and PaLM."""

    name = "swiglu"


class GeGLU(GatedFeedForward):
    """Gated by the exact GELU."""

    name = "geglu"


class ReGLU(GatedFeedForward):
    """Gated by ReLU."""

    name = "reglu"


# `model.activation` → the block of that name.
FEED_FORWARDS: dict[str, type[GatedFeedForward]] = {block.name: block for block in (SwiGLU, GeGLU, ReGLU)}
