"""The argument of validation callbacks, which run in the main process only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from utils.logging_utils import DualLogger


@dataclass(frozen=True)
class Validation:
    """A validation that was just scored and logged; `say` prints a line above the progress bar."""

    step: int
    metrics: Mapping[str, float]
    model: nn.Module
    device: torch.device
    logger: DualLogger
    say: Callable[[str], None]


class Callback(Protocol):
    def on_validation(self, validation: Validation) -> None: ...
