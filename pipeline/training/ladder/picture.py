"""The ladder's picture: the points, the fitted curves and the prediction, and next to it the search for the rate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.training.ladder.fit import Law, Point
from pipeline.training.ladder.prediction import Prediction
from utils.plots import new_figure, save_figure
from utils.terminal import format_count


@dataclass(frozen=True)
class Curves:
    """`names` has the name of each point's size; `search` and `check` are losses by multiple of the configured rate."""

    law: Law
    points: Sequence[Point]
    names: Sequence[str]
    prediction: Prediction
    parameters: float
    tokens: float
    search: Mapping[float, float]
    check: Mapping[float, float]


def draw(path: Path, curves: Curves) -> None:
    """Write the picture in the format of `path`'s suffix."""
    figure, (left, right) = new_figure("Ladder", columns=2, size=(11, 4.5))
    _draw_losses(left, curves)
    _draw_rates(right, curves)
    save_figure(path, figure)


def _draw_losses(axes: Any, curves: Curves) -> None:
    sizes = sorted({(point.parameters, name) for point, name in zip(curves.points, curves.names, strict=True)})
    fewest = min(point.tokens for point in curves.points)
    tokens = np.geomspace(fewest, curves.tokens, 100)
    for index, (size, name) in enumerate(sizes):
        points = [point for point in curves.points if point.parameters == size]
        axes.plot(
            [point.tokens for point in points], [point.loss for point in points], "o", color=f"C{index}", label=name
        )
        axes.plot(tokens, [curves.law.loss(size, count) for count in tokens], color=f"C{index}", linewidth=1)
    axes.plot(tokens, [curves.law.loss(curves.parameters, count) for count in tokens], "--", color="black", linewidth=1)
    predicted = curves.prediction
    bounds = [[predicted.loss - predicted.low], [predicted.high - predicted.loss]]
    axes.errorbar(
        [curves.tokens], [predicted.loss], yerr=bounds, fmt="D", color="black", capsize=4, label="configured run"
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda count, _: format_count(count))
    axes.set_xlabel("tokens")
    axes.set_ylabel("validation loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


def _draw_rates(axes: Any, curves: Curves) -> None:
    for name, losses in (("smallest size", curves.search), ("second size", curves.check)):
        found = [(multiple, loss) for multiple, loss in sorted(losses.items()) if math.isfinite(loss)]
        axes.plot([multiple for multiple, _ in found], [loss for _, loss in found], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda multiple, _: f"{multiple:g} ×")
    axes.set_xlabel("learning rate, in multiples of the configured one")
    axes.set_ylabel("validation loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
