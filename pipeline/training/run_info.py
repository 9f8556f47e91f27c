"""Metadata about a run, for the training loop."""

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from utils.devices import describe_device


@dataclass(frozen=True)
class RunInfo:
    """Everything about a run except its state; `description` is stored in every checkpoint."""

    folder: Path
    description: Mapping[str, Any] = field(default_factory=dict)
    epoch_checkpoints: bool = False  # also write checkpoint_epoch_N.pt, as in fine-tuning
    flops_per_token: float | None = None  # forward and backward
    peak_flops: float | None = None  # per second, of one device
    how_to_continue: str = ""  # what an interrupted run prints; empty: --resume with its folder

    def mfu(self, tokens_per_second: float, num_devices: int) -> float | None:
        """Model FLOPs utilization, 0 to 1; None if the device's peak is unknown."""
        if not (self.flops_per_token and self.peak_flops):
            return None
        return tokens_per_second * self.flops_per_token / (self.peak_flops * num_devices)


def versions(device: torch.device) -> dict[str, str]:
    """Packages, git commit and hardware, for anyone who later asks how a model was made."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {**packages, "python": platform.python_version(), "git": _git_commit(), "device": describe_device(device)}


def _git_commit() -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # a copy without git
