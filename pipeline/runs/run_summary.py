"""A run in one line of the list: its state, progress, losses and time left.

Reads the log with little work: of the many lines with a step's numbers, only the newest are parsed.
"""

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pipeline.formats import logged_metrics as logged
from pipeline.runs.log_tail import LogTail, parse_line
from utils.raw_log import LogLine, is_number

State = Literal["training", "stalled", "finished", "interrupted", "no log"]
_RECENT_ROWS = 24  # for the time of a step
_FRESH_SECONDS = 120.0  # a log without a lock that was just written belongs to a run that is training
_STALLED_SECONDS = 600.0  # at least; longer if lines are rare
_STALLED_GAPS = 20


@dataclass
class RunSummary:
    """What the list shows of a run; grows with its log."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tail = LogTail(self.path)
        self._start()

    def refresh(self) -> None:
        """Read what was appended."""
        for line in self._tail.read(self._start):
            if b'"event"' in line or b'"val_' in line:
                self._add_rows()  # in the order of the log: rows before a resumption are not recent
                self._add(parse_line(line))
            elif line:
                self._unparsed.append(line)
        self._add_rows()

    def _add_rows(self) -> None:
        while self._unparsed:
            self._add(parse_line(self._unparsed.popleft()))

    def _start(self) -> None:
        self.facts = {"skipped": 0, "rollbacks": 0, "step": 0}
        self.ended = ""  # the reason in the log's last line
        self.is_set_up = False  # training began after the last start or resumption
        self._unparsed: deque[bytes] = deque(maxlen=_RECENT_ROWS)
        self._rows: deque[tuple[int, float]] = deque(maxlen=_RECENT_ROWS)
        self._learning_rates = (math.nan, math.nan)  # the newest, and the configured lowest

    def _add(self, line: LogLine | None) -> None:
        if line is None:
            return
        if is_number(line.get("time")):
            self.facts.setdefault("started", line["time"])
            self.facts["updated"] = line["time"]
        if isinstance(line.get("event"), str):
            self._add_event(line)
        elif is_number(line.get(logged.VAL_LOSS)):
            self._add_validation(line["step"], line[logged.VAL_LOSS])
            self._copy(line, {"tokens": logged.TRAIN_TOKENS})
        elif logged.TRAIN_LOSS in line:
            self._add_step(line)
        self.facts["step"] = line["step"]

    def _add_event(self, line: LogLine) -> None:
        event = line["event"]
        if event in ("start", "resume"):
            self.ended, self.is_set_up = "", False
            self._rows.clear()
            self._read_config(line.get("config"))
        elif event == logged.TRAINING:
            self.ended, self.is_set_up = "", True
            self._copy(line, {"total_steps": "total_steps"})
            self.facts["device"] = str(line.get("device", ""))[:40]
        elif event == logged.END:
            self.ended = str(line.get("reason", logged.FINISHED))[:200]
        elif event == logged.SKIPPED_STEP:
            self.facts["skipped"] += 1
        elif event == logged.ROLLBACK:
            self.facts["rollbacks"] += 1
            self._rows.clear()

    def _read_config(self, config: object) -> None:
        training = config.get("training") if isinstance(config, dict) else None
        if not isinstance(training, dict):
            return
        if type(training.get("max_steps")) is int:
            self.facts["total_steps"] = training["max_steps"]
        if is_number(training.get("min_learning_rate")):
            self._learning_rates = (math.nan, float(training["min_learning_rate"]))

    def _add_validation(self, step: int, loss: float) -> None:
        self.facts["val_loss"] = loss
        if math.isfinite(loss) and loss < self.facts.get("best_loss", math.inf):
            self.facts["best_loss"], self.facts["best_step"] = loss, step

    def _add_step(self, line: LogLine) -> None:
        names = {
            "loss": logged.TRAIN_LOSS_SMOOTHED,
            "tokens": logged.TRAIN_TOKENS,
            "tokens_per_second": logged.SPEED_TOKENS_PER_SECOND,
            "mfu": logged.MFU,
        }
        self._copy(line, names)
        if is_number(line.get("time")):
            self._rows.append((line["step"], line["time"]))
        if is_number(line.get(logged.TRAIN_LEARNING_RATE)):
            self._learning_rates = (line[logged.TRAIN_LEARNING_RATE], self._learning_rates[1])

    def _copy(self, line: LogLine, names: dict[str, str]) -> None:
        for ours, theirs in names.items():
            value = line.get(theirs)
            if is_number(value) and math.isfinite(value):
                self.facts[ours] = value

    def state(self, *, locked: bool | None, now: float) -> tuple[State, str]:
        """The state, and what it means.

        Args:
            locked: a process holds the run's folder; None: unknown.
        """
        idle = max(0.0, now - self.facts.get("updated", 0.0))
        if locked:
            longest = max(_STALLED_SECONDS, _STALLED_GAPS * self._seconds_between_rows())
            return ("stalled", "") if idle > longest else ("training", "")
        if self.ended == logged.INTERRUPTED:
            return "interrupted", "stopped by Ctrl-C or a signal"
        if self.ended:
            return "finished", "" if self.ended == logged.FINISHED else self.ended
        if idle < _FRESH_SECONDS and (locked is None or not self.is_set_up):
            return "training", ""
        if self._schedule_is_over():
            return "finished", ""
        return "interrupted", "stopped without a word: killed, or failed with an error"

    def seconds_left(self) -> float | None:
        """From the time of recent steps, validations included."""
        total = self.facts.get("total_steps")
        if total is None or len(self._rows) < 2:
            return None
        (first, begun), (last, ended) = self._rows[0], self._rows[-1]
        if last <= first or ended < begun:
            return None
        return max(0.0, float(total - self.facts["step"]) * (ended - begun) / (last - first))

    def _seconds_between_rows(self) -> float:
        times = [time for _, time in self._rows]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        return statistics.median(gaps) if gaps else 0.0

    def _schedule_is_over(self) -> bool:
        """For logs that do not record the end: the learning rate is at its lowest, or all steps are done."""
        newest, lowest = self._learning_rates
        total = self.facts.get("total_steps")
        return newest <= lowest or (total is not None and self.facts["step"] >= total)


def shown_summary(summary: RunSummary, *, locked: bool | None, now: float | None = None) -> dict[str, Any]:
    """The summary as the page receives it."""
    state, detail = summary.state(locked=locked, now=time.time() if now is None else now)
    left = summary.seconds_left() if state == "training" else None
    return {**summary.facts, "state": state, "detail": detail, "seconds_left": left}
