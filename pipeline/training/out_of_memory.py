"""After running out of memory, find a batch size that fits by trying smaller ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline.dataloading.batch import Batch
from pipeline.training.config import TrainingConfig
from pipeline.training.gradients import accumulate_gradients
from utils.arithmetic import ceil_div
from utils.devices import World
from utils.errors import PipelineError


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's out-of-memory error, and for the plain RuntimeErrors of the CPU allocator and cuBLAS."""
    signs = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


@dataclass(frozen=True)
class BatchTrial:
    """Try smaller batches in the memory available to a training step."""

    model: nn.Module
    optimizers: Sequence[Optimizer]
    make_batch: Callable[[int], Batch]  # makes a batch with this many rows
    device: torch.device

    def largest_below(self, rows: int) -> int:
        """The largest of `rows` / 2, `rows` / 4, … that fits; 0 if not even one row fits."""
        rows //= 2
        while rows and not self.fits(rows):
            rows //= 2
        return rows

    def fits(self, rows: int) -> bool:
        self._free()
        try:
            self._run(rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _run(self, rows: int) -> None:
        """Run two passes, because smaller batches are accumulated: the second needs memory for the gradients of the
        first, and both for the optimizers' state."""
        moments = missing_moments(self.optimizers)
        accumulate_gradients(self.model, [self.make_batch(rows)] * 2, torch.tensor(1.0, device=self.device))
        del moments

    def _free(self) -> None:
        self.model.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def missing_moments(optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """Allocate as much memory as the optimizers' first step: two moments for AdamW, one for Muon."""
    return [
        torch.empty_like(parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter not in optimizer.state
        for _ in range(2 if isinstance(optimizer, AdamW) else 1)
    ]


def explain_out_of_memory(config: TrainingConfig, world: World, trial: BatchTrial) -> PipelineError:
    """An error that suggests a batch size that fits, and the accumulation that keeps the step the same size."""
    problem = f"out of memory with training.batch_size {config.batch_size}"
    if world.size > 1:  # a trial would wait forever for the other processes
        return PipelineError(f"{problem}; halve it and double training.gradient_accumulation_steps")
    rows = trial.largest_below(config.batch_size)
    if not rows:
        return PipelineError(
            f"{problem}, and not even a single window fits; shorten dataset.window, set "
            "model.activation_checkpointing=true, or choose a smaller model"
        )
    steps = ceil_div(config.batch_size * config.gradient_accumulation_steps, rows)
    return PipelineError(
        f"{problem}; {rows} fits (tried here): --set training.batch_size={rows} "
        f"--set training.gradient_accumulation_steps={steps}"
    )
