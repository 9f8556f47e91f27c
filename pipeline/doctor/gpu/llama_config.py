"""The shape of one of our models as transformers' `LlamaConfig`, for comparisons with the same architecture."""

from typing import TYPE_CHECKING

from pipeline.modeling.config import ModelConfig

if TYPE_CHECKING:
    from transformers import LlamaConfig


def llama_config(shape: ModelConfig) -> "LlamaConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=shape.max_position_embeddings,
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tie_word_embeddings,
    )
