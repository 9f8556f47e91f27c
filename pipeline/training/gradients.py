"""Forward and backward passes over the batches of a step, and synthetic batches for measurements.

loss = accumulate_gradients(model, batches, num_tokens)
loss = accumulate_gradients(model, [synthetic_batch(8, 512, vocab_size=32016, device=device)], num_tokens)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.dataloading.batch import Batch, as_batch
from pipeline.training.distributed import gradients_stay_local


def accumulate_gradients(model: nn.Module, batches: Sequence[Batch], num_tokens: Tensor) -> Tensor:
    """Accumulate the gradients of the batches' summed loss divided by `num_tokens`; returns that scalar loss.

    Args:
        num_tokens: the number of supervised tokens in the whole step, so that all tokens have the same weight.
    """
    model.train()
    total = torch.zeros((), device=num_tokens.device)
    *earlier, last = batches
    with gradients_stay_local(model):  # processes exchange gradients once per step, with the last batch
        for batch in earlier:
            total += _backward(model, batch, num_tokens)
    return total + _backward(model, last, num_tokens)


def _backward(model: nn.Module, batch: Batch, num_tokens: Tensor) -> Tensor:
    loss: Tensor = model(**batch, num_tokens=num_tokens, return_logits=False)["loss"]
    torch.autograd.backward(loss)
    return loss.detach()


def synthetic_batch(
    rows: int, length: int, *, vocab_size: int, device: torch.device, document_start: int | None = None
) -> Batch:
    """Deterministic random ids (`rows`, `length`); with `document_start`, also segments as in training."""
    ids = torch.randint(0, vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    return as_batch(ids, device, document_start=document_start)
