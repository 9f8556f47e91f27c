"""Estimate the cost of a run before it starts: time for ``--test``; time, memory and disk for ``--dry-run``."""

import time
from collections.abc import Callable

import torch

from pipeline.formats.checkpoint import tensor_bytes
from pipeline.training.trainer import Trainer
from utils.arithmetic import ceil_div
from utils.devices import describe_device
from utils.files import free_disk
from utils.terminal import format_bytes, format_count, format_seconds

Clock = Callable[[], float]

PEAK_MEMORY = "peak memory"  # begins the report's line with this figure; the doctor reads it

_WARM_UP_STEPS = 2  # for compiling and allocating
_MEASURED_STEPS = 5
_MEASURED_VALIDATION_BATCHES = 3


def dry_run(trainer: Trainer, *, clock: Clock = time.perf_counter) -> str:
    """Train for seven steps without writing anything, and return the report."""
    first_step = trainer.step  # above 0 for a resumed run
    warm_up = _seconds(lambda: _train(trainer, _WARM_UP_STEPS), clock)
    step = _seconds(lambda: _train(trainer, _MEASURED_STEPS), clock) / _MEASURED_STEPS
    first_score = _seconds(lambda: trainer.score_validation(1), clock)  # compiles, so it is not measured
    validation = _seconds_per_validation(trainer, clock)
    num_steps = max(0, trainer.total_steps - first_step)
    earlier_validations = first_step // trainer.validation_interval
    num_validations = ceil_div(trainer.total_steps, trainer.validation_interval) - earlier_validations
    total = warm_up + first_score + max(0, num_steps - _WARM_UP_STEPS) * step + num_validations * validation
    extent = "the rest of the run" if first_step else "the whole run"
    return "\n".join(
        [
            f"device: {describe_device(trainer.device)}, processes: {trainer.world.size}",
            f"step: {_short(step)}, {trainer.tokens_per_step:,} tokens, {_speed(trainer, step)}",
            f"first {_WARM_UP_STEPS} steps: {format_seconds(warm_up)}",
            f"{PEAK_MEMORY}: {format_bytes(trainer.metrics.memory_bytes)}",
            f"validation: {_short(validation)}, {num_validations} times",
            f"{extent}: {num_steps:,} steps, {format_count(num_steps * trainer.tokens_per_step)} tokens, "
            f"about {format_seconds(total)}",
            f"disk: {_disk(trainer)}",
            "nothing was written; remove --dry-run to train",
        ]
    )


def _train(trainer: Trainer, num_steps: int) -> None:
    for _ in range(num_steps):
        trainer.train_step()


def _seconds_per_validation(trainer: Trainer, clock: Clock) -> float:
    num_batches = len(trainer.data.validation)
    measured = min(_MEASURED_VALIDATION_BATCHES, num_batches)
    return _seconds(lambda: trainer.score_validation(measured), clock) / max(1, measured) * num_batches


def _speed(trainer: Trainer, seconds_per_step: float) -> str:
    speed = trainer.tokens_per_step / seconds_per_step
    mfu = trainer.mfu(speed)
    utilisation = "" if mfu is None else f", MFU {mfu:.0%}"
    return f"{format_count(speed)} tokens/s{utilisation}"


def _disk(trainer: Trainer) -> str:
    size = tensor_bytes(trainer.state_dict())
    step_checkpoints = min(trainer.config.keep_last, trainer.total_steps // trainer.config.checkpoint_every_steps)
    num_files = 2 + step_checkpoints  # checkpoint_latest.pt and checkpoint_best.pt
    free = format_bytes(free_disk(trainer.run.folder))
    return f"{num_files} checkpoints of {format_bytes(size)}, {format_bytes(num_files * size)} in total; {free} free"


def _short(seconds: float) -> str:
    return format_seconds(seconds) if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def expected_time(trainer: Trainer, *, clock: Clock = time.perf_counter) -> str:
    """The length of the run in steps, tokens and time, estimated from a few passes without side effects."""
    steps = trainer.total_steps
    seconds = seconds_per_step(trainer, clock=clock) * steps
    extent = "one epoch"
    if trainer.config.max_steps:
        extent = f"training.max_steps, {steps / trainer.steps_per_epoch:.3g} epochs"
    work = f"{steps} steps, {format_count(steps * trainer.tokens_per_step)} tokens"
    return f"{extent}: {work}, about {format_seconds(seconds)} on {describe_device(trainer.device)}"


def seconds_per_step(trainer: Trainer, *, repeats: int = 2, clock: Clock = time.perf_counter) -> float:
    """The estimated seconds of a step, from forward and backward over one batch; weights and random state do not
    change."""
    batch = trainer.synthetic_batch(trainer.config.batch_size)
    num_tokens = torch.tensor(float(batch["input_ids"].numel()), device=trainer.device)
    with torch.random.fork_rng(devices=[trainer.device] if trainer.device.type == "cuda" else []):
        # `item` waits for the GPU.
        seconds = [_seconds(lambda: trainer.backward([batch], num_tokens).item(), clock) for _ in range(1 + repeats)]
    trainer.model.zero_grad(set_to_none=True)
    return (
        min(seconds[1:]) * trainer.config.gradient_accumulation_steps
    )  # skip the first pass, which compiles and allocates


def _seconds(work: Callable[[], object], clock: Clock) -> float:
    start = clock()
    work()
    return clock() - start
