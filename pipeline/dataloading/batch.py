"""What a loader yields, as the model takes it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.modeling.head_loss import IGNORED

Batch = dict[str, Tensor]


def as_batch(item: Tensor | Mapping[str, Tensor], device: torch.device, *, document_start: int | None = None) -> Batch:
    """On the device and with labels; with `document_start` also with segment ids (B, T) that rise at that token."""
    named = dict(item) if isinstance(item, Mapping) else {"input_ids": item}
    batch = {name: value.to(device, non_blocking=True) for name, value in named.items()}
    ids = batch["input_ids"]
    batch.setdefault("labels", ids)
    if document_start is not None:
        batch.setdefault("segment_ids", (ids == document_start).cumsum(dim=1))
    return batch


def num_supervised(batch: Batch) -> Tensor:
    """How many tokens are predicted: every label but the first of a row and those that are -100."""
    return (batch["labels"][:, 1:] != IGNORED).sum()
