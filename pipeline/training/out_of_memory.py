"""Out of memory: the batch size that does fit, found by trying."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import AdamW

from pipeline.training.step_timing import synthetic_batch
from utils.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's error, and for the CPU allocator's and cuBLAS's, which are plain RuntimeErrors."""
    signs = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def explain_out_of_memory(trainer: "Trainer") -> PipelineError:
    """The error that names the batch size that fits, with the accumulation that keeps the step as large as it was."""
    config = trainer.config
    told = f"out of memory with training.batch_size {config.batch_size}"
    if trainer.world.size > 1:  # a try would wait for the other processes, which are elsewhere
        return PipelineError(f"{told}; halve it and double training.gradient_accumulation_steps")
    fitting = _largest_fitting(trainer)
    if not fitting:
        return PipelineError(
            f"{told}, and one window does not fit either; shorten dataset.window, set "
            "model.activation_checkpointing=true, or choose a smaller model"
        )
    steps = -(-config.batch_size * config.gradient_accumulation_steps // fitting)
    return PipelineError(
        f"{told}; {fitting} fits (tried here): --set training.batch_size={fitting} "
        f"--set training.gradient_accumulation_steps={steps}"
    )


def _largest_fitting(trainer: "Trainer") -> int:
    """The largest of a half, a quarter, … of the batch that goes forward and backward; 0 where no row does."""
    rows = trainer.config.batch_size // 2
    while rows:
        _free(trainer)
        try:
            _try(trainer, rows)
            return rows
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        rows //= 2
    return 0


def _try(trainer: "Trainer", rows: int) -> None:
    """Two passes, as a smaller batch will be accumulated: the second runs beside the gradients of the first, and both
    beside what the optimizers hold."""
    moments = _moments_to_come(trainer)
    trainer.backward([synthetic_batch(trainer, rows)] * 2, torch.tensor(1.0, device=trainer.device))
    del moments


def _moments_to_come(trainer: "Trainer") -> list[Tensor]:
    """Memory as large as what the optimizers have yet to make in their first step: AdamW two moments, Muon one."""
    return [
        torch.empty_like(parameter)
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter not in optimizer.state
        for _ in range(2 if isinstance(optimizer, AdamW) else 1)
    ]


def _free(trainer: "Trainer") -> None:
    for parameter in trainer.parameters:
        parameter.grad = None
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
