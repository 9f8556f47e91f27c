"""Smaller weights: int8, one scale for each row, weights only.

    quantize_int8(model)        # in place; a quarter of float32's memory

A row's scale serves a product's output and an embedding's lookup alike, so tied weights stay one matrix. Norms, which
are a thousandth of the model, keep their type. Weights are rounded once, at loading; checkpoints stay as they are.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.cast_linear import Linear
from utils.errors import PipelineError

# Up to so many rows torch's int8 product is faster than turning the weight back first: at 32,016 × 384 on one core
# 0.5 ms against 2.5 for one row, 4.9 against 4.8 for 16, 24 against 9 for 64.
_FEW_ROWS = 16


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) → int8 values (N, C) and float32 scales (N,), so that ``values * scales[:, None]`` is near `weight`."""
    weight = weight.detach().float()
    scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


class _Int8Weight(nn.Module):
    """Values and scales under the name that the full weight had."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        values, scales = quantize_rows(weight)
        self.register_buffer("weight", values)  # (N, C)
        self.register_buffer("scale", scales)  # (N,)

    def product(self, x: Tensor) -> Tensor:
        """`x` (…, C) → (…, N) in `x`'s type."""
        rows = x.reshape(-1, x.shape[-1]).bfloat16()  # (M, C)
        if len(rows) <= _FEW_ROWS:
            # Scaled afterwards, in float32: the kernel would round the scales to three digits.
            ones = torch.ones_like(self.scale, dtype=torch.bfloat16)
            y = torch._weight_int8pack_mm(rows, self.weight, ones)
        else:
            y = F.linear(rows, self.weight.bfloat16())  # exact: bfloat16 holds every integer up to 256
        return (y.float() * self.scale).to(x.dtype).view(*x.shape[:-1], -1)


class Int8Linear(_Int8Weight):
    """A product without bias, in place of `utils.cast_linear.Linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class Int8Embedding(_Int8Weight):
    """A lookup, in place of nn.Embedding."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids].float() * self.scale[ids].unsqueeze(-1)


def quantize_int8(model: nn.Module) -> None:
    """Replaces every weight matrix of a `TransformerLM` by int8 values and scales.

    Raises:
        PipelineError: the model is not on the CPU, where the int8 products are faster than plain ones.
    """
    if model.device.type != "cpu":
        raise PipelineError(f"int8 weights are for the CPU, the model is on {model.device.type}; add --device cpu")
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, Int8Linear(child.weight))
            elif isinstance(child, nn.Embedding):
                setattr(module, name, Int8Embedding(child.weight))
    model.model.compute_dtype = torch.float32
    head = model.model.embed_tokens if model.config.tie_word_embeddings else model.lm_head
    # In the instance, before the method of the class, which multiplies by a plain weight.
    object.__setattr__(model, "project", head.product)
