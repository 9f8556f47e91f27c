"""Forward and backward over the batches of a step, and synthetic batches to measure them with.

loss = accumulate_gradients(model, batches, num_tokens)
loss = accumulate_gradients(model, [synthetic_batch(8, 512, vocab_size=32016, device=device)], num_tokens)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.dataloading.batch import Batch, as_batch
from pipeline.training.distributed import gradients_stay_local


def accumulate_gradients(model: nn.Module, batches: Sequence[Batch], num_tokens: Tensor) -> Tensor:
    """Add to the gradients those of the batches' summed loss divided by `num_tokens`; returns that loss, a scalar.

    Args:
        num_tokens: the supervised tokens of the whole step, so that every token weighs the same in whichever batch.
    """
    model.train()
    total = torch.zeros((), device=num_tokens.device)
    *earlier, last = batches
    with gradients_stay_local(model):  # processes exchange gradients once a step, with the last batch
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
    """Random ids (`rows`, `length`), always the same; with `document_start` also the segments that training has."""
    ids = torch.randint(0, vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    return as_batch(ids, device, document_start=document_start)
