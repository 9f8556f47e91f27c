"""Translate our model's configuration to Hugging Face's (Llama; Qwen3 with QK-norm) and back."""

from collections.abc import Mapping
from typing import Any

from pipeline.generation.config import GenerationConfig
from pipeline.modeling.config import ModelConfig
from utils.errors import PipelineError

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_NO_EQUAL = {
    ("norm", "layer"): "LayerNorm (model.norm layer)",
    ("activation", "geglu"): "GeGLU (model.activation geglu)",
    ("activation", "reglu"): "ReGLU (model.activation reglu)",
}
# A folder's model is one of ours only if these keys have one of these values.
_ONLY = {
    "hidden_act": ("silu",),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "use_sliding_window": (None, False),
    "partial_rotary_factor": (None, 1.0),
}


def refuse_what_has_no_equal(config: ModelConfig) -> None:
    """Raise a PipelineError that names what Llama and Qwen3 lack."""
    for (key, value), name in _NO_EQUAL.items():
        if getattr(config, key) == value:
            raise PipelineError(
                f"{name} has no equivalent in the Llama and Qwen3 architectures, so this model cannot be exported; "
                "expected model.norm rms and model.activation swiglu"
            )


def hf_config(config: ModelConfig, *, bos_id: int, eos_id: int, pad_id: int, dtype: str) -> dict[str, object]:
    """The content of config.json. It holds RoPE's base and the type twice, for transformers 4 and for 5."""
    model_type = "qwen3" if config.qk_norm else "llama"
    rope = rope_parameters(config)
    content: dict[str, object] = {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": rope["rope_theta"],
        "rope_parameters": rope,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    if model_type == "llama":
        content["mlp_bias"] = False
    else:
        content["use_sliding_window"] = False
    if "factor" in rope:
        content["rope_scaling"] = rope
    return content


def rope_parameters(config: ModelConfig) -> dict[str, Any]:
    """RoPE as transformers describes it. NTK scaling is just a larger base, and is written as one."""
    if config.rope_scaling in ("none", "ntk"):
        size = config.head_dim
        factor = config.rope_scaling_factor ** (size / (size - 2))
        return {"rope_type": "default", "rope_theta": config.rope_theta * factor}
    return {
        "rope_type": config.rope_scaling,
        "rope_theta": config.rope_theta,
        "factor": config.rope_scaling_factor,
        "original_max_position_embeddings": config.max_position_embeddings,
    }


def generation_config(config: GenerationConfig, *, bos_id: int, eos_id: int, pad_id: int) -> dict[str, object]:
    """The content of generation_config.json: the generation settings of the checkpoint's configuration."""
    ids = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    content: dict[str, object] = {**ids, "do_sample": config.temperature > 0, "max_new_tokens": config.max_length}
    if config.temperature > 0:
        content |= {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
    return content


def model_config(content: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """The keys of our `model` section for a folder's config.json.

    Raises:
        PipelineError: names the architecture, or the property of it, that our model lacks.
    """
    model_type = content.get("model_type")
    if model_type not in ARCHITECTURES:
        raise PipelineError(f"{origin}: model_type is {model_type!r}; expected {' or '.join(ARCHITECTURES)}")
    rope = {"rope_theta": content.get("rope_theta") or 10_000.0}
    rope |= content.get("rope_parameters") or content.get("rope_scaling") or {}
    _refuse_what_is_not_ours(content, rope, origin)
    heads = content["num_attention_heads"]
    if content.get("head_dim") not in (None, content["hidden_size"] // heads):
        raise PipelineError(
            f"{origin}: head_dim is {content['head_dim']}; expected hidden_size / num_attention_heads, which is "
            f"{content['hidden_size'] // heads}"
        )
    return {
        "vocab_size": content["vocab_size"],
        "hidden_size": content["hidden_size"],
        "num_hidden_layers": content["num_hidden_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": content.get("num_key_value_heads") or heads,
        "intermediate_size": content["intermediate_size"],
        **_rope_keys(rope, content["max_position_embeddings"]),
        "norm": "rms",
        "norm_eps": content["rms_norm_eps"],
        "activation": "swiglu",
        "tie_word_embeddings": content.get("tie_word_embeddings", False),
        "qk_norm": model_type == "qwen3",
    }


def _refuse_what_is_not_ours(content: Mapping[str, Any], rope: Mapping[str, Any], origin: str) -> None:
    for key, allowed in _ONLY.items():
        if content.get(key) not in allowed:
            raise PipelineError(f"{origin}: {key}={content[key]!r} is not supported")
    if rope.get("rope_type", "default") not in ("default", "linear", "yarn"):
        raise PipelineError(f"{origin}: rope_type={rope['rope_type']!r} is not supported")


def _rope_keys(rope: Mapping[str, Any], context: int) -> dict[str, Any]:
    """Our keys for RoPE and the context length; `context` is the scaled length."""
    factor = float(rope.get("factor") or 1.0)
    kind = rope.get("rope_type", "default")
    return {
        "max_position_embeddings": rope.get("original_max_position_embeddings") or round(context / factor),
        "rope_theta": float(rope["rope_theta"]),
        "rope_scaling": "none" if kind == "default" else kind,
        "rope_scaling_factor": factor,
    }
