"""Turn loader items into model arguments on the device, with labels and segment ids."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.modeling.head_loss import IGNORED

Batch = dict[str, Tensor]


def as_batch(item: Tensor | Mapping[str, Tensor], device: torch.device, *, document_start: int | None = None) -> Batch:
    """`item` on the device with labels; with `document_start`, also segment ids (B, T) that increase at that token."""
    named = dict(item) if isinstance(item, Mapping) else {"input_ids": item}
    batch = {name: value.to(device, non_blocking=True) for name, value in named.items()}
    ids = batch["input_ids"]
    batch.setdefault("labels", ids)
    if document_start is not None:
        batch.setdefault("segment_ids", (ids == document_start).cumsum(dim=1))
    return batch


def num_supervised(batch: Batch) -> Tensor:
    """The number of predicted tokens: all labels except the first of each row and those that are -100."""
    return (batch["labels"][:, 1:] != IGNORED).sum()
