"""Out of memory: the batch size that does fit, found by trying."""

from collections.abc import Callable

import torch

from utils.errors import PipelineError


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's error and for the CPU allocator's, which is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def largest_fitting(try_batch: Callable[[int], None], failed: int, *, forget: Callable[[], None]) -> int:
    """The largest of `failed`/2, /4, … that `try_batch` takes; 0 where not even one does.

    Args:
        forget: frees what a try has left.
    """
    size = failed // 2
    while size:
        forget()
        try:
            try_batch(size)
            return size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        size //= 2
    return 0


def out_of_memory_error(batch_size: int, accumulation: int, fitting: int) -> PipelineError:
    """The error that names the batch size that fits, with the accumulation that keeps the step as large as it was."""
    told = f"out of memory with training.batch_size {batch_size}"
    if not fitting:
        return PipelineError(
            f"{told}, and one window does not fit either; shorten dataset.window, set "
            "model.activation_checkpointing=true, or choose a smaller model"
        )
    steps = -(-batch_size * accumulation // fitting)
    return PipelineError(
        f"{told}; {fitting} fits (tried here): --set training.batch_size={fitting} "
        f"--set training.gradient_accumulation_steps={steps}"
    )
