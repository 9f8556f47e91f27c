"""The checkpoints of a run: checkpoint_latest.pt, and older states under other names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.formats.checkpoint import read_checkpoint, write_checkpoint
from pipeline.formats.run_folders import LATEST_NAME, prune_step_checkpoints
from utils.errors import PipelineError


@dataclass(frozen=True)
class RunCheckpoints:
    """Write and read the checkpoints in a run's `folder`; keeps the newest `keep_last` of checkpoint_step_N.pt."""

    folder: Path
    keep_last: int

    @property
    def latest(self) -> Path:
        return self.folder / LATEST_NAME

    @property
    def best(self) -> Path:
        return self.folder / "checkpoint_best.pt"

    def write(self, kinds: Sequence[str], content: Mapping[str, Any]) -> None:
        """Write checkpoint_latest.pt; `kinds` are additional names for the same file."""
        write_checkpoint(self.latest, content, other_names=[f"checkpoint_{kind}.pt" for kind in kinds])
        prune_step_checkpoints(self.folder, keep_last=self.keep_last, step=content["step"])

    def step_of_best(self) -> int | None:
        """None if checkpoint_best.pt is missing or damaged."""
        try:
            step: int = read_checkpoint(self.best)["step"]
        except (PipelineError, KeyError):
            return None
        return step
