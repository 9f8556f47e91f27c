"""Prepare a model for training in place: compute type, kernels, torch.compile.

    print(prepare_for_training(model, config.training, device))
    loss = model(input_ids, labels=labels, num_tokens=count, return_logits=False)["loss"]

Modules and weight names do not change. Weights stay float32 and are cast inside the compiled forward pass.
"""

from typing import TYPE_CHECKING

import torch

from pipeline.modeling.compiler import compiler_problem
from pipeline.modeling.execution import Execution
from pipeline.modeling.flash_attention import check_flash_attention
from pipeline.training.config import TrainingConfig
from pipeline.training.cpu_settings import keep_freed_memory, use_fast_float32_products
from utils.devices import choose_dtype
from utils.errors import PipelineError

if TYPE_CHECKING:
    from model import TransformerLM


def prepare_for_training(
    model: "TransformerLM", config: TrainingConfig, device: torch.device, *, varying_lengths: bool = False
) -> str:
    """Set up `model`, which is on `device`, according to `config`, and return a description of the choices.

    Args:
        varying_lengths: batches differ in length, so compile for all lengths; otherwise the code is compiled for each
            shape separately, which is faster.

    Raises:
        PipelineError: flash attention or the compiler is required but cannot run here.
    """
    dtype = choose_dtype(config.dtype, device)
    flash_only = device.type == "cuda" and config.attention == "flash"
    chosen = [str(dtype).removeprefix("torch.")]
    if device.type == "cpu":
        keep_freed_memory()
        use_fast_float32_products()
    if flash_only:
        check_flash_attention(model.config, device, dtype)
        chosen.append("flash attention")
    problem = compiler_problem(device)
    if config.compile == "on" and problem:
        raise PipelineError(f"training.compile is on, but {problem}; use --set training.compile=off")
    compiled = config.compile != "off" and not problem
    if compiled:
        chosen.append("compiled (the first steps take longer)")
    else:
        chosen.append(f"not compiled ({problem or 'training.compile is off'})")
    model.run_as(
        Execution(
            compute_dtype=dtype,
            flash_only=flash_only,
            compiled=compiled,
            varying_lengths=varying_lengths,
        )
    )
    return ", ".join(chosen)
