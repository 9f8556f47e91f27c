"""A few real steps, measured, and what the whole run would take: time, memory, disk."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.formats.checkpoint import tensor_bytes
from utils.devices import describe_device
from utils.terminal import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

_WARM_UP_STEPS, _MEASURED_STEPS, _MEASURED_VALIDATION_BATCHES = 2, 5, 3


def dry_run(trainer: "Trainer") -> str:
    """Trains for seven steps without writing anything; returns the report."""
    first = trainer.step  # above 0 where a run is resumed
    warm_up = _seconds(lambda: [trainer.train_step() for _ in range(_WARM_UP_STEPS)])
    step = _seconds(lambda: [trainer.train_step() for _ in range(_MEASURED_STEPS)]) / _MEASURED_STEPS
    batches = min(_MEASURED_VALIDATION_BATCHES, len(trainer.val_loader))
    first_score = _seconds(lambda: trainer.score_validation(1))  # compiles; the others must not be measured by it
    scored = _seconds(lambda: trainer.score_validation(batches)) / max(1, batches) * len(trainer.val_loader)
    steps = max(0, trainer.total_steps - first)
    validations = -(-trainer.total_steps // trainer.validation_interval) - first // trainer.validation_interval
    total = warm_up + first_score + max(0, steps - _WARM_UP_STEPS) * step + validations * scored
    file = tensor_bytes(trainer.state_dict())
    files = 2 + min(trainer.config.keep_last, trainer.total_steps // trainer.config.checkpoint_every_steps)
    speed = trainer.tokens_per_step / step
    mfu = trainer.mfu(speed)
    return "\n".join(
        [
            f"device: {describe_device(trainer.device)}, processes: {trainer.world.size}",
            f"a step: {_short(step)}, {trainer.tokens_per_step:,} tokens, {format_count(speed)} tokens/s"
            + (f", MFU {mfu:.0%}" if mfu is not None else ""),
            f"the first {_WARM_UP_STEPS} steps: {format_seconds(warm_up)}",
            f"memory at most: {format_bytes(trainer.metrics.memory_bytes)}",
            f"a validation: {_short(scored)}, {validations} of them",
            f"{'what is left of the run' if first else 'the whole run'}: {steps:,} steps, "
            f"{format_count(steps * trainer.tokens_per_step)} tokens, about {format_seconds(total)}",
            f"disk: {files} checkpoints of {format_bytes(file)}, {format_bytes(files * file)} in all; "
            f"{format_bytes(_free_disk(trainer.run.folder))} free",
            "nothing was written; leave --dry-run out to train",
        ]
    )


def _free_disk(folder: Path) -> int:
    """Bytes free where `folder`, which need not be there yet, will be."""
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def _short(seconds: float) -> str:
    return format_seconds(seconds) if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
