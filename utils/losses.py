"""Next-token cross-entropy."""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label of a token that is not to be predicted, as in torch and transformers


def next_token_labels(labels: Tensor) -> Tensor:
    """Labels (B, T) shifted so that position t holds the token after it; the last position has none."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy in float32 of `logits` (…, V) against `targets` (…), those that are -100 left out."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
