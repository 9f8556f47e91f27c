"""The names of all metrics logged by a training run.

A name is the key in a line of raw_metrics. TensorBoard and trackers show the first underscore as a slash:
``train_loss`` is the chart ``loss`` in the group ``train``. They show ``_bytes`` in GB.
"""

from collections.abc import Mapping
from pathlib import Path

from utils.raw_log import HparamValue, read_log

# Group train: written every training.log_every_steps steps.
TRAIN_LOSS = "train_loss"  # nats per token, of the step
TRAIN_LOSS_SMOOTHED = "train_loss_smoothed"  # mean of the last training.metrics_window steps
TRAIN_GRAD_NORM = "train_grad_norm"  # before clipping
TRAIN_LEARNING_RATE = "train_learning_rate"
TRAIN_TOKENS = "train_tokens"  # seen so far; also logged with validations

# Group speed: logged together with group train.
SPEED_TOKENS_PER_SECOND = "speed_tokens_per_second"
SPEED_MEMORY_BYTES = "speed_memory_bytes"  # peak so far
MFU = "mfu"  # model FLOPs utilization, 0 to 1, if the device's peak is known; not in a group

# Group val: the metrics of a validation.
VALIDATION_GROUP = "val_"
VAL_LOSS = "val_loss"  # nats per token
VAL_PERPLEXITY = "val_perplexity"
VAL_BITS_PER_BYTE = "val_bits_per_byte"  # if the dataset records how many bytes each token has
VAL_BASE_BITS_PER_BYTE = "val_base_bits_per_byte"  # fine-tuning: on the text that pretraining held out

# Events: lines with "event". Both kinds of samples are texts called "samples" in TensorBoard.
SAMPLE = "sample"  # pretraining: a prompt and its continuation
SAMPLES = "samples"  # fine-tuning: questions and answers
QUESTIONS = "questions"  # fine-tuning: the counts of correct answers to the question file, of a model_step
SKIPPED_STEP = "skipped_step"
ROLLBACK = "rollback"
TRAINING = "training"  # training starts or continues; has total_steps and device
END = "end"  # training stopped; has a reason: the next two, or why it stopped early
FINISHED = "finished"  # the reason of END if all steps are done
INTERRUPTED = "interrupted"  # the reason of END after a signal


def validation_values(metrics: Mapping[str, float]) -> dict[str, float]:
    """``loss`` → ``val_loss``, and so on."""
    return {f"{VALIDATION_GROUP}{name}": value for name, value in metrics.items()}


def is_from_validation(line: Mapping[str, object]) -> bool:
    """Whether this line is from a validation: its metrics, or sample texts."""
    return line.get("event") in (SAMPLE, SAMPLES) or any(name.startswith(VALIDATION_GROUP) for name in line)


def validation_losses(log: Path) -> list[tuple[int, float]]:
    """(step, loss) of every validation in a raw metrics file."""
    return [(line["step"], line[VAL_LOSS]) for line in read_log(log) if VAL_LOSS in line]


def compared_settings(config: Mapping[str, Mapping[str, object]], *sections: str) -> dict[str, HparamValue]:
    """``{"training.learning_rate": 0.001, …}``: the settings by which TensorBoard compares runs."""
    return {
        f"{section}.{key}": value
        for section in sections
        for key, value in config[section].items()
        if isinstance(value, (bool, int, float, str)) and not key.endswith("_dir")
    }
