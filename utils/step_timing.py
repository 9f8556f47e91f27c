"""How long a training step takes, measured before the first one: for the expected time, and for a dry run."""

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from utils.trainer import Trainer


def seconds_per_step(trainer: "Trainer", *, repeats: int = 2) -> float:
    """Forward and backward over one batch, times the batches of a step; weights and random numbers stay as they are."""
    config, model = trainer.config, trainer.model
    ids = torch.randint(0, model.config.vocab_size, trainer.batch_shape, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids.to(trainer.device), "labels": ids.to(trainer.device)}
    seconds = []
    with torch.random.fork_rng(devices=[trainer.device] if trainer.device.type == "cuda" else []):
        for _ in range(1 + repeats):  # the first one compiles and allocates
            start = time.perf_counter()
            trainer.backward([batch], torch.tensor(float(ids.numel()), device=trainer.device)).item()
            seconds.append(time.perf_counter() - start)
    for parameter in trainer.parameters:
        parameter.grad = None
    return min(seconds[1:]) * config.gradient_accumulation_steps
