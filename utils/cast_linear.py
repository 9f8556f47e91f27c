"""The model's weight matrices. Weights keep their own type; products run in the activations' type.

`product` multiplies by the matrix, so that an embedding can also be the output head (tied weights).
"""

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WeightMatrix(Protocol):
    """A matrix (N, C) to multiply by: full precision here, int8 in `pipeline/modeling/quantization.py`."""

    weight: Tensor

    def product(self, x: Tensor) -> Tensor:
        """`x` (…, C) → (…, N) in `x`'s type."""


class Linear(nn.Linear):
    """A product without a bias. Casts float32 master weights to the input's type inside the compiled forward pass,
    where the cast is fused with the transposition that the product needs; autocast would keep a copy."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """`x` (…, C) → (…, N) in `x`'s type."""
        return F.linear(x, self.weight.to(x.dtype))


class FusedLinear(Linear):
    """Several products of one input fused into one: the weights are stacked, with `sizes` rows each."""

    def __init__(self, in_features: int, sizes: tuple[int, ...]) -> None:
        super().__init__(in_features, sum(sizes))
        self.sizes = sizes


class Embedding(nn.Embedding):
    """A vector for each of V ids, (V, C); also the output head if the weights are tied."""

    if TYPE_CHECKING:

        def __call__(self, ids: Tensor) -> Tensor: ...

    @property
    def output_dtype(self) -> torch.dtype:
        """The type of the vectors returned by a lookup."""
        return self.weight.dtype

    def product(self, x: Tensor) -> Tensor:
        """`x` (…, C) → (…, V) in `x`'s type."""
        return F.linear(x, self.weight.to(x.dtype))
