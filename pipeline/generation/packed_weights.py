"""Prepare a model for passes over a few rows on a CPU, as a server makes them.

    pack_weights(model)         # in place; float32 on a CPU only

For every product, the CPU library first copies the weight into the order in which its kernel reads it. For 16 rows that
copy takes longer than the product. Here the weights are copied once, with oneDNN, which takes as much memory again.
Blocks also run in fewer calls, because each one costs about as much as it computes.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model import Block, Rotation, TransformerLM
from pipeline.modeling.attention_kernels import Mask, attend
from utils.activations import gated_activation
from utils.rope import apply_rotary

if TYPE_CHECKING:
    from pipeline.modeling.kv_cache import Cache

_ROWS = 64  # the number of rows that the order is chosen for; good for 16 and for 500, too


class PackedWeight:
    """A weight (N, C) in the order of oneDNN's kernel."""

    def __init__(self, weight: Tensor) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)

    def product(self, x: Tensor) -> Tensor:
        """`x` (…, C) → (…, N)."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return product

    def add_product(self, x: Tensor, total: Tensor) -> Tensor:
        """`total` (…, N) plus the product of `x` (…, C)."""
        added: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, total, self._packed, None, "add")
        return added


class PackedBlock:
    """`Block.forward` for inference: the kernels add to the residual stream, and queries rotate together with keys."""

    def __init__(self, block: Block, *, qk_norm: bool) -> None:
        self._block = block
        self._qk_norm = qk_norm
        self._qkv = PackedWeight(block.self_attn.qkv_proj.weight)
        self._output = PackedWeight(block.self_attn.o_proj.weight)
        self._gate_up = PackedWeight(block.mlp.gate_up_proj.weight)
        self._down = PackedWeight(block.mlp.down_proj.weight)

    def forward(
        self, x: Tensor, rotation: Rotation, *, mask: Mask | None = None, cache: "Cache | None" = None
    ) -> Tensor:
        block, attention = self._block, self._block.self_attn
        batch, length, width = x.shape
        heads, groups = attention.num_heads, attention.num_key_value_heads
        qkv = self._qkv.product(block.input_layernorm(x)).view(batch, length, heads + 2 * groups, attention.head_dim)
        qk, v = torch.split(qkv, [heads + groups, groups], dim=2)  # (B, T, H + K, D) and (B, T, K, D)
        if self._qk_norm:
            qk = torch.cat((attention.q_norm(qk[:, :, :heads]), attention.k_norm(qk[:, :, heads:])), dim=2)
        q, k = torch.split(apply_rotary(qk, *rotation), [heads, groups], dim=2)  # (B, T, H, D) and (B, T, K, D)
        if cache is None:
            y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask).transpose(1, 2)  # (B, T, H, D)
        else:
            y = cache.attend(attention.layer, q, k, v, mask)
        x = self._output.add_product(y.reshape(batch, length, width), x)
        gate, up = self._gate_up.product(block.post_attention_layernorm(x)).chunk(2, dim=-1)
        return self._down.add_product(gated_activation(block.mlp.name, gate, up), x)


def pack_weights(model: TransformerLM) -> bool:
    """Pack every product of `model`, which can then no longer be trained, and whose weights must not change.

    Returns whether that was possible: only for weights in float32 on a CPU, and if torch was built with oneDNN.
    """
    head = model.head.weight
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # untyped in torch
    if not (has_onednn and head.is_cpu and head.dtype == torch.float32):
        return False
    for block in model.model.layers:
        assert isinstance(block, Block)
        # Set like this because mypy does not allow assigning to a method.
        setattr(block, "forward", PackedBlock(block, qk_norm=model.config.qk_norm).forward)  # noqa: B010
    setattr(model.head, "product", PackedWeight(head).product)  # noqa: B010
    return True
