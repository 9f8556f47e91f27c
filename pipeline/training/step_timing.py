"""How long a training step takes, measured before the first one: for the expected time, and for a dry run."""

import time
from typing import TYPE_CHECKING

import torch

from pipeline.dataloading.batch import Batch, as_batch

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def synthetic_batch(trainer: "Trainer", rows: int) -> Batch:
    """A batch of `rows` rows of random ids, as long as the loader's and with segments where training has them."""
    shape = (rows, trainer.train_loader.sequence_length)
    ids = torch.randint(0, trainer.model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return as_batch(ids, trainer.device, document_start=trainer.document_start)


def seconds_per_step(trainer: "Trainer", *, repeats: int = 2) -> float:
    """Forward and backward over one batch, times the batches of a step; weights and random numbers stay as they are."""
    batch = synthetic_batch(trainer, trainer.config.batch_size)
    num_tokens = torch.tensor(float(batch["input_ids"].numel()), device=trainer.device)
    seconds = []
    with torch.random.fork_rng(devices=[trainer.device] if trainer.device.type == "cuda" else []):
        for _ in range(1 + repeats):  # the first one compiles and allocates
            start = time.perf_counter()
            trainer.backward([batch], num_tokens).item()
            seconds.append(time.perf_counter() - start)
    for parameter in trainer.parameters:
        parameter.grad = None
    return min(seconds[1:]) * trainer.config.gradient_accumulation_steps
