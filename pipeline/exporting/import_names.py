"""Map other programs' names of weights to Hugging Face's names and order of rows.

The names of Hugging Face's Llama and Qwen3, of litgpt and of Meta's Llama (llama2.c, gpt-fast, torchtitan, torchtune)
are known, and mixtures of them as in code in nanoGPT's style. Queries, keys and values may be fused, gate and up too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.errors import PipelineError

# Wrappers that precede the names: DataParallel, torch.compile, Lightning, the class of the model itself.
_WRAPPERS = {"_orig_mod", "_forward_module", "module", "model", "transformer", "decoder", "net"}
_TOP = {
    "model.embed_tokens": ("embed_tokens", "tok_embeddings", "wte", "tok_emb", "token_embedding", "token_embeddings"),
    "lm_head": ("lm_head", "output", "head", "output_projection"),
    "model.norm": ("norm", "ln_f", "norm_f", "final_norm", "final_layernorm"),
}
_LAYERS = ("layers", "h", "blocks")
_NORMS = {
    "input_layernorm": (
        "input_layernorm",
        *("attention_norm", "attn_norm", "sa_norm", "norm_1", "norm1", "ln_1", "ln1", "rms_1"),
    ),
    "post_attention_layernorm": (
        "post_attention_layernorm",
        *("ffn_norm", "mlp_norm", "norm_2", "norm2", "ln_2", "ln2", "rms_2"),
    ),
}
_ATTENTION = {
    "q_proj": ("q_proj", "wq", "query"),
    "k_proj": ("k_proj", "wk", "key"),
    "v_proj": ("v_proj", "wv", "value"),
    "o_proj": ("o_proj", "wo", "out_proj", "output_proj", "proj", "c_proj"),
    "q_norm": ("q_norm", "norm_q"),
    "k_norm": ("k_norm", "norm_k"),
    "qkv_proj": ("qkv_proj", "qkv", "wqkv", "c_attn"),
    "grouped_qkv": ("attn",),  # litgpt before 0.5: each group's queries, its key and its value follow one another
}
_FEED_FORWARD = {
    "gate_proj": ("gate_proj", "w1", "fc_1", "c_fc1", "gate"),
    "up_proj": ("up_proj", "w3", "fc_2", "c_fc2", "up"),
    "down_proj": ("down_proj", "w2", "proj", "c_proj", "down"),
    "gate_up_proj": ("gate_up_proj", "gate_up", "w13"),
}
_MODULES = {
    **dict.fromkeys(("self_attn", "attention", "attn"), ("self_attn", _ATTENTION)),
    **dict.fromkeys(("mlp", "feed_forward", "ffn", "ff"), ("mlp", _FEED_FORWARD)),
}
# Programs with these names rotate neighbouring values of a query; this project and Hugging Face rotate its halves.
_PAIR_NAMES = {"wq", "wqkv", "rms_1", "sa_norm"}
# Buffers that follow from the configuration.
_COMPUTED = {"inv_freq", "freqs", "freqs_cis", "freqs_cos", "freqs_sin", "cos", "sin", "cos_cached", "sin_cached"}
_COMPUTED |= {"mask", "causal_mask", "tril"}


@dataclass(frozen=True)
class Mapped:
    """A mapped state dict: `state` has Hugging Face's names; fused matrices are still whole."""

    state: dict[str, Tensor]
    computed: tuple[str, ...]  # buffers that are left out, as they follow from the configuration
    unknown: tuple[str, ...]
    rotates_pairs: bool


def map_names(weights: Mapping[str, Tensor]) -> Mapped:
    """Map every name.

    Raises:
        PipelineError: two names mean the same weight.
    """
    state: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    computed: list[str] = []
    unknown: list[str] = []
    for name, tensor in weights.items():
        target = standard_name(name)
        if target is None:
            group = computed if _is_computed(name, tensor) else unknown
            group.append(name)
        elif target in state:
            raise PipelineError(f"{origin[target]} and {name} both map to {target}; expected only one of them")
        else:
            state[target] = tensor
            origin[target] = name
    words = {word for name in origin.values() for word in name.split(".")}
    return Mapped(state, tuple(computed), tuple(unknown), bool(words & _PAIR_NAMES))


