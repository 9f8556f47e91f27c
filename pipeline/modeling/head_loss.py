"""Next-token cross-entropy, and the output projection with it where the logits themselves are not wanted.

total = head_loss_sum(hidden, head_weight, targets)     # of all positions; never holds all logits
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label of a token that is not to be predicted, as in torch and transformers

# Rows whose logits are held at once; without a compiler, rows that are passed over together: these stay in the cache.
_HELD_ROWS = {"cpu": 4096, "cuda": 4096}
_EAGER_ROWS = {"cpu": 256, "cuda": 4096}
_OTHER_ROWS = 1024


def next_token_labels(labels: Tensor) -> Tensor:
    """Labels (B, T) shifted so that position t holds the token after it; the last position has none."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy in float32 of `logits` (…, V) against `targets` (…), those that are -100 left out."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def head_loss_sum(hidden: Tensor, weight: Tensor, targets: Tensor, *, compiled: bool = False) -> Tensor:
    """`cross_entropy_sum` of ``hidden @ weight.T`` without all logits at once.

    Args:
        hidden: (N, C), in the compute type.
        weight: (V, C), the head's master weight, whose gradient comes in its own type.
        targets: (N,), -100 where nothing is predicted.
        compiled: whether the passes over the logits are compiled into one kernel.
    """
    return _HeadLoss.apply(hidden, weight, targets, compiled)


class _HeadLoss(torch.autograd.Function):
    """Goes over the rows in chunks and computes the gradients on the way, when a chunk's logits are still at hand; the
    gradient of the logits, ``softmax - onehot``, takes their place. The sums over chunks are float32."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, compiled: bool) -> Tensor:
        head = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradients, head_gradient = [hidden[:0]], None
        for rows in _slices(len(hidden), _HELD_ROWS.get(hidden.device.type, _OTHER_ROWS)):
            logits = hidden[rows] @ head.T  # (n, V), soon their gradient
            total += _losses(logits, targets[rows], compiled).sum()
            if any(ctx.needs_input_grad[:2]):
                hidden_gradients.append(logits @ head)
                chunk_gradient = (logits.T @ hidden[rows]).to(weight.dtype)
                head_gradient = chunk_gradient if head_gradient is None else head_gradient.add_(chunk_gradient)
        if head_gradient is not None:
            ctx.save_for_backward(torch.cat(hidden_gradients), head_gradient)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * gradient, head_gradient * gradient, None, None


def _losses(logits: Tensor, targets: Tensor, compiled: bool) -> Tensor:
    """The cross-entropy of each row of `logits` (n, V), zero where nothing is predicted. Its gradient replaces them."""
    counted = targets != IGNORED
    at_target = torch.arange(len(targets), device=targets.device), targets.clamp(min=0)
    wanted = logits[at_target].float()
    if compiled:
        # For any number of rows: a kernel for one number, taken in one run and not in another, would change the last
        # bit of a resumed run.
        for tensor in (logits, counted):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        normalizers = _compiled_softmax()(logits, counted)
    else:
        slices = _slices(len(logits), _EAGER_ROWS.get(logits.device.type, _OTHER_ROWS))
        normalizers = torch.cat([_softmax_in_place(logits[rows], counted[rows]) for rows in slices])
    losses = (normalizers - wanted).masked_fill(~counted, 0.0)
    # The probability less one, also where the two nearly cancel. Not with scatter_, which copies all of the logits.
    logits[at_target] = torch.expm1(-losses).to(logits.dtype)
    return losses


def _slices(length: int, rows: int) -> list[slice]:
    """Slices of nearly equal size, at most `rows`."""
    size = -(-length // -(-length // rows)) if length else 1
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _softmax_in_place(logits: Tensor, counted: Tensor) -> Tensor:
    """Replaces each row's logits by their softmax, by zeros where the row is not `counted`. Returns the logarithms of
    the rows' sums of exponentials."""
    exact = logits.float()
    normalizers = exact.logsumexp(dim=-1)
    subtracted = normalizers.masked_fill(~counted, float("inf"))
    logits.copy_(torch.exp(exact - subtracted[:, None]))
    return normalizers


@cache
def _compiled_softmax():
    return torch.compile(_softmax_in_place)
