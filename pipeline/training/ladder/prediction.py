"""What the fitted law says about the configured run, and about the best run for a number of hours.

prediction = predict(law, points, target_parameters, target_tokens)
choice = best_choice(law, model, window=512, flops=1e18, unique=5e8)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.modeling.config import ModelConfig
from pipeline.modeling.flops import matrix_parameters, training_flops_per_token
from pipeline.training.ladder.data_supply import effective_tokens
from pipeline.training.ladder.fit import Law, Point, bootstrap
from pipeline.training.ladder.sizes import scaled_model

INTERVAL = 0.9
_LARGEST_ERROR = 0.02  # of the points; runs repeated with another seed differ by less than 1%
_SMALLEST_WIDTH, _LARGEST_WIDTH = 0.25, 4.0  # of the configured width, for the best run


@dataclass(frozen=True)
class Prediction:
    """A loss in nats per token, with the bounds of its interval."""

    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """A model, the tokens it would see, and the predicted loss. `at_limit`: it is the narrowest or widest tried."""

    model: ModelConfig
    tokens: float
    loss: float
    at_limit: bool


def predict(law: Law, points: Sequence[Point], parameters: float, tokens: float, *, seed: int = 0) -> Prediction:
    """The law's loss, with an interval from the laws of resampled residuals and the noise of one more run."""
    losses = np.array([other.loss(parameters, tokens) for other in bootstrap(points, law, seed=seed)])
    noise = np.random.default_rng(seed).normal(0.0, law.typical_error(points), len(losses))
    tail = 50 * (1 - INTERVAL)
    low, high = np.percentile(losses * np.exp(noise), [tail, 100 - tail])
    loss = law.loss(parameters, tokens)
    return Prediction(loss, min(loss, float(low)), max(loss, float(high)))


def doubt(law: Law, points: Sequence[Point]) -> str:
    """Why a prediction from `points` is not to be trusted, or an empty string.

    Runs that are too short only learn how frequent each token is, which a larger model does no better.
    """
    error = law.typical_error(points)
    if error > _LARGEST_ERROR:
        return f"do not trust it: the points miss the law by {error:.1%}"
    sizes = [point.parameters for point in points]
    longest = max(point.tokens for point in points)
    gain = law.loss(min(sizes), longest) / law.loss(max(sizes), longest) - 1
    if gain <= error:
        return "do not trust it: larger models did no better, so the runs are too short"
    return ""


def best_choice(law: Law, model: ModelConfig, *, window: int, flops: float, unique: float) -> Choice:
    """The model of `model`'s proportions with the lowest predicted loss for a number of operations.

    Args:
        unique: tokens of training text; repeating them is worth less (`data_supply`).
    """
    head_dim = model.head_dim
    narrowest = max(1, round(_SMALLEST_WIDTH * model.num_attention_heads))
    widest = round(_LARGEST_WIDTH * model.num_attention_heads)
    choices = []
    for heads in range(narrowest, widest + 1):
        scaled = scaled_model(model, width=heads * head_dim, head_dim=head_dim)
        tokens = flops / training_flops_per_token(scaled, window)
        loss = law.loss(matrix_parameters(scaled), effective_tokens(tokens, unique))
        choices.append(Choice(scaled, tokens, loss, at_limit=heads in (narrowest, widest)))
    return min(choices, key=lambda choice: choice.loss)
