"""Floating-point operations of training, counted as in published utilization figures."""

from pipeline.modeling.config import ModelConfig


def matrix_parameters(config: ModelConfig) -> int:
    """Weights that every token is multiplied by: all matrices and the head, but not the embedding lookup."""
    width = config.hidden_size
    key_value = config.num_key_value_heads * config.head_dim
    attention = 2 * width * width + 2 * width * key_value
    return config.num_hidden_layers * (attention + 3 * width * config.ffn_size) + config.vocab_size * width


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """Forward and backward for one token of a sequence of `length`: 6 N + 12 L C T (Chowdhery et al. 2022, PaLM,
    appendix B), which counts attention as if it were not causal."""
    attention = 12 * config.num_hidden_layers * config.hidden_size * length
    return 6.0 * matrix_parameters(config) + attention
