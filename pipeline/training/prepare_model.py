"""Makes a model ready for training: compute type, kernels, torch.compile, all in place.

    print(prepare_for_training(model, config.training, device))
    loss = model(input_ids, labels=labels, num_tokens=count, return_logits=False)["loss"]

The model keeps its modules and the names of its weights. Weights stay float32 and are cast inside the compiled forward.
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
    """Sets `model`, which is on `device`, up as `config` says and returns in words what was chosen.

    Args:
        varying_lengths: batches differ in length, so that the compiled code must take any; else it is made for each
            shape separately, which is faster.

    Raises:
        PipelineError: flash attention or the compiler was asked for and cannot run here.
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
        raise PipelineError(f"training.compile is on, but {problem}; run it with --set training.compile=off")
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
