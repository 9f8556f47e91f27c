"""Map our names of weights to Hugging Face's (Llama; Qwen3 with QK-norm) and back.

The names are equal except for two fused matrices in each layer, which hold their parts one below the other:
`self_attn.qkv_proj` holds `q_proj`, `k_proj`, `v_proj`, and `mlp.gate_up_proj` holds `gate_proj`, `up_proj`.

    hf_model.load_state_dict(to_hf_names(model.state_dict(), model.config), strict=False)
    model.load_state_dict(from_hf_names(hf_model.state_dict(), model.config))
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.modeling.config import ModelConfig

FUSED_PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def fused_sizes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Rows of each part of the fused matrices."""
    key_value_size = config.num_key_value_heads * config.head_dim
    return {
        "qkv_proj": (config.hidden_size, key_value_size, key_value_size),
        "gate_up_proj": (config.ffn_size, config.ffn_size),
    }


def to_hf_names(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our weights under Hugging Face's names; the parts of a fused matrix are views of it."""
    sizes = fused_sizes(config)
    result = {}
    for name, tensor in state.items():
        module = name.split(".")[-2]
        if module in FUSED_PARTS:
            parts = zip(FUSED_PARTS[module], torch.split(tensor, list(sizes[module])), strict=True)
            result.update({name.replace(module, part): rows for part, rows in parts})
        else:
            result[name] = tensor
    return result


def from_hf_names(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Hugging Face's weights under our names, without a tied head, which Hugging Face stores twice."""
    fused_of = {part: fused for fused, parts in FUSED_PARTS.items() for part in parts}
    result = {}
    for name, tensor in state.items():
        module = name.split(".")[-2]
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if module not in fused_of:
            result[name] = tensor
        elif module == FUSED_PARTS[fused_of[module]][0]:  # handles the other parts too
            names = [name.replace(module, part) for part in FUSED_PARTS[fused_of[module]]]
            result[name.replace(module, fused_of[module])] = torch.cat([state[member] for member in names])
    return result
