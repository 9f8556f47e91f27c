"""Estimate the remaining time of the quickstart from measurements.

    estimate = TimeLeft({"corpus": 2, "train": 200, "sft": 40})
    estimate.finish("corpus", seconds=3.0)
    estimate.left("train", elapsed=20.0, stage_left=280.0)      # seconds, including the rest of training

`costs` are relative. The scale comes from the stages that have run, and from the steps of the current training stage.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_STEP = re.compile(r"^step (\d+)/(\d+):", re.MULTILINE)
FEWEST_STEPS = 3  # needed to measure the speed


@dataclass
class TimeLeft:
    costs: Mapping[str, float]
    seconds: dict[str, float] = field(default_factory=dict)

    def finish(self, name: str, seconds: float) -> None:
        self.seconds[name] = seconds

    def left(self, current: str, *, elapsed: float, stage_left: float | None = None) -> float | None:
        """Seconds until everything is done, or None if nothing has been measured yet.

        Args:
            elapsed: seconds since the current stage started.
            stage_left: the remaining seconds according to its steps, if it has steps.
        """
        seconds = dict(self.seconds)
        if stage_left is not None:
            seconds[current] = elapsed + stage_left
        cost_measured = sum(self.costs[name] for name in seconds)
        if not cost_measured:
            return None
        scale = sum(seconds.values()) / cost_measured
        later = sum(cost for name, cost in self.costs.items() if name not in seconds and name != current)
        own = max(0.0, scale * self.costs[current] - elapsed) if stage_left is None else stage_left
        return own + scale * later


@dataclass
class Pace:
    """Follow a training stage by the `step 420/850:` lines in its output."""

    step: int = 0
    total: int = 0
    _first: tuple[int, float] | None = None
    _last: tuple[int, float] | None = None

    def read(self, output: str, now: float) -> None:
        for match in _STEP.finditer(output):
            self.step = int(match[1])
            self.total = int(match[2])
            self._last = (self.step, now)
            self._first = self._first or self._last

    def left(self, now: float) -> float | None:
        """Seconds until the last step, once there are enough steps between the first and the last line."""
        if self._first is None or self._last is None or self._last[0] - self._first[0] < FEWEST_STEPS:
            return None
        (first_step, began), (step, seen) = self._first, self._last
        pace = (seen - began) / (step - first_step)
        return max(0.0, (self.total - step) * pace - (now - seen))
