"""Fit the scaling law loss = E + A / N^a + B / D^b to finished runs.

    law = fit_law([Point(parameters=1e6, tokens=2e7, loss=4.1), …])
    law.loss(parameters=25e6, tokens=5e8)
    spread = [other.loss(25e6, 5e8) for other in bootstrap(points, law)]

This is approach 3 of Hoffmann et al. 2022 (arXiv:2203.15556): a Huber loss on the log loss, whose prediction is the
log-sum-exp of the three terms, minimized from several starting points. Two choices differ, because a ladder has about
ten points instead of hundreds. The Huber loss turns linear at 1% instead of 0.1%, so that the usual noise between runs
counts quadratically and only outliers linearly. A weak prior draws both exponents towards `TYPICAL_EXPONENT`; without
it, ten points cannot always tell a floor E from a slow power law. All starting points, and later all resampled sets of
points, are solved together as one batch of Levenberg-Marquardt problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.errors import PipelineError

Array = NDArray[np.float64]

FEWEST_POINTS = 7  # five unknowns, and something left to judge the fit by
TYPICAL_EXPONENT = 0.35  # Hoffmann et al. found 0.34 and 0.28, Besiroglu et al. 2024 0.35 and 0.37
_PRIOR_WEIGHT = 0.02  # an exponent that is off by 0.25 costs as much as one point that is off by 0.5%
_HUBER_WIDTH = 0.01  # in log loss
_EXPONENT_BOUNDS = (0.02, 3.0)
_ITERATIONS = 200
_FURTHER_ITERATIONS = 50  # from the solution for nearly the same points
_FIRST_DAMPING = 1e-2


@dataclass(frozen=True)
class Point:
    """A finished run: N parameters trained on D tokens reach a validation loss in nats per token."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Law:
    """loss = E + A / N^a + B / D^b."""

    floor: float  # E
    parameter_factor: float  # A
    parameter_exponent: float  # a
    token_factor: float  # B
    token_exponent: float  # b

    def loss(self, parameters: float, tokens: float) -> float:
        size_term = self.parameter_factor / parameters**self.parameter_exponent
        return float(self.floor + size_term + self.token_factor / tokens**self.token_exponent)

    def typical_error(self, points: Sequence[Point]) -> float:
        """The root mean square of the relative errors at `points`, 0.01 for 1%, corrected for the five unknowns."""
        residuals = [np.log(self.loss(point.parameters, point.tokens) / point.loss) for point in points]
        return float(np.sqrt(np.sum(np.square(residuals)) / max(1, len(points) - 5)))


def fit_law(points: Sequence[Point]) -> Law:
    """The law that fits `points` best.

    Raises:
        PipelineError: too few points, or they do not vary in both size and tokens.
    """
    _refuse_unfit(points)
    scale = _Scale.of(points)
    starts = _starting_points(points)
    solutions, costs = _solve(starts, scale, np.tile(_log_losses(points), (len(starts), 1)), iterations=_ITERATIONS)
    return scale.law(solutions[np.argmin(costs)])


def bootstrap(points: Sequence[Point], law: Law, *, samples: int = 400, seed: int = 0) -> list[Law]:
    """The laws of resampled data: the fitted losses with residuals drawn at random, with replacement.

    Residuals of a fit are smaller than the noise, so they are scaled up for the five unknowns.
    """
    scale = _Scale.of(points)
    fitted = np.log([law.loss(point.parameters, point.tokens) for point in points])
    residuals = _log_losses(points) - fitted
    residuals = (residuals - residuals.mean()) * np.sqrt(len(points) / max(1, len(points) - 5))
    draws = np.random.default_rng(seed).integers(len(points), size=(samples, len(points)))
    start = np.tile(scale.solution(law), (samples, 1))
    solutions, _ = _solve(start, scale, fitted + residuals[draws], iterations=_FURTHER_ITERATIONS)
    return [scale.law(solution) for solution in solutions]


def _refuse_unfit(points: Sequence[Point]) -> None:
    if len(points) < FEWEST_POINTS:
        raise PipelineError(f"a scaling law needs at least {FEWEST_POINTS} finished runs; found {len(points)}")
    sizes, lengths = {point.parameters for point in points}, {point.tokens for point in points}
    if len(sizes) < 3 or len(lengths) < 3:
        raise PipelineError(
            f"a scaling law needs at least 3 model sizes and 3 lengths; found {len(sizes)} and {len(lengths)}"
        )


def _log_losses(points: Sequence[Point]) -> Array:
    return np.log([point.loss for point in points])


