"""Training metrics: smoothed values, throughput, memory, best values, early stopping."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from utils.devices import peak_memory

LN2 = math.log(2)


class MetricsTracker:
    """Moving averages of named values, tokens per second over the same window, the best validation, early stopping.

    `clock` can be replaced in tests.
    """

    def __init__(
        self,
        *,
        window: int = 50,
        patience: int | None = None,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.patience = patience
        self.device = device or torch.device("cpu")
        self.clock = clock
        self.window = window
        self.values: dict[str, deque[float]] = {}
        self.times: deque[tuple[float, int]] = deque(maxlen=window + 1)  # (time, tokens since the previous one)
        self.best: dict[str, float] = {}
        self.best_step: int | None = None
        self.validations_without_best = 0
        self.best_is_lost = False
        self.start_clock()

    def start_clock(self) -> None:
        """Restart the throughput measurement after a pause for validation or saving."""
        self.times.clear()
        self.times.append((self.clock(), 0))

    def update(self, tokens: int, **values: float) -> None:
        """Record the values of a step of `tokens` tokens."""
        self.times.append((self.clock(), tokens))
        for name, value in values.items():
            self.values.setdefault(name, deque(maxlen=self.window)).append(value)

    def smoothed(self, name: str) -> float:
        values = self.values.get(name)
        return sum(values) / len(values) if values else math.nan

    @property
    def tokens_per_second(self) -> float:
        seconds = self.times[-1][0] - self.times[0][0]
        tokens = sum(count for _, count in list(self.times)[1:])
        return tokens / seconds if seconds > 0 else 0.0

    @property
    def memory_bytes(self) -> int:
        return peak_memory(self.device)

    def record_validation(self, step: int, **values: float) -> bool:
        """Keep the values if their ``loss`` is the lowest so far, and return whether it is.

        With `best_is_lost`, the checkpoint of the best model is gone and this one replaces it.
        """
        lowest = math.inf if self.best_is_lost else self.best.get("loss", math.inf)
        if values["loss"] < lowest:
            self.best = dict(values)
            self.best_step = step
            self.validations_without_best = 0
            self.best_is_lost = False
            return True
        self.validations_without_best += 1
        return False

    @property
    def should_stop(self) -> bool:
        """True after `patience` validations in a row without a new best."""
        return self.patience is not None and self.validations_without_best >= self.patience

    @property
    def stop_reason(self) -> str:
        """Why training should stop early, or an empty string."""
        if not self.should_stop:
            return ""
        return (
            f"stopped early: {self.validations_without_best} validations in a row without a new best "
            f"(early_stopping_patience); the best was at step {self.best_step}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": {name: list(values) for name, values in self.values.items()},
            "best": self.best,
            "best_step": self.best_step,
            "validations_without_best": self.validations_without_best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = {name: deque(values, maxlen=self.window) for name, values in state["values"].items()}
        self.best = dict(state["best"])
        self.best_step = state["best_step"]
        self.validations_without_best = state["validations_without_best"]
        self.start_clock()


def validation_metrics(loss_sum: float, num_tokens: float, num_bytes: float) -> dict[str, float]:
    """Loss per token (nats), perplexity, and bits per byte if the number of bytes is known.

    Bits per byte, the cost of encoding a byte of text, is comparable across tokenizers.
    """
    loss = loss_sum / num_tokens
    result = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
    return {**result, "bits_per_byte": loss_sum / LN2 / num_bytes} if num_bytes else result
