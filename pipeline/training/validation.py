"""Loss, perplexity and bits per byte over a validation loader."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from pipeline.dataloading.batch import Batch, as_batch, num_supervised
from pipeline.modeling.head_loss import IGNORED
from pipeline.training.distributed import all_sum
from pipeline.training.training_data import LoaderItem
from utils.metrics import validation_metrics


@torch.no_grad()
def score(
    forward: Callable[..., Mapping[str, Tensor]],
    loader: Iterable[LoaderItem],
    device: torch.device,
    *,
    token_bytes: Tensor | None = None,
    document_start: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """The metrics over the shares of all processes; None if `stopped` became true before the end.

    Args:
        token_bytes: the length of each token in bytes; None omits bits per byte.
    """
    # Loss, tokens, bytes; kept on the GPU to avoid waiting for it until the end.
    sums = torch.zeros(3, dtype=torch.float64, device=_sum_device(device))
    for item in loader:
        if stopped():
            return None
        batch = as_batch(item, device, document_start=document_start)
        tokens = num_supervised(batch).clamp(min=1)
        loss = forward(**batch, num_tokens=tokens.float(), return_logits=False)["loss"] * tokens
        sums += torch.stack([loss, tokens, _num_bytes(batch, token_bytes)]).to(sums)
    return validation_metrics(*all_sum(sums).tolist())


def _num_bytes(batch: Batch, token_bytes: Tensor | None) -> Tensor:
    targets = batch["labels"][:, 1:]
    if token_bytes is None:
        return torch.zeros((), device=targets.device)
    # Indexing by a mask would wait for the GPU to compute the size of the result.
    return token_bytes[targets.clamp(min=0)].masked_fill(targets == IGNORED, 0).sum()


def _sum_device(device: torch.device) -> torch.device:
    """NCCL can only sum on the GPU, and Apple's GPUs have no float64."""
    return device if device.type == "cuda" else torch.device("cpu")
