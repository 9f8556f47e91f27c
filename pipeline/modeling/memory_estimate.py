"""Estimate a model's number of weights and its memory for training and generation, without importing torch.

parameters = sum(parameters_by_part(config).values())
memory = sum(training_memory(config, batch_size=32, length=512).values())
"""

from pipeline.modeling.config import ModelConfig


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """The number of weights in each part of the model."""
    width = config.hidden_size
    layers = config.num_hidden_layers
    key_value = config.num_key_value_heads * config.head_dim
    parts = {
        "embedding" if not config.tie_word_embeddings else "embedding = output head": config.vocab_size * width,
        "attention": layers * (2 * width * width + 2 * width * key_value),
        "feed-forward": layers * 3 * width * config.ffn_size,
        "norms": (2 * layers + 1) * width + (2 * layers * config.head_dim if config.qk_norm else 0),
    }
    if not config.tie_word_embeddings:
        parts["output head"] = config.vocab_size * width
    return parts


def training_memory(config: ModelConfig, *, batch_size: int, length: int, bytes_per_value: int = 2) -> dict[str, int]:
    """Memory in bytes for a training step with AdamW on `batch_size` windows of `length` tokens, at `bytes_per_value`
    for the compute type. Activations are those kept for the backward pass; a compiled step may need fewer."""
    weights = sum(parameters_by_part(config).values())
    rows = batch_size * length
    width = config.hidden_size
    heads = config.num_attention_heads
    key_value = 2 * config.num_key_value_heads * config.head_dim
    # Each product, norm, rotation, attention and activation keeps its input once.
    block = 2 * width + width + (width + key_value) + 2 * width + 3 * config.ffn_size  # values in the compute type
    in_float32 = 4 * (2 * width + heads)  # the norms' inputs, attention's logsumexp
    block_bytes = rows * (block * bytes_per_value + in_float32)
    if config.activation_checkpointing:
        blocks = block_bytes + config.num_hidden_layers * rows * width * bytes_per_value
    else:
        blocks = config.num_hidden_layers * block_bytes
    held_rows = min(rows, 4096)  # the maximum in pipeline/modeling/head_loss.py
    held_logits = held_rows * config.vocab_size * bytes_per_value
    return {
        "weights, gradients, AdamW (float32)": 16 * weights,
        "weights in the compute type": bytes_per_value * weights,
        "activations": blocks,
        "output logits, in chunks": held_logits,
    }


def inference_memory(config: ModelConfig, *, rows: int = 1, bytes_per_value: int = 2) -> dict[str, int]:
    """Memory in bytes for the weights and a cache of `rows` full-context sequences."""
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * config.context_length * rows
    weights = sum(parameters_by_part(config).values())
    return {"weights": bytes_per_value * weights, "cache, full context": bytes_per_value * cache}