def standard_name(name: str) -> str | None:
    """``transformer.h.3.mlp.fc_1.weight`` → ``model.layers.3.mlp.gate_proj.weight``; None if it is not known."""
    words = [word for word in name.split(".") if word != "_orig_mod"]
    while len(words) > 2 and words[0] in _WRAPPERS:
        words = words[1:]
    *path, kind = words
    if kind not in ("weight", "scale"):
        return None
    if len(path) == 1:
        top = _lookup(_TOP, path[0])
        return f"{top}.weight" if top else None
    if len(path) < 3 or path[0] not in _LAYERS or not path[1].isdigit():
        return None
    part = _layer_part(path[2:])
    return f"model.layers.{int(path[1])}.{part}.weight" if part else None


def _layer_part(path: list[str]) -> str | None:
    if len(path) == 1:
        return _lookup(_NORMS, path[0])
    if len(path) != 2 or path[0] not in _MODULES:
        return None
    module, parts = _MODULES[path[0]]
    part = _lookup(parts, path[1])
    return f"{module}.{part}" if part else None


def _lookup(table: Mapping[str, Iterable[str]], word: str) -> str | None:
    return next((name for name, words in table.items() if word in words), None)


def _is_computed(name: str, tensor: Tensor) -> bool:
    words = name.split(".")
    is_causal_mask = words[-1] in ("bias", "masked_bias") and tensor.dim() in (0, 4)
    is_zero_bias = words[-1] == "bias" and tensor.dim() == 1 and not tensor.any()
    return words[-1] in _COMPUTED or "rotary_emb" in words or is_causal_mask or is_zero_bias


def split_fused(state: Mapping[str, Tensor], *, heads: int, key_value_heads: int) -> dict[str, Tensor]:
    """Split every fused matrix into its parts."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix, _, module = name.removesuffix(".weight").rpartition(".")
        parts: Sequence[Tensor]
        names: tuple[str, ...]
        if module == "qkv_proj":
            size = tensor.shape[0] // (heads + 2 * key_value_heads)
            parts = torch.split(tensor, [heads * size, key_value_heads * size, key_value_heads * size])
            names = ("q_proj", "k_proj", "v_proj")
        elif module == "grouped_qkv":
            parts = _ungroup(tensor, heads // key_value_heads, key_value_heads)
            names = ("q_proj", "k_proj", "v_proj")
        elif module == "gate_up_proj":
            parts = tensor.chunk(2)
            names = ("gate_proj", "up_proj")
        else:
            parts = (tensor,)
            names = (module,)
        result |= {f"{prefix}.{part}.weight".lstrip("."): rows for part, rows in zip(names, parts, strict=True)}
    return result


def _ungroup(tensor: Tensor, queries: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """(K · (Q + 2) · D, C), with each group's queries, key and value in consecutive rows → queries, keys, values."""
    grouped = tensor.view(groups, queries + 2, -1, tensor.shape[-1])  # (K, Q + 2, D, C)
    q, k, v = grouped[:, :-2], grouped[:, -2], grouped[:, -1]
    width = tensor.shape[-1]
    return q.reshape(-1, width), k.reshape(-1, width), v.reshape(-1, width)


def halve_rows(state: Mapping[str, Tensor], head_dim: int) -> dict[str, Tensor]:
    """Queries' and keys' rows from neighbours (2i, 2i + 1) to halves (i, i + D/2)."""
    rotated = (".q_proj.weight", ".k_proj.weight", ".q_norm.weight", ".k_norm.weight")
    return {name: _halved(tensor, head_dim) if name.endswith(rotated) else tensor for name, tensor in state.items()}


def _halved(weight: Tensor, head_dim: int) -> Tensor:
    pairs = weight.view(-1, head_dim // 2, 2, *weight.shape[1:])  # (H, D/2, 2, …)
    return pairs.transpose(1, 2).reshape(weight.shape)


def is_same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)
