"""Derive the keys of our `model` section from another program's configuration and the shapes of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.exporting.hf_config import ARCHITECTURES, model_config
from pipeline.exporting.import_names import is_same
from pipeline.modeling.config import ModelConfig
from utils.errors import PipelineError

# Our key → the names that other programs use for it, the most specific first.
_ALIASES = {
    "vocab_size": ("padded_vocab_size", "vocab_size", "n_vocab"),
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "dim", "d_model", "embed_dim", "embedding_dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "n_kv_heads", "n_kv_head", "num_kv_heads", "n_query_groups"),
    "intermediate_size": ("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "ffn_hidden_size"),
    "max_position_embeddings": (
        "max_position_embeddings",
        *("block_size", "max_seq_len", "max_seq_length", "context_length", "seq_len"),
    ),
    "rope_theta": ("rope_theta", "rope_base"),
    "rope_scaling": ("rope_scaling",),
    "rope_scaling_factor": ("rope_scaling_factor",),
    "norm": ("norm", "norm_class_name", "norm_type"),
    "norm_eps": ("norm_eps", "rms_norm_eps", "layer_norm_eps", "eps"),
    "activation": ("activation", "hidden_act", "mlp_class_name"),
    "tie_word_embeddings": ("tie_word_embeddings", "tie_embeddings", "tie_weights", "weight_tying"),
}
_WORDS = {
    "norm": {"rms": "rms", "rmsnorm": "rms", "layer": "layer", "layernorm": "layer"},
    "activation": {"swiglu": "swiglu", "silu": "swiglu", "llamamlp": "swiglu"}
    | {"geglu": "geglu", "gemmamlp": "geglu", "reglu": "reglu"},
}
# Properties that our model lacks, unless they have one of these values.
_ONLY = {
    **{"rotary_percentage": (None, 1), "rope_condense_ratio": (None, 1), "use_scaled_rope": (None, False)},
    **{"sliding_window_size": (None,), "attention_logit_softcapping": (None,), "final_logit_softcapping": (None,)},
    **{"parallel_residual": (None, False), "scale_embeddings": (None, False), "attention_scores_scalar": (None,)},
}
_GUESSED = (
    "max_position_embeddings",
    "rope_theta",
    "norm",
    "norm_eps",
    "activation",
)  # the shapes do not determine these


@dataclass(frozen=True)
class ForeignConfig:
    """`values` are keys of our `model` section; `assumed` are those that are just our defaults."""

    values: dict[str, Any]
    assumed: tuple[str, ...]


def foreign_config(stated: Mapping[str, object], state: Mapping[str, Tensor], *, origin: str) -> ForeignConfig:
    """The model's configuration from what the file or ``--model-config`` states and from the weights `state`.

    Raises:
        PipelineError: the two contradict each other, or neither gives the number of heads.
    """
    said = _stated_values(stated, origin)
    seen = _seen_values(state, origin)
    for key, value in seen.items():
        if said.get(key, value) != value:
            raise PipelineError(f"{origin}: {key} is {said[key]} in the configuration, but {value} in the weights")
    values = said | seen
    values |= _heads(values, state, origin)
    assumed = tuple(key for key in _GUESSED if key not in values)
    defaults = ModelConfig()
    return ForeignConfig(values | {key: getattr(defaults, key) for key in assumed}, assumed)


def _stated_values(stated: Mapping[str, object], origin: str) -> dict[str, Any]:
    model = stated.get("model")
    stated = {**stated, **model} if isinstance(model, Mapping) else stated  # ours, and others' nested ones
    if stated.get("model_type") in ARCHITECTURES:
        return model_config(stated, origin=origin)
    for key, allowed in _ONLY.items():
        if stated.get(key) not in allowed:
            raise PipelineError(f"{origin}: {key}={stated[key]!r} is not supported")
    values = {}
    for key, names in _ALIASES.items():
        found = [stated[name] for name in names if stated.get(name) not in (None, -1)]
        if found:
            values[key] = _translated(key, found[0], origin)
    return values


def _translated(key: str, value: object, origin: str) -> object:
    if key not in _WORDS:
        return value
    word = _WORDS[key].get(str(value).lower())
    if word is None:
        choices = ", ".join(_WORDS[key])
        raise PipelineError(f"{origin}: {key}={value!r} is not supported; expected one of {choices}")
    return word


def _seen_values(state: Mapping[str, Tensor], origin: str) -> dict[str, Any]:
    """The keys that the shapes determine."""
    embedding = state.get("model.embed_tokens.weight")
    if embedding is None or embedding.dim() != 2:
        raise PipelineError(f"no embedding matrix recognized in {origin}; expected model.embed_tokens.weight")
    layers = {int(name.split(".")[2]) for name in state if name.startswith("model.layers.")}
    if not layers:
        raise PipelineError(f"no layers recognized in {origin}; expected names like model.layers.0.…")
    head = state.get("lm_head.weight")
    values = {
        "vocab_size": embedding.shape[0],
        "hidden_size": embedding.shape[1],
        "num_hidden_layers": max(layers) + 1,
        "tie_word_embeddings": head is None or is_same(head, embedding),
        "qk_norm": any(name.endswith(".q_norm.weight") for name in state),
    }
    first = f"model.layers.{min(layers)}.mlp."
    if f"{first}gate_proj.weight" in state:
        values["intermediate_size"] = state[f"{first}gate_proj.weight"].shape[0]
    elif f"{first}gate_up_proj.weight" in state:
        values["intermediate_size"] = state[f"{first}gate_up_proj.weight"].shape[0] // 2
    return values


def _heads(values: Mapping[str, Any], state: Mapping[str, Tensor], origin: str) -> dict[str, int]:
    """The numbers of heads: given the query heads, the shapes determine the key-value heads."""
    width = values["hidden_size"]
    size = _head_size(state)
    heads = values.get("num_attention_heads") or (width // size if size else None)
    if not isinstance(heads, int) or width % heads:
        raise PipelineError(
            f"{origin}: the number of attention heads is {heads or 'not specified'} and cannot be inferred from "
            f"the shapes; expected a divisor of hidden_size {width}; set num_attention_heads in a JSON file and "
            "pass it with --model-config FILE (also max_position_embeddings, rope_theta and norm_eps, unless "
            "they are 1024, 10000 and 1e-5)"
        )
    rows = _key_rows(state, width)
    groups = rows * heads // width
    stated = values.get("num_key_value_heads", groups)
    if groups * width != rows * heads or stated != groups:
        raise PipelineError(
            f"{origin}: the key projection has {rows} rows, which does not match {heads} heads of size "
            f"{width // heads} and {stated} key-value heads; expected num_key_value_heads * hidden_size / "
            "num_attention_heads rows"
        )
    return {"num_attention_heads": heads, "num_key_value_heads": groups}


def _head_size(state: Mapping[str, Tensor]) -> int | None:
    """The head size, which the norm of the queries shows; None without such a norm."""
    return next((tensor.shape[0] for name, tensor in state.items() if name.endswith(".q_norm.weight")), None)


def _key_rows(state: Mapping[str, Tensor], width: int) -> int:
    for name, tensor in state.items():
        if name.endswith(".k_proj.weight"):
            return tensor.shape[0]
        if name.endswith((".qkv_proj.weight", ".grouped_qkv.weight")):
            return (tensor.shape[0] - width) // 2
    return 0
