"""Quantize weights to int8 with a scale per row; activations are not quantized.

    quantize_int8(model)        # in place; a quarter of float32's memory

A scale per row works for both a product's output and an embedding lookup, so tied weights stay one matrix. Norms, a
thousandth of the model, keep their type. Weights are quantized once when loading; checkpoints do not change.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.cast_linear import Embedding, Linear
from utils.errors import PipelineError

# Up to this many rows, torch's int8 product is faster than converting the weight first. At 32,016 × 384 on one core:
# 0.5 ms against 2.5 for one row, 4.9 against 4.8 for 16, 24 against 9 for 64.
_FEW_ROWS = 16


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) → int8 values (N, C) and float32 scales (N,), so that ``values * scales[:, None]`` approximates
    `weight`."""
    weight = weight.detach().float()
    scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


@cache
def _has_bfloat16_products() -> bool:
    """Whether the CPU multiplies bfloat16. On others, float32 is eight times faster."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Int8Weight(nn.Module):
    """Values and scales in place of the full weight, under its name."""

    weight: Tensor  # int8 (N, C)
    scale: Tensor  # float32 (N,)

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        values, scales = quantize_rows(weight)
        self.register_buffer("weight", values)
        self.register_buffer("scale", scales)

    def product(self, x: Tensor) -> Tensor:
        """`x` (…, C) → (…, N) in `x`'s type."""
        rows = x.reshape(-1, x.shape[-1]).bfloat16()  # (M, C)
        if len(rows) <= _FEW_ROWS:
            # Scaled afterwards in float32, because the kernel would round the scales to three digits.
            ones = torch.ones_like(self.scale, dtype=torch.bfloat16)
            y = torch._weight_int8pack_mm(rows, self.weight, ones)
        else:
            # The conversion is exact, because bfloat16 represents every integer up to 256.
            kind = torch.bfloat16 if _has_bfloat16_products() else torch.float32
            y = F.linear(rows.to(kind), self.weight.to(kind))
        return (y.float() * self.scale).to(x.dtype).view(*x.shape[:-1], -1)


class Int8Linear(Int8Weight):
    """A product without a bias; replaces `utils.cast_linear.Linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class Int8Embedding(Int8Weight):
    """A lookup; replaces `utils.cast_linear.Embedding`."""

    output_dtype = torch.float32

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids].float() * self.scale[ids].unsqueeze(-1)


def quantize_int8(model: nn.Module) -> None:
    """Replace every weight matrix of `model` with int8 values and scales; the model then computes in float32.

    Raises:
        PipelineError: the model is not on the CPU, the only device where int8 products are faster.
    """
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise PipelineError(
            f"int8 weights are only supported on the CPU, but the model is on {device.type}; add --device cpu"
        )
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, Int8Linear(child.weight))
            elif isinstance(child, Embedding):
                setattr(module, name, Int8Embedding(child.weight))
