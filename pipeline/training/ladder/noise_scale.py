"""The gradient noise scale: the batch beyond which more tokens per step hardly save steps.

    noise = noise_scale(square_norms_of_single_windows, square_norm_of_their_mean)      # in windows

McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1. With a batch of exactly the noise scale, training takes twice
the fewest possible steps and twice the fewest possible tokens. Above it, a larger batch mostly costs tokens; below it,
a larger batch saves nearly as many steps as it is larger.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from pipeline.dataloading.batch import Batch, num_supervised
from pipeline.training.gradients import accumulate_gradients


def noise_scale(single: Sequence[float], mean: float) -> float:
    """The variance of a gradient over the squared norm of the true gradient, in units of one sample.

    Both are unbiased estimates from gradients of single samples and the gradient of them all.

    Args:
        single: the squared norm of each sample's gradient.
        mean: the squared norm of the mean of these gradients.

    Returns:
        infinity if the samples are too few to see the true gradient in the noise.
    """
    count = len(single)
    if count < 2:
        raise ValueError(f"{count} samples; expected at least 2")
    variance = (fmean(single) - mean) * count / (count - 1)
    true_square = (count * mean - fmean(single)) / (count - 1)
    return variance / true_square if true_square > 0 else math.inf


def measure_noise_scale(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The noise scale in units of one of the `batches`, which should be small, such as one window each."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    single: list[float] = []
    for batch in batches:
        model.zero_grad(set_to_none=True)
        accumulate_gradients(model, [batch], num_supervised(batch).clamp(min=1).float())
        gradients = [_gradient(parameter) for parameter in parameters]
        single.append(_square_norm(gradients))
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient
    model.zero_grad(set_to_none=True)
    return noise_scale(single, _square_norm(sums) / len(single) ** 2)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _square_norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.float().square().sum() for tensor in tensors]).sum())
