"""The names of everything that a training run logs.

A number's name is its key in a line of raw_metrics; TensorBoard shows it with its first underscore as a slash, so that
``train_loss`` is the chart ``loss`` in the group ``train``.
"""

from collections.abc import Mapping
from pathlib import Path

from utils.logging_utils import read_log

# Group train: written every training.log_every_steps steps.
TRAIN_LOSS = "train_loss"  # nats a token, of the step
TRAIN_LOSS_SMOOTHED = "train_loss_smoothed"  # mean of the last training.metrics_window steps
TRAIN_GRAD_NORM = "train_grad_norm"  # before clipping
TRAIN_LEARNING_RATE = "train_learning_rate"
TRAIN_TOKENS = "train_tokens"  # seen so far; validations have it too

# Group speed: with the above.
SPEED_TOKENS_PER_SECOND = "speed_tokens_per_second"
SPEED_MEMORY_BYTES = "speed_memory_bytes"  # at most so far
MFU = "mfu"  # model FLOPs utilisation, 0 to 1, if the device's peak is known; in no group

# Group val: every metric of a validation, written after it.
VALIDATION_GROUP = "val_"
VAL_LOSS = "val_loss"  # nats a token
VAL_PERPLEXITY = "val_perplexity"
VAL_BITS_PER_BYTE = "val_bits_per_byte"  # if the dataset records how many bytes each token has

# Events: lines with "event", and TensorBoard's texts.
SAMPLE = "sample"  # pretraining: a prompt and how the model continues it
SAMPLES = "samples"  # fine-tuning: questions and answers
SKIPPED_STEP = "skipped_step"
ROLLBACK = "rollback"


def validation_values(metrics: Mapping[str, float]) -> dict[str, float]:
    """``loss`` → ``val_loss``, and so on."""
    return {f"{VALIDATION_GROUP}{name}": value for name, value in metrics.items()}


def is_from_validation(line: Mapping[str, object]) -> bool:
    """Whether a validation wrote this line: its numbers, or what the model then continued or answered."""
    return line.get("event") in (SAMPLE, SAMPLES) or any(name.startswith(VALIDATION_GROUP) for name in line)


def validation_losses(log: Path) -> list[tuple[int, float]]:
    """(step, loss) of every validation in a raw metrics file."""
    return [(line["step"], line[VAL_LOSS]) for line in read_log(log) if VAL_LOSS in line]
