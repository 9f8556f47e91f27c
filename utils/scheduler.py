"""Learning rate schedules: linear warm-up, then a cosine, or a plateau with a decay at the end.

scheduler = LearningRateScheduler(optimizer, Schedule("cosine", total_steps=1000, warmup_steps=100, minimum=0.1))
scheduler.step()        # after each optimizer step
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from pipeline.training.config import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """The learning rate at each step, as a share of the peak.

    `kind` is ``cosine`` (Loshchilov & Hutter 2017) or ``wsd``, warm-up, stable, decay (Hu et al. 2024, MiniCPM), whose
    last `decay_share` of steps falls linearly. `minimum` is the share at the end.
    """

    kind: str
    total_steps: int
    warmup_steps: int = 0
    minimum: float = 0.0
    decay_share: float = 0.2

    @classmethod
    def from_config(cls, config: TrainingConfig, total_steps: int) -> "Schedule":
        return cls(
            kind=config.schedule,
            total_steps=total_steps,
            warmup_steps=min(config.warmup_steps, total_steps // 2),
            minimum=config.min_learning_rate / config.learning_rate,
            decay_share=config.decay_share,
        )

    def multiplier(self, step: int) -> float:
        """The share of the peak rate for step number `step` (from 0)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.kind == "cosine":
            progress = (step - self.warmup_steps) / max(1, self.total_steps - 1 - self.warmup_steps)
            return self._between(0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
        decay_steps = max(1, round(self.decay_share * self.total_steps))
        left = max(0, self.total_steps - 1 - step)
        return self._between(min(1.0, left / decay_steps))

    def _between(self, share: float) -> float:
        return self.minimum + (1 - self.minimum) * share


class LearningRateScheduler:
    """Set every parameter group's ``lr`` to its ``peak_lr`` times the schedule's share."""

    def __init__(self, optimizers: Optimizer | Sequence[Optimizer], schedule: Schedule) -> None:
        self.optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        self.schedule = schedule
        for group in self.groups:
            group.setdefault("peak_lr", group["lr"])
        self.set_step(0)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Looked up on every call, because loading an optimizer's state replaces its groups."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def multiplier(self) -> float:
        return self.schedule.multiplier(self.current_step)

    def set_step(self, step: int) -> None:
        self.current_step = step
        for group in self.groups:
            group["lr"] = group["peak_lr"] * self.multiplier

    def step(self) -> None:
        self.set_step(self.current_step + 1)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.current_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.set_step(state["step"])
