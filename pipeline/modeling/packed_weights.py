"""Prepare a model's products for batches of a few rows on a CPU, as a server has them.

    pack_weights(model)         # in place; float32 on a CPU only

For every product, the CPU library first copies the weight into the order in which its kernel reads it. For 16 rows that
copy takes longer than the product. Here the weights are copied once, with oneDNN, which takes as much memory again.
"""

import torch
from torch import Tensor, nn

from utils.cast_linear import Embedding, Linear

_ROWS = 64  # the number of rows that the order is chosen for; good for 16 and for 500, too


class PackedWeight:
    """A weight (N, C) in the order of oneDNN's kernel."""

    def __init__(self, weight: Tensor) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)

    def product(self, x: Tensor) -> Tensor:
        """`x` (…, C) → (…, N)."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return product


def pack_weights(model: nn.Module) -> bool:
    """Pack every product of `model`, whose weights must not change afterwards.

    Returns whether that was possible: only for weights in float32 on a CPU, and if torch was built with oneDNN.
    """
    matrices = [module for module in model.modules() if isinstance(module, (Linear, Embedding))]
    is_supported = all(module.weight.is_cpu and module.weight.dtype == torch.float32 for module in matrices)
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # untyped in torch
    if not (matrices and is_supported and has_onednn):
        return False
    for module in matrices:
        setattr(module, "product", PackedWeight(module.weight).product)  # noqa: B010  # mypy allows no other way
    return True
