"""Gated feed-forward activations: SwiGLU, GeGLU, ReGLU (Shazeer 2020, arXiv:2002.05202).

hidden = gated_activation("swiglu", gate, up)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# GeGLU takes the exact GELU: under torch.compile the tanh approximation is no faster.
_GATES: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": F.gelu, "reglu": torch.relu}


def gated_activation(name: str, gate: Tensor, up: Tensor) -> Tensor:
    """``f(gate) * up`` with the `f` that `name` stands for; all three tensors have the same shape."""
    return _GATES[name](gate) * up
