"""Scores with standard errors, and significance tests for differences between models.

Every score except BLEU is a function of a ratio of sums over items, ``sum(x) / sum(w)``: a mean has weights of 1, and
word perplexity divides by words. Its standard error follows from the residuals of the items (the delta method), and two
models are compared by the item-wise differences of their residuals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from utils.intervals import Z_95, wilson_interval

RESAMPLES = 1000
SIGNIFICANT = 0.05
FEW_ITEMS = 200


@dataclass(frozen=True)
class Figure:
    """A score of a model. `scale` converts the ratio to the value: plain, ``exp`` or ``bits`` (divided by ln 2).

    `is_yes_no` marks items that are correct or wrong; their pairs are compared exactly. With `chance`, the accuracy of
    guessing, the value is how far the share is from there to 1: 0 is guessing, and below 0 is worse.
    """

    x: Sequence[float]
    w: Sequence[float] | None = None
    scale: str = "plain"
    higher_is_better: bool = True
    is_yes_no: bool = False
    unit: str = ""
    chance: float = 0.0
    note: str = ""

    @property
    def count(self) -> int:
        return len(self.x)

    @property
    def value(self) -> float:
        return self._scaled(self._ratio())

    def _scaled(self, ratio: float) -> float:
        if self.scale == "exp":
            return math.exp(ratio) if ratio < 700 else math.inf
        return ratio / math.log(2) if self.scale == "bits" else (ratio - self.chance) / (1 - self.chance)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the value; None for a single item.

        A perplexity's is the interval of the mean loss, converted like the loss: it is longer upwards and never below
        1. A share's stays within 0 and 1.
        """
        if self.is_yes_no:
            low, high = wilson_interval(sum(self.x), self.count)
            return self._scaled(low), self._scaled(high)
        error = standard_error(self.residuals())
        if error is None:
            return None
        low, high = (self._scaled(self._ratio() + side * Z_95 * error) for side in (-1, 1))
        return within_bounds(low, high, self.unit)

    @property
    def stderr(self) -> float | None:
        """None for a single item."""
        error = standard_error(self.residuals())
        if error is None:
            return None
        if self.scale == "plain":
            return error / (1 - self.chance)
        return error * self.value if self.scale == "exp" else error / math.log(2)

    def residuals(self) -> np.ndarray:
        """The contribution of each item to the ratio's error; the variance of the ratio is that of their mean."""
        weights = self._weights()
        errors = np.asarray(self.x, dtype=np.float64) - self._ratio() * weights
        residuals: np.ndarray = errors / weights.mean()
        return residuals

    def p_value(self, other: "Figure") -> float | None:
        """The probability of such a difference between equally good models; None for a single item."""
        if self.is_yes_no:
            return mcnemar(self.x, other.x)
        # Residuals are relative to each model's own ratio, so their difference has mean 0; the ratios differ by `gap`.
        gap = self._ratio() - other._ratio()
        return paired(gap + self.residuals() - other.residuals())

    def _ratio(self) -> float:
        return float(np.sum(self.x, dtype=np.float64) / self._weights().sum())

    def _weights(self) -> np.ndarray:
        return np.ones(len(self.x)) if self.w is None else np.asarray(self.w, dtype=np.float64)


