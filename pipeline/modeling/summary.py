"""What a model costs before it is trained: parameters, operations, memory, expected speed.

print(summary(config, device_name="H100"))
"""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.configuration import Config
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.flops import training_flops_per_token
from utils.devices import known_gpus, peak_flops_of
from utils.errors import PipelineError, did_you_mean
from utils.terminal import format_bytes, format_count, format_seconds, format_table

# Share of a GPU's peak that a compiled training step of such models is expected to use. nanochat's published 42% is on
# an H100; ours is not measured on a GPU yet.
EXPECTED_UTILISATION = 0.4


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Weights of each part; their sum is the model's."""
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
    """Bytes of a training step with AdamW and `batch_size` windows of `length` tokens, `bytes_per_value` a value of the
    compute type. Activations are what the backward pass keeps; a compiled step may do with less."""
    weights = sum(parameters_by_part(config).values())
    rows = batch_size * length
    width = config.hidden_size
    heads = config.num_attention_heads
    key_value = 2 * config.num_key_value_heads * config.head_dim
    # What each product, norm, rotation, attention and activation keeps: its input, once.
    block = 2 * width + width + (width + key_value) + 2 * width + 3 * config.ffn_size  # values in the compute type
    in_float32 = 4 * (2 * width + heads)  # the norms' inputs, attention's logsumexp
    block_bytes = rows * (block * bytes_per_value + in_float32)
    if config.activation_checkpointing:
        blocks = block_bytes + config.num_hidden_layers * rows * width * bytes_per_value
    else:
        blocks = config.num_hidden_layers * block_bytes
    held_rows = min(rows, 4096)  # pipeline/modeling/head_loss.py never holds more
    held_logits = held_rows * config.vocab_size * bytes_per_value
    return {
        "weights, gradients, AdamW (float32)": 16 * weights,
        "weights in the compute type": bytes_per_value * weights,
        "activations": blocks,
        "output logits, in chunks": held_logits,
    }


def inference_memory(config: ModelConfig, *, rows: int = 1, bytes_per_value: int = 2) -> dict[str, int]:
    """Bytes of the weights and of the cache of `rows` sequences as long as the context."""
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * config.context_length * rows
    weights = sum(parameters_by_part(config).values())
    return {"weights": bytes_per_value * weights, "cache, full context": bytes_per_value * cache}


def expected_tokens_per_second(config: ModelConfig, *, length: int, device_name: str) -> float:
    """Training tokens a second on a GPU of that name at `EXPECTED_UTILISATION`.

    Raises:
        PipelineError: no such GPU is known.
    """
    peak = peak_flops_of(device_name)
    if peak is None:
        near = did_you_mean(device_name, known_gpus())
        raise PipelineError(f"device name {device_name!r} is not known{near}; known: {', '.join(known_gpus())}")
    return EXPECTED_UTILISATION * peak / training_flops_per_token(config, length)


def summary(config: Config, *, device_name: str | None = None) -> str:
    """The whole report of a configuration, as text."""
    model = config.model
    training = config.training
    length = config.dataset.window
    parts = parameters_by_part(model)
    total = sum(parts.values())
    size = 4 if training.dtype == "float32" else 2
    memory = training_memory(model, batch_size=training.batch_size, length=length, bytes_per_value=size)
    tokens_a_step = training.batch_size * training.gradient_accumulation_steps * length
    flops = training_flops_per_token(model, length)
    # In a new run the window becomes the context, unless positions are scaled from the start.
    written = model if model.rope_scaling != "none" else replace(model, max_position_embeddings=length)
    sections = [
        _table(
            ("parameters", "", "share"), [(n, f"{c:,}", f"{c / total:.1%}") for n, c in parts.items()], f"{total:,}"
        ),
        f"training: {format_count(flops)} floating-point operations a token at {length} tokens "
        f"(6 N + attention), {tokens_a_step:,} tokens a step and process",
        _memory_table(f"memory, {training.batch_size} × {length} tokens at once", memory),
        _memory_table(f"memory, one sequence of {written.context_length} tokens written", inference_memory(written)),
    ]
    if device_name:
        speed = expected_tokens_per_second(model, length=length, device_name=device_name)
        sections.append(
            f"expected on one {device_name}: {speed:,.0f} tokens a second at {EXPECTED_UTILISATION:.0%} of its peak; "
            f"20 tokens a parameter ({format_count(20 * total)}) in {format_seconds(20 * total / speed)}"
        )
    return "\n\n".join(sections)


def _memory_table(title: str, memory: dict[str, int]) -> str:
    rows = [(name, format_bytes(count)) for name, count in memory.items()]
    return _table((title, ""), rows, format_bytes(sum(memory.values())))


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], total: str) -> str:
    last = ("total", total, *("" for _ in header[2:]))
    return format_table([header, *rows, last], right=range(1, len(header)))