@dataclass(frozen=True)
class _Scale:
    """Sizes and tokens as logarithms around their means, which keeps the unknowns nearly independent.

    The unknowns are (log E, log A', a, log B', b), where A' and B' are the terms at the means.
    """

    sizes: Array  # (P,)
    tokens: Array  # (P,)
    mean_size: float
    mean_tokens: float

    @classmethod
    def of(cls, points: Sequence[Point]) -> "_Scale":
        sizes = np.log([point.parameters for point in points])
        tokens = np.log([point.tokens for point in points])
        return cls(sizes - sizes.mean(), tokens - tokens.mean(), float(sizes.mean()), float(tokens.mean()))

    def terms(self, solutions: Array) -> Array:
        """Unknowns (R, 5) → the logarithms of the law's three terms at every point (R, P, 3)."""
        floor, size, a, token, b = (column[:, None] for column in solutions.T)
        return np.stack(
            [np.broadcast_to(floor, (len(solutions), len(self.sizes))), size - a * self.sizes, token - b * self.tokens],
            axis=-1,
        )

    def law(self, solution: Array) -> Law:
        floor, size, a, token, b = solution.tolist()
        factor, token_factor = np.exp(size + a * self.mean_size), np.exp(token + b * self.mean_tokens)
        return Law(float(np.exp(floor)), float(factor), a, float(token_factor), b)

    def solution(self, law: Law) -> Array:
        size = np.log(law.parameter_factor) - law.parameter_exponent * self.mean_size
        token = np.log(law.token_factor) - law.token_exponent * self.mean_tokens
        return np.array([np.log(law.floor), size, law.parameter_exponent, token, law.token_exponent])


def _starting_points(points: Sequence[Point]) -> Array:
    """Unknowns (R, 5): the floor at several shares of the lowest loss, the rest split between the other two terms."""
    lowest = min(point.loss for point in points)
    return np.array(
        [
            [np.log(share * lowest), np.log(split * rest), a, np.log((1 - split) * rest), b]
            for share in (0.1, 0.5, 0.8)
            for rest in [(1 - share) * lowest]
            for split in (0.3, 0.7)
            for a in (0.2, 0.5, 1.0)
            for b in (0.2, 0.5, 1.0)
        ]
    )


def _solve(starts: Array, scale: _Scale, log_losses: Array, *, iterations: int) -> tuple[Array, Array]:
    """Minimize from each of the `starts` (R, 5) for its `log_losses` (R, P); solutions (R, 5) and their costs (R,)."""
    solutions, damping = starts.copy(), np.full(len(starts), _FIRST_DAMPING)
    costs = _costs(solutions, scale, log_losses)
    for _ in range(iterations):
        candidates = solutions + _step(solutions, scale, log_losses, damping)
        candidates[:, [2, 4]] = candidates[:, [2, 4]].clip(*_EXPONENT_BOUNDS)
        found = _costs(candidates, scale, log_losses)
        better = found < costs
        solutions[better], costs[better] = candidates[better], found[better]
        damping = np.clip(np.where(better, damping / 3, damping * 2), 1e-9, 1e9)
    return solutions, costs


def _costs(solutions: Array, scale: _Scale, log_losses: Array) -> Array:
    """The Huber losses and the prior, summed: (R,)."""
    distances = np.abs(_predictions(scale.terms(solutions)) - log_losses)  # (R, P)
    quadratic = np.minimum(distances, _HUBER_WIDTH)
    huber = quadratic * (distances - 0.5 * quadratic)
    prior = 0.5 * (_PRIOR_WEIGHT * (solutions[:, [2, 4]] - TYPICAL_EXPONENT)) ** 2
    return np.asarray(huber.sum(axis=1) + prior.sum(axis=1))


def _predictions(terms: Array) -> Array:
    """The log-sum-exp of the terms: (R, P, 3) → (R, P)."""
    largest = terms.max(axis=-1)
    return np.asarray(largest + np.log(np.exp(terms - largest[..., None]).sum(axis=-1)))


def _step(solutions: Array, scale: _Scale, log_losses: Array, damping: Array) -> Array:
    """The Levenberg-Marquardt step (R, 5) for the residuals weighted as the Huber loss asks."""
    terms = scale.terms(solutions)
    predicted = _predictions(terms)
    residuals = predicted - log_losses  # (R, P)
    shares = np.exp(terms - predicted[..., None])  # (R, P, 3); they sum to one
    slopes = np.stack(
        [
            shares[..., 0],
            shares[..., 1],
            -shares[..., 1] * scale.sizes,
            shares[..., 2],
            -shares[..., 2] * scale.tokens,
        ],
        axis=-1,
    )  # (R, P, 5)
    weights = _HUBER_WIDTH / np.maximum(np.abs(residuals), _HUBER_WIDTH)
    curvature = np.einsum("rpi,rp,rpj->rij", slopes, weights, slopes)
    gradient = np.einsum("rpi,rp->ri", slopes, weights * residuals)
    for index in (2, 4):
        curvature[:, index, index] += _PRIOR_WEIGHT**2
        gradient[:, index] += _PRIOR_WEIGHT**2 * (solutions[:, index] - TYPICAL_EXPONENT)
    diagonal = np.einsum("rii->ri", curvature)
    curvature = curvature + np.eye(5) * (damping[:, None] * diagonal + 1e-12)[:, None, :]
    return np.asarray(-np.linalg.solve(curvature, gradient[..., None])[..., 0]).clip(-2.0, 2.0)
