"""Causal attention for compiled training on the CPU: block-wise matrix products, with softmax fused by the compiler.

The CPU kernel behind scaled_dot_product_attention reaches a tenth of the speed of plain products. For 12 windows of 256
tokens and 6 heads of 64, this version takes a third of its time forward and backward in bfloat16, half in float32.
"""

import torch
from torch import Tensor

_BLOCK = 128  # tokens
LONGEST = 512  # tokens; the backward pass keeps all probabilities, which takes too much memory in longer windows


def fits(length: int) -> bool:
    """Whether a window of `length` tokens is short enough and a multiple of the block size."""
    return length % _BLOCK == 0 and length <= LONGEST


def blocked_causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of `q` (B, H, T, D) over `k`, `v` (B, K, T, D); a block of queries skips the keys after its end."""
    group_size = q.shape[1] // k.shape[1]
    if group_size > 1:
        k = k.repeat_interleave(group_size, dim=1)  # (B, H, T, D)
        v = v.repeat_interleave(group_size, dim=1)
    key_blocks = torch.split(k, _BLOCK, dim=2)
    value_blocks = torch.split(v, _BLOCK, dim=2)
    ahead = torch.ones(_BLOCK, _BLOCK, dtype=torch.bool, device=q.device).triu(1)
    results = []
    for index, queries in enumerate(torch.split(q, _BLOCK, dim=2)):
        keys = torch.cat(key_blocks[: index + 1], dim=2)  # (B, H, S, D)
        values = torch.cat(value_blocks[: index + 1], dim=2)
        scores = (queries @ keys.transpose(-1, -2)).float() * q.shape[-1] ** -0.5  # (B, H, block, S)
        hidden = torch.nn.functional.pad(ahead, (index * _BLOCK, 0), value=False)
        probabilities = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1).to(q.dtype)
        results.append(probabilities @ values)
    return torch.cat(results, dim=2)
