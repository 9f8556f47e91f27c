"""The learning rate: its best multiple from a short search, and how it carries over to another width.

A rate is expressed as a multiple of the configured one, which belongs to the configured width. `config_at_width` turns
the multiple into the rates of a narrower model, so one multiple stands for the same recipe at every width. The rules
are those of muP (Yang et al. 2022, arXiv:2203.03466; Yang, Simon and Bernstein 2023, arXiv:2310.17813), under which an
update changes the activations by the same amount at every width:

- AdamW: the entries of an update have a fixed size and agree with each other, so its effect on the activations grows
  with the width, and the rate of the hidden matrices falls with 1 / width. The pipeline has one AdamW rate for all
  weights, so the embedding's falls with it.
- Muon: an update is an orthogonal matrix times 0.2 sqrt(max(rows, columns)). Its effect grows with the square root of
  the width, so `muon_learning_rate` falls with 1 / sqrt(width). The AdamW rate is then the embedding's and the norms'
  only, whose updates do not add up over the width, and stays the same.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from pipeline.training.config import TrainingConfig

_FACTOR = 2.0  # between neighbouring rates of the search


def config_at_width(config: TrainingConfig, multiple: float, *, width: int, configured_width: int) -> TrainingConfig:
    """`config` with the rates of `multiple` at `width`; the schedule's relative minimum stays."""
    narrower = configured_width / width
    adamw = multiple * (narrower if config.optimizer == "adamw" else 1.0)
    return replace(
        config,
        learning_rate=config.learning_rate * adamw,
        min_learning_rate=config.min_learning_rate * adamw,
        muon_learning_rate=config.muon_learning_rate * multiple * math.sqrt(narrower),
    )


def search(loss_at: Callable[[float], float], *, most_runs: int) -> dict[float, float]:
    """Losses by multiple: half, one and two times the configured rate, then on in the direction that is better."""
    losses = {multiple: loss_at(multiple) for multiple in (1.0, 1 / _FACTOR, _FACTOR)}
    while len(losses) < most_runs:
        best = min(sorted(losses), key=losses.__getitem__)  # the lowest rate if all diverged
        if best not in (min(losses), max(losses)):
            break
        following = best / _FACTOR if best == min(losses) else best * _FACTOR
        losses[following] = loss_at(following)
    return losses


def best_multiple(losses: Mapping[float, float]) -> float:
    """The lowest point of the parabola, over the logarithm of the rate, through the best multiple and its neighbours.

    The best multiple itself if it is the first or last, or if a neighbour diverged.
    """
    multiples = sorted(losses)
    index = multiples.index(min(multiples, key=losses.__getitem__))
    near = multiples[max(0, index - 1) : index + 2]
    if len(near) < 3 or not all(math.isfinite(losses[multiple]) for multiple in near):
        return multiples[index]
    curvature, slope, _ = np.polyfit(np.log(near), [losses[multiple] for multiple in near], 2)
    if curvature <= 0:
        return multiples[index]
    lowest = math.exp(-slope / (2 * curvature))
    return float(f"{min(max(lowest, near[0]), near[-1]):.2g}")


def loss_at_multiple(losses: Mapping[float, float], multiple: float) -> float:
    """The loss at `multiple`, interpolated over the logarithm of the rate between the searched rates that trained."""
    multiples = sorted(multiple for multiple, loss in losses.items() if math.isfinite(loss))
    return float(np.interp(math.log(multiple), np.log(multiples), [losses[rate] for rate in multiples]))
