"""Decides which steps are taken: a loss that is no number or far above the recent ones must not reach the weights."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

_HISTORY = 128  # steps, as in OLMo-core's SkipStepOptimizer
_FEWEST = 32  # before that a deviation says little
_SMALLEST_SPREAD = 0.01  # relative to the mean: a loss that hardly moves makes no spike out of a ripple


@dataclass
class LossGuard:
    """`sigma` deviations above the mean of the last 128 losses is a spike; 0 turns spikes off, never NaN."""

    sigma: float
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    skipped_in_a_row: int = 0
    rollbacks: int = 0

    def problem(self, loss: float, grad_norm: float) -> str:
        """Why the step must be skipped, or an empty string; a good loss joins the history."""
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