@dataclass(frozen=True)
class BleuFigure:
    """Corpus BLEU, 0 to 100, from the counts of the items. It is not a mean over items, so its error is resampled."""

    counts: np.ndarray  # (items, 4) matching n-grams
    totals: np.ndarray  # (items, 4) generated n-grams
    lengths: np.ndarray  # (items, 2) generated words, reference words
    note: str = ""
    higher_is_better: bool = field(default=True, init=False)
    unit: str = field(default="points", init=False)

    @property
    def count(self) -> int:
        return len(self.counts)

    @property
    def value(self) -> float:
        return float(self._bleu(np.ones((1, self.count)))[0])

    @property
    def stderr(self) -> float | None:
        return float(self._resampled.std(ddof=1)) if self.count > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The middle 95% of the resamples; None for a single item."""
        if self.count < 2:
            return None
        low, high = np.quantile(self._resampled, (0.025, 0.975))
        return float(low), float(high)

    def p_value(self, other: "BleuFigure") -> float | None:
        """Compare both models on the same resamples (Koehn 2004, "Statistical Significance Tests for Machine
        Translation")."""
        if self.count < 2:
            return None
        gaps = self._resampled - other._resampled
        return float(min(1.0, 2 * min((gaps <= 0).mean(), (gaps >= 0).mean())))

    @cached_property
    def _resampled(self) -> np.ndarray:
        draws = np.random.default_rng(0).multinomial(self.count, np.full(self.count, 1 / self.count), size=RESAMPLES)
        return self._bleu(draws)

    def _bleu(self, draws: np.ndarray) -> np.ndarray:
        """BLEU of each row of `draws` (R, items), with sacrebleu's exponential smoothing of zero counts."""
        from sacrebleu.metrics.bleu import BLEU

        sums = [(draws @ values).round().astype(int) for values in (self.counts, self.totals, self.lengths)]
        return np.array(
            [
                BLEU.compute_bleu(c.tolist(), t.tolist(), int(n[0]), int(n[1]), smooth_method="exp").score
                for c, t, n in zip(*sums, strict=True)
            ]
        )


@dataclass(frozen=True)
class QuotedFigure:
    """A score computed elsewhere. `items`, if known, is used to compare models question by question."""

    value: float
    stderr: float | None
    count: int
    higher_is_better: bool = True
    unit: str = ""
    items: Figure | None = None
    note: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of a normal distribution; None without a standard error."""
        if self.stderr is None:
            return None
        return within_bounds(self.value - Z_95 * self.stderr, self.value + Z_95 * self.stderr, self.unit)

    def p_value(self, other: "QuotedFigure") -> float | None:
        if self.items is None or other.items is None or self.items.count != other.items.count:
            return None
        return self.items.p_value(other.items)


AnyFigure = Figure | BleuFigure | QuotedFigure


def standard_error(values: Sequence[float] | np.ndarray) -> float | None:
    values = np.asarray(values, dtype=np.float64)
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def within_bounds(low: float, high: float, unit: str) -> tuple[float, float]:
    """The part of an interval that a score can reach: shares are at most 1, points at most 100."""
    highest = {"share": 1.0, "points": 100.0}.get(unit, math.inf)
    return max(0.0, low), min(highest, high)


def paired(differences: np.ndarray) -> float | None:
    """The p-value of the hypothesis that the mean is 0; None for a single item.

    A normal test or, if there are only a few items, a sign-flip permutation test, which makes no assumption about the
    distribution.
    """
    error = standard_error(differences)
    if error is None:
        return None
    if len(differences) > FEW_ITEMS:
        return two_sided(float(differences.mean()), error)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(10_000, len(differences)))
    reached = np.abs(signs @ differences) >= abs(differences.sum()) * (1 - 1e-9)
    return float((reached.sum() + 1) / (len(signs) + 1))


def two_sided(gap: float, error: float) -> float:
    """The p-value of a normal test."""
    if error == 0:
        return 1.0 if gap == 0 else 0.0
    return math.erfc(abs(gap) / error / math.sqrt(2))


def mcnemar(mine: Sequence[float], others: Sequence[float]) -> float:
    """The exact test of McNemar (1947) on items that one model got right and the other wrong."""
    only_mine = sum(1 for a, b in zip(mine, others, strict=True) if a > b)
    only_others = sum(1 for a, b in zip(mine, others, strict=True) if a < b)
    disagreements = only_mine + only_others
    # Above a thousand disagreements, the normal approximation is accurate enough.
    if disagreements > 1000:
        return two_sided(only_mine - only_others, math.sqrt(disagreements))
    tail = sum(math.comb(disagreements, k) for k in range(min(only_mine, only_others) + 1))
    return min(1.0, 2.0 * tail / 2.0**disagreements)


def compare(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The order, ranks and pairwise p-values of several models' scores, and the best one if it is significant.

    Equal scores share the mean of their ranks. `best` is None if the difference to the runner-up is not significant.

    Args:
        figures: model → its `AnyFigure`, all of the same kind.
    """
    higher_is_better = next(iter(figures.values())).higher_is_better
    ordered = sorted(figures, key=lambda name: figures[name].value, reverse=higher_is_better)
    pairs = [
        {"better": better, "worse": worse, "p": figures[better].p_value(figures[worse])}
        for index, better in enumerate(ordered)
        for worse in ordered[index + 1 :]
    ]
    against_first = [pair["p"] for pair in pairs if pair["better"] == ordered[0]]
    clear = bool(against_first) and all(p is not None and p < SIGNIFICANT for p in against_first)
    ranks = mean_ranks([figures[name].value for name in ordered])
    return {
        "order": ordered,
        "ranks": dict(zip(ordered, ranks, strict=True)),
        "pairs": pairs,
        "best": ordered[0] if clear else None,
    }


def mean_ranks(ordered: Sequence[float]) -> list[float]:
    """The ranks of `ordered` values, best first; equal values share the mean of their places."""
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in ordered]


def rank_models(comparisons: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float]]:
    """(model, mean rank over all scores), best first."""
    ranks: dict[str, list[float]] = {}
    for comparison in comparisons.values():
        for name, rank in comparison["ranks"].items():
            ranks.setdefault(name, []).append(rank)
    return sorted(((name, sum(found) / len(found)) for name, found in ranks.items()), key=lambda pair: pair[1])
