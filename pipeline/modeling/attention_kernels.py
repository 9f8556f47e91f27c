"""Attention with torch's fused kernels, and masks that separate documents.

y = attend(q, k, v, None)                         # causal: (B, H, T, D) over (B, K, T, D)
y = attend(q, k, v, segment_mask(segment_ids))    # causal, and within the same document
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from pipeline.modeling import cpu_attention
from pipeline.modeling.compiler import compiler_problem
from utils.errors import PipelineError

Mask = Tensor | BlockMask  # (…, T, S), True where a query may look, or the same in blocks


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """Attention of `q` (B, H, T, D) over `k`, `v` (B, K, S, D) → (B, H, T, D).

    Without a mask it is causal, but a single query sees every key.
    """
    grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, BlockMask):
        attention: Callable[..., Tensor] = flex_attention
        if not torch.compiler.is_compiling():
            attention = _compiled_flex_attention(q.device)
        return attention(q, k, v, block_mask=mask, enable_gqa=grouped)
    if grouped and q.shape[2] == 1:
        return _attend_single(q, k, v, mask)
    causal = mask is None and q.shape[2] > 1
    if causal and q.is_cpu and torch.compiler.is_compiling() and cpu_attention.fits(q.shape[2]):
        return cpu_attention.blocked_causal_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def _attend_single(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one query per row, (B, H, 1, D). The heads that share a key-value head are passed as that many
    queries, so that its keys and values are read once instead of H / K times."""
    batch, heads, _, size = q.shape
    y = F.scaled_dot_product_attention(q.reshape(batch, k.shape[1], -1, size), k, v, attn_mask=mask)
    return y.reshape(batch, heads, 1, size)


def segment_mask(segment_ids: Tensor) -> Mask:
    """A causal mask within the segments of `segment_ids` (B, T).

    On CUDA a BlockMask, so that FlexAttention skips empty blocks. Elsewhere FlexAttention has no backward pass, so it
    is a tensor (B, 1, T, T).
    """
    if segment_ids.is_cuda:
        return segment_block_mask(segment_ids)
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()  # (T, T)
    same = segment_ids[:, :, None] == segment_ids[:, None, :]  # (B, T, T)
    return (same & causal).unsqueeze(1)


def segment_block_mask(segment_ids: Tensor) -> BlockMask:
    """The mask of `segment_mask` in blocks of 128 by 128."""

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (segment_ids[batch, query] == segment_ids[batch, key])

    batch, length = segment_ids.shape
    return create_block_mask(visible, batch, None, length, length, device=segment_ids.device)


@cache
def _compiled_flex_attention(device: torch.device) -> Callable[..., Tensor]:
    if problem := compiler_problem(device):
        raise PipelineError(
            f"keeping documents separate requires a compiled kernel, but {problem}; use --set "
            "dataset.isolate_documents=false and --set sft.packing=false"
        )
    # Dynamic in length: with a version per length, fine-tuning would soon reach the limit of eight versions and then
    # run uncompiled.
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled
