"""Next-token cross-entropy from logits, or directly from hidden states without materializing all logits.

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

IGNORED = -100  # the label of tokens without loss, as in torch and transformers

# Rows per chunk, and rows per uncompiled pass, chosen so that its logits fit in the CPU cache.
_HELD_ROWS = {"cpu": 4096, "cuda": 4096}
_EAGER_ROWS = {"cpu": 256, "cuda": 4096}
_OTHER_ROWS = 1024


def next_token_labels(labels: Tensor) -> Tensor:
    """Labels (B, T) shifted so that position t has the next token; the last position is ignored."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """The summed float32 cross-entropy of `logits` (…, V) and `targets` (…), ignoring targets of -100."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def head_loss_sum(hidden: Tensor, weight: Tensor, targets: Tensor, *, compiled: bool = False) -> Tensor:
    """`cross_entropy_sum` of ``hidden @ weight.T``, with only a few thousand rows of logits in memory at a time.

    Args:
        hidden: (N, C), in the compute type.
        weight: (V, C), the master weight of the head; its gradient has the same type.
        targets: (N,), -100 to ignore a position.
        compiled: compile the passes over the logits into one kernel.
    """
    total: Tensor = _HeadLoss.apply(hidden, weight, targets, compiled)  # type: ignore[no-untyped-call]  # in torch
    return total


class _HeadLoss(torch.autograd.Function):
    """Process the rows in chunks and compute the gradients in the forward pass: the gradient of a chunk's logits,
    ``softmax - onehot``, overwrites them. Sums over chunks are float32."""

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
    """The cross-entropy of each row of `logits` (n, V), zero for ignored rows. The gradient overwrites `logits`."""
    counted = targets != IGNORED
    at_target = torch.arange(len(targets), device=targets.device), targets.clamp(min=0)
    target_logits = logits[at_target].float()
    if compiled:
        # Dynamic in the number of rows: a kernel specialized to one number might not be used after a resume, which
        # would change the last bit.
        for tensor in (logits, counted):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        normalizers = _compiled_softmax()(logits, counted)
    else:
        slices = _slices(len(logits), _EAGER_ROWS.get(logits.device.type, _OTHER_ROWS))
        normalizers = torch.cat([_softmax_in_place(logits[rows], counted[rows]) for rows in slices])
    losses = (normalizers - target_logits).masked_fill(~counted, 0.0)
    # The probability minus one, accurate even if the two nearly cancel. scatter_ would copy all of the logits.
    logits[at_target] = torch.expm1(-losses).to(logits.dtype)
    return losses


def _slices(length: int, rows: int) -> list[slice]:
    """Slices of nearly equal size, each at most `rows`."""
    if not length:
        return []
    size = ceil_div(length, ceil_div(length, rows))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _softmax_in_place(logits: Tensor, counted: Tensor) -> Tensor:
    """Overwrite each row's logits (n, V) with their softmax, or zeros if the row is not `counted`.

    Returns:
        Each row's logsumexp, (n,).
    """
    exponentials = logits.float()  # a copy, unless the logits are float32 already
    largest = exponentials.amax(dim=-1, keepdim=True)
    exponentials.sub_(largest).exp_()
    sums = exponentials.sum(dim=-1, keepdim=True)
    logits.copy_(exponentials.mul_(sums.reciprocal().masked_fill(~counted[:, None], 0.0)))
    return (largest + sums.log()).squeeze(-1)


@cache
def _compiled_softmax() -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(_softmax_in_place)
