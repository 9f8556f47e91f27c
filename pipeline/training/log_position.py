"""Find the log lines that belong to the checkpoint from which a run is resumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.formats.logged_metrics import ROLLBACK, is_from_validation
from utils.raw_log import LogLine


@dataclass(frozen=True)
class LogPosition:
    """Where in its log a resumed run continues.

    Attributes:
        step: the checkpoint's step.
        validated: the checkpoint includes this step's validation; otherwise it is repeated and its lines are dropped.
        unwritten: lines not yet written when the checkpoint was saved, because the log's disk was full.
        rollbacks: the number of rollbacks so far; lines before the last of them stay in the log.
    """

    step: int
    validated: bool = True
    unwritten: tuple[str, ...] = ()
    rollbacks: int = 0

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "LogPosition":
        """The place in the log for the checkpoint with this `content`."""
        step = content["step"]
        return cls(
            step,
            validated=content["validated_step"] == step and bool(content["last_validation"]),
            unwritten=tuple(content.get("unwritten_log", ())),
            rollbacks=content["guard"]["rollbacks"],
        )

    def kept(self, lines: Sequence[LogLine]) -> list[LogLine]:
        """The `lines` that belong to the checkpoint."""
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
