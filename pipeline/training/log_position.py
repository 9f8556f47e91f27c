"""Which lines of a log belong to the checkpoint that its run is resumed from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.training.logged_metrics import ROLLBACK, is_from_validation
from utils.logging_utils import LogLine


@dataclass(frozen=True)
class LogPosition:
    """Where in its log a resumed run continues.

    Attributes:
        step: the checkpoint's.
        validated: the step's validation is part of the checkpoint; otherwise it is repeated, so its lines are dropped.
        unwritten: lines that the log's disk had not taken when the checkpoint was saved.
        rollbacks: how often the run had returned to a checkpoint by then; what happened before the last of these
            returns stays in the log.
    """

    step: int
    validated: bool = True
    unwritten: tuple[str, ...] = ()
    rollbacks: int = 0

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "LogPosition":
        """The place of the checkpoint with this `content`."""
        step = content["step"]
        return cls(
            step,
            validated=content["validated_step"] == step and bool(content["last_validation"]),
            unwritten=tuple(content.get("unwritten_log", ())),
            rollbacks=content["guard"]["rollbacks"],
        )

    def kept(self, lines: Sequence[LogLine]) -> list[LogLine]:
        """Those of `lines` that belong to the checkpoint."""
        rollbacks = [index for index, line in enumerate(lines) if line.get("event") == ROLLBACK][: self.rollbacks]
        num_settled = rollbacks[-1] + 1 if rollbacks else 0
        settled = [line for line in lines[:num_settled] if line["step"] <= self.step or "event" in line]
        later = [line for line in lines[num_settled:] if self._covers(line) and line.get("event") != ROLLBACK]
        return settled + later

    def _covers(self, line: LogLine) -> bool:
        step: int = line["step"]
        if step == self.step:
            return self.validated or not is_from_validation(line)
        return step < self.step
