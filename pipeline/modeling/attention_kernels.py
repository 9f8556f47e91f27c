"""Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over torch's fused kernels."""

from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from pipeline.modeling import cpu_attention
from pipeline.modeling.compiler import compiler_problem
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.norms import RMSNorm
from utils.cast_linear import FusedLinear, Linear
from utils.errors import PipelineError
from utils.rope import apply_rotary

if TYPE_CHECKING:
    from pipeline.modeling.kv_cache import KVCache


class FastMultiHeadAttention(nn.Module):
    """Attention with H query heads over K key-value heads; one product makes queries, keys and values."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads, self.num_key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        key_value_size = self.num_key_value_heads * self.head_dim
        self.qkv_proj = FusedLinear(config.hidden_size, (config.hidden_size, key_value_size, key_value_size))
        self.o_proj = Linear(config.hidden_size, config.hidden_size)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, eps=config.norm_eps)
            self.k_norm = RMSNorm(self.head_dim, eps=config.norm_eps)
        self.qk_norm = config.qk_norm

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        *,
        mask: Tensor | BlockMask | None = None,
        cache: "KVCache | None" = None,
    ) -> Tensor:
        """`x` (B, T, C) → (B, T, C). `mask` (…, T, S), True where a query may look; None: causal."""
        batch, length, width = x.shape
        heads, groups = self.num_heads, self.num_key_value_heads
        qkv = self.qkv_proj(x).view(batch, length, heads + 2 * groups, self.head_dim)
        q, k, v = qkv.split((heads, groups, groups), dim=2)  # (B, T, H or K, D)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rotary(q, *rotation), apply_rotary(k, *rotation)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))  # (B, H or K, T, D)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, K, S, D)
        return self.o_proj(attend(q, k, v, mask).transpose(1, 2).reshape(batch, length, width))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """Attention of `q` (B, H, T, D) over `k`, `v` (B, K, S, D). No mask: causal, but one query sees everything."""
    grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, BlockMask):
        attention = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention(q.device)
        return attention(q, k, v, block_mask=mask, enable_gqa=grouped)
    causal = mask is None and q.shape[2] > 1
    if causal and q.is_cpu and torch.compiler.is_compiling() and cpu_attention.fits(q.shape[2]):
        return cpu_attention.blocked_causal_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def segment_mask(segment_ids: Tensor) -> Tensor | BlockMask:
    """Where a query may look: not ahead, and in its own segment of `segment_ids` (B, T).

    On CUDA a BlockMask, with which FlexAttention leaves out the blocks that hold nothing; elsewhere, where that has no
    backward pass, a tensor (B, 1, T, T).
    """
    if segment_ids.is_cuda:
        return segment_block_mask(segment_ids)
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    return ((segment_ids[:, :, None] == segment_ids[:, None, :]) & causal).unsqueeze(1)


def segment_block_mask(segment_ids: Tensor) -> BlockMask:
    """The same as blocks of 128 by 128."""

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (segment_ids[batch, query] == segment_ids[batch, key])

    batch, length = segment_ids.shape
    return create_block_mask(visible, batch, None, length, length, device=segment_ids.device)


@cache
def _compiled_flex_attention(device: torch.device):
    if problem := compiler_problem(device):
        raise PipelineError(
            f"documents are kept apart by a kernel that is compiled, but {problem}; run it with "
            "--set dataset.isolate_documents=false and --set sft.packing=false"
        )
    # For any length: compiled for one at a time, a few fine-tuning batches reach the limit of eight versions, and
    # what comes after that would run uncompiled.
    return torch.compile(flex_attention, dynamic=True)
