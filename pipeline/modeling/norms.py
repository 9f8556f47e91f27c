"""Norms for the residual stream and for queries and keys."""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467) whose weight follows the input's type."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        # Always in float32: in bfloat16, the mean of squares would have only three digits.
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer norm without a bias, computed in float32."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), None, self.eps).to(x.dtype)


def make_norm(kind: str, size: int, eps: float) -> RMSNorm | LayerNorm:
    """A norm over the last `size` values; `kind` is ``rms`` or ``layer``."""
    return RMSNorm(size, eps=eps) if kind == "rms" else LayerNorm(size, eps=eps, bias=False)
