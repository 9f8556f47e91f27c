"""Decide which steps to skip: NaN losses and loss spikes must not reach the weights."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

_HISTORY = 128  # steps, as in OLMo-core's SkipStepOptimizer
_FEWEST = 32  # with fewer, the deviation is unreliable
_SMALLEST_SPREAD = 0.01  # relative to the mean, so that small changes of a flat loss are not spikes


@dataclass
class LossGuard:
    """Detects spikes, `sigma` deviations above the mean of the last 128 losses, and NaN; `sigma` 0 ignores spikes."""

    sigma: float
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    skipped_in_a_row: int = 0
    rollbacks: int = 0

    def problem(self, loss: float, grad_norm: float) -> str:
        """Why the step must be skipped, or an empty string. Good losses are added to the history."""
        reason = self._reason(loss, grad_norm)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if reason else 0
        if not reason:
            self.losses.append(loss)
        return reason

    def _reason(self, loss: float, grad_norm: float) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient's norm is {grad_norm}"
        if not self.sigma or len(self.losses) < _FEWEST:
            return ""
        mean = fmean(self.losses)
        spread = max(pstdev(self.losses), _SMALLEST_SPREAD * abs(mean))
        limit = mean + self.sigma * spread
        return (
            f"the loss {loss:.4f} is above {limit:.4f} (mean {mean:.4f} + {self.sigma:g} sigma)" if loss > limit else ""
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": list(self.losses),
            "skipped_in_a_row": self.skipped_in_a_row,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = deque(state["losses"], maxlen=_HISTORY)
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.rollbacks = state["rollbacks"]
