"""The forward pass of one token for one row, written for the compiler (CPU).

Every product with a weight is a multiplication and a sum over the last axis instead of F.linear: Inductor turns these
into a loop that reads the weight at memory bandwidth, while the library's matrix-vector product reaches a third of it.
Attention over the cache is written the same way, and is twice as fast as the fused kernel for a single query.
"""

import torch
from torch import Tensor, nn

from model import Block, FastMultiHeadAttention, TransformerLM
from pipeline.modeling.quantization import Int8Weight
from utils.activations import gated_activation
from utils.cast_linear import WeightMatrix
from utils.rope import apply_rotary


class DecodeStep(nn.Module):
    """The forward pass of a `TransformerLM` for one token of one row, in float32 for any type of weights.

    It does not write to the cache; the caller stores the keys and values that it returns.
    """

    def __init__(self, model: TransformerLM) -> None:
        super().__init__()
        self.decoder = model.model
        self.head = model.head
        self.config = model.config

    def forward(
        self, token: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (V,) and the token's keys and values, (L, K, D) each.

        Args:
            token: (1,).
            cos, sin: (D/2,), for the token's position.
            keys, values: (L, K, S, D), one row of a cache.
            past: (P,), with any values; only its length counts, the number of valid positions (at least 1).
        """
        count = past.shape[0]
        x = _embed(self.decoder.embed_tokens, token)  # (C,)
        new_keys, new_values = [], []
        for number, layer in enumerate(self.decoder.layers):
            assert isinstance(layer, Block)
            q, k, v = self._project(layer.self_attn, layer.input_layernorm(x), cos, sin)  # (H, D), (K, D), (K, D)
            k, v = k.to(keys.dtype), v.to(values.dtype)
            attended = _attend(q, k, v, keys[number, :, :count], values[number, :, :count])  # (H, D)
            x = x + _product(layer.self_attn.o_proj, attended.flatten())  # (C,)
            gate, up = _product(layer.mlp.gate_up_proj, layer.post_attention_layernorm(x)).chunk(2)
            x = x + _product(layer.mlp.down_proj, gated_activation(self.config.activation, gate, up))
            new_keys.append(k)
            new_values.append(v)
        return _product(self.head, self.decoder.norm(x)), torch.stack(new_keys), torch.stack(new_values)

    def _project(
        self, attention: FastMultiHeadAttention, x: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.config.num_attention_heads
        groups = self.config.num_key_value_heads
        qkv = _product(attention.qkv_proj, x).view(heads + 2 * groups, self.config.head_dim)
        q, k, v = torch.split(qkv, [heads, groups, groups])  # (H, D), and (K, D) twice
        return apply_rotary(attention.q_norm(q), cos, sin), apply_rotary(attention.k_norm(k), cos, sin), v


def _embed(embedding: WeightMatrix, token: Tensor) -> Tensor:
    row = embedding.weight[token][0].float()
    return row * embedding.scale[token] if isinstance(embedding, Int8Weight) else row


def _product(layer: WeightMatrix, x: Tensor) -> Tensor:
    """(N, C) times (C,) → (N,); int8 weights have a scale for each of the N rows."""
    # A strided view makes Inductor materialize `x`. Otherwise it fuses the norm or activation that computes `x` into
    # the inner loop and repeats it for all N rows, which halves the speed with bfloat16 weights.
    x = x.as_strided(x.shape, x.stride())
    y = (layer.weight.float() * x).sum(-1)
    return y * layer.scale if isinstance(layer, Int8Weight) else y


def _attend(q: Tensor, k: Tensor, v: Tensor, past_keys: Tensor, past_values: Tensor) -> Tensor:
    """Attention of `q` (H, D) over the past (K, P, D) and the token's own `k`, `v` (K, D)."""
    groups, head_dim = k.shape
    q = q.view(groups, -1, 1, head_dim) * head_dim**-0.5  # (K, G, 1, D)
    past = (q * past_keys[:, None].float()).sum(-1)  # (K, G, P)
    own = (q * k[:, None, None].float()).sum(-1)  # (K, G, 1)
    largest = torch.maximum(past.amax(-1, keepdim=True), own)
    past, own = (past - largest).exp(), (own - largest).exp()
    total = past.sum(-1, keepdim=True) + own
    mixed = (past[..., None] * past_values[:, None].float()).sum(2) + own * v[:, None].float()  # (K, G, D)
    return (mixed / total).reshape(-1, head_dim)
