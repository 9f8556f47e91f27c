"""Next-token cross-entropy, from logits or straight from hidden states without ever holding all logits.

total = cross_entropy_sum(logits, targets)              # (B, T, V) and (B, T)
total = head_loss_sum(hidden, head_weight, targets)     # (N, C), (V, C), (N,)
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from utils.arithmetic import ceil_div

IGNORED = -100  # the label of a token that is not to be predicted, as in torch and transformers

# Rows whose logits are held at once, and rows of one uncompiled pass, whose logits then fit in the processor's cache.
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
    """`cross_entropy_sum` of ``hidden @ weight.T``, with the logits of a few thousand rows in memory at a time.

    Args:
        hidden: (N, C), in the compute type.
        weight: (V, C), the head's master weight; its gradient has the same type.
        targets: (N,), -100 where nothing is predicted.
        compiled: whether the passes over the logits are compiled into one kernel.
    """
    total: Tensor = _HeadLoss.apply(hidden, weight, targets, compiled)  # type: ignore[no-untyped-call]  # in torch
    return total


class _HeadLoss(torch.autograd.Function):
    """Goes through the rows in chunks and computes the gradients right away, while a chunk's logits are at hand: their
    gradient, ``softmax - onehot``, overwrites them. Sums over chunks are float32."""

    @staticmethod
    def forward(ctx: BackwardCFunction, hidden: Tensor, weight: Tensor, targets: Tensor, compiled: bool) -> Tensor:
        head = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradients = [hidden[:0]]
        head_gradient: Tensor | None = None
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
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, head_gradient = ctx.saved_tensors  # type: ignore[misc]  # torch's stub says one tensor
        return hidden_gradient * gradient, head_gradient * gradient, None, None


def _losses(logits: Tensor, targets: Tensor, compiled: bool) -> Tensor:
    """The cross-entropy of each row of `logits` (n, V), zero for ignored rows. Its gradient overwrites `logits`."""
    counted = targets != IGNORED
    at_target = torch.arange(len(targets), device=targets.device), targets.clamp(min=0)
    target_logits = logits[at_target].float()
    if compiled:
        # For any number of rows: a kernel specialised to one number, used in one run and not in another, would change
        # the last bit of a resumed run.
        for tensor in (logits, counted):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        normalizers = _compiled_softmax()(logits, counted)
    else:
        slices = _slices(len(logits), _EAGER_ROWS.get(logits.device.type, _OTHER_ROWS))
        normalizers = torch.cat([_softmax_in_place(logits[rows], counted[rows]) for rows in slices])
    losses = (normalizers - target_logits).masked_fill(~counted, 0.0)
    # The probability less one, also where the two nearly cancel. Not with scatter_, which copies all of the logits.
    logits[at_target] = torch.expm1(-losses).to(logits.dtype)
    return losses


def _slices(length: int, rows: int) -> list[slice]:
    """Slices of nearly equal size, at most `rows`."""
    if not length:
        return []
    size = ceil_div(length, ceil_div(length, rows))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _softmax_in_place(logits: Tensor, counted: Tensor) -> Tensor:
    """Overwrite each row's logits (n, V) with their softmax, or zeros if the row is not `counted`.

    Returns:
        Each row's logsumexp, (n,).
    """
    exact = logits.float()
    normalizers = exact.logsumexp(dim=-1)
    subtracted = normalizers.masked_fill(~counted, float("inf"))
    logits.copy_(torch.exp(exact - subtracted[:, None]))
    return normalizers


@cache
def _compiled_softmax() -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(_softmax_in_place)
