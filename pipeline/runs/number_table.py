"""The numbers of a log in columns, and the points that are worth drawing.

A log of a million steps has far more rows than a screen has pixels. `points` keeps, from each of a few hundred
stretches of rows, the lowest and the highest value, so that a spike in one step is never lost.
"""

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from utils.arithmetic import ceil_div
from utils.raw_log import is_number

AXES = ("step", "tokens", "time")
Floats = NDArray[np.float64]


def _floats() -> "array[float]":
    return array("d")


@dataclass
class NumberTable:
    """Rows of a log: `step`, `tokens` and `time` (seconds of training), and a column for each metric."""

    axes: dict[str, "array[float]"] = field(default_factory=lambda: {name: _floats() for name in AXES})
    columns: dict[str, "array[float]"] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.axes["step"])

    def add(self, position: Mapping[str, float], values: Mapping[str, object]) -> None:
        """Add a row, or complete the last one if it is of this step and has none of these values.

        Steps repeat after a crash or a rollback: the earlier rows of the same steps are dropped.
        """
        if self._continues(position["step"], values):
            values = {name: column[-1] for name, column in self.columns.items()} | dict(values)
        self._drop_from(position["step"])
        for name in values:
            if name not in self.columns:
                self.columns[name] = array("d", [math.nan]) * len(self)
        for name, column in self.columns.items():
            value = values.get(name)
            column.append(float(value) if is_number(value) and math.isfinite(value) else math.nan)
        for name, axis in self.axes.items():
            axis.append(position[name])

    def _continues(self, step: float, values: Mapping[str, object]) -> bool:
        """Whether the last row is of this step and lacks all of these values, because a step may log several lines."""
        if not self.axes["step"] or self.axes["step"][-1] != step:
            return False
        return all(math.isnan(self.columns[name][-1]) for name in values if name in self.columns)

    def _drop_from(self, step: float) -> None:
        steps = self.axes["step"]
        while steps and steps[-1] >= step:
            for column in (*self.axes.values(), *self.columns.values()):
                column.pop()

    def last(self, name: str) -> float | None:
        """The newest number in a column."""
        column = self.columns.get(name, ())
        return next((value for value in reversed(column) if not math.isnan(value)), None)

    def points(
        self, name: str, *, axis: str, most: int, smooth: int = 1, low: float = -math.inf, high: float = math.inf
    ) -> tuple[Floats, Floats]:
        """At most about `most` points of a column between `low` and `high` on the axis.

        Args:
            smooth: each value becomes the mean of the `smooth` values around it.
        """
        x, y = np.array(self.axes[axis]), np.array(self.columns.get(name, _floats()))
        known = ~(np.isnan(y) | np.isnan(x)) if len(y) else np.zeros(0, bool)
        x, y = (x[known], y[known]) if len(y) else (y, y)
        if smooth > 1 and len(y):
            y = moving_mean(y, smooth)
        inside = (x >= low) & (x <= high)
        chosen = lowest_and_highest(y[inside], most)
        return x[inside][chosen], y[inside][chosen]


def moving_mean(values: Floats, window: int) -> Floats:
    """The mean of `window` values around each value; of fewer near the ends. A mean of earlier values only would lag
    behind a falling loss."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    places = np.arange(len(values))
    starts = np.maximum(places - (window - 1) // 2, 0)
    ends = np.minimum(places + window // 2 + 1, len(values))
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def lowest_and_highest(values: Floats, most: int) -> NDArray[np.int64]:
    """The indices of at most `most` values, in order: the first, the last, and from each of equal stretches the lowest
    and the highest."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    stretches = max(1, (most - 2) // 2)
    length = ceil_div(count, stretches)
    padded = np.concatenate([values, np.full(stretches * length - count, values[-1])]).reshape(stretches, length)
    starts = np.arange(stretches) * length
    found = np.concatenate([[0, count - 1], starts + padded.argmin(axis=1), starts + padded.argmax(axis=1)])
    return np.unique(np.minimum(found, count - 1))
