"""Estimate the cost of a model before training it: parameters, operations, memory, expected speed.

print(summary(config, device_name="H100"))
"""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.configuration import Config
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.flops import training_flops_per_token
from pipeline.modeling.memory_estimate import inference_memory, parameters_by_part, training_memory
from utils.devices import known_gpus, peak_flops_of
from utils.errors import PipelineError, did_you_mean
from utils.terminal import format_bytes, format_count, format_seconds, format_table

# Expected share of a GPU's peak in a compiled training step. nanochat reports 42% on an H100; ours has not been
# measured on a GPU yet.
EXPECTED_UTILISATION = 0.4


def expected_tokens_per_second(config: ModelConfig, *, length: int, device_name: str) -> float:
    """Training tokens per second on the named GPU at `EXPECTED_UTILISATION`.

    Raises:
        PipelineError: the GPU is not known.
    """
    peak = peak_flops_of(device_name)
    if peak is None:
        near = did_you_mean(device_name, known_gpus())
        raise PipelineError(f"unknown device name {device_name!r}{near}; known devices: {', '.join(known_gpus())}")
    return EXPECTED_UTILISATION * peak / training_flops_per_token(config, length)


def summary(config: Config, *, device_name: str | None = None) -> str:
    """The full report for a configuration, as text."""
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
        f"training: {format_count(flops)} floating-point operations per token at {length} tokens "
        f"(6 N + attention), {tokens_a_step:,} tokens per step and process",
        _memory_table(f"memory for training, {training.batch_size} × {length} tokens", memory),
        _memory_table(
            f"memory for generation, one sequence of {written.context_length} tokens", inference_memory(written)
        ),
    ]
    if device_name:
        speed = expected_tokens_per_second(model, length=length, device_name=device_name)
        sections.append(
            f"expected on one {device_name}: {speed:,.0f} tokens per second at {EXPECTED_UTILISATION:.0%} of its peak; "
            f"20 tokens per parameter ({format_count(20 * total)}) in {format_seconds(20 * total / speed)}"
        )
    return "\n\n".join(sections)


def _memory_table(title: str, memory: dict[str, int]) -> str:
    rows = [(name, format_bytes(count)) for name, count in memory.items()]
    return _table((title, ""), rows, format_bytes(sum(memory.values())))


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], total: str) -> str:
    last = ("total", total, *("" for _ in header[2:]))
    return format_table([header, *rows, last], right=range(1, len(header)))
