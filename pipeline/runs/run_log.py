"""A run's whole log in memory: numbers, events, samples, configuration. It grows with the file.

log = RunLog(path)
log.refresh()
log.training.points("train_loss", axis="step", most=1000)
"""

import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.formats import logged_metrics as logged
from pipeline.runs.log_tail import LogTail, parse_line
from pipeline.runs.number_table import NumberTable
from utils.raw_log import LogLine, is_number

MARKED_EVENTS = (logged.SKIPPED_STEP, logged.ROLLBACK, "resume")
MAX_SAMPLES = 300  # of each prompt
MAX_MARKS = 500
_ANSWER = re.compile(r"^  (?P<question>.*)\n    → (?P<answer>.*)$", re.MULTILINE)


@dataclass
class RunLog:
    """Everything in a log file.

    Attributes:
        training: one row for each logged step; `validation`: one for each validation.
        samples: prompt → (step, text) after each validation.
        marks: skipped steps, rollbacks and resumptions, with their place on each axis.
    """

    path: Path
    training: NumberTable = field(default_factory=NumberTable)
    validation: NumberTable = field(default_factory=NumberTable)
    samples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    marks: list[dict[str, Any]] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tail = LogTail(self.path)
        self.lock = threading.Lock()  # held while the columns grow, and by whoever reads them
        self._start()

    def refresh(self) -> None:
        """Read what was appended."""
        with self.lock:
            for line in self._tail.read(self._start):
                content = parse_line(line)
                if content is not None:
                    self._add(content)

    def _start(self) -> None:
        self.training, self.validation = NumberTable(), NumberTable()
        self.samples, self.marks, self.config = {}, [], {}
        self._tokens = 0.0
        self._seconds = 0.0
        self._last_time: float | None = None

    def _add(self, line: LogLine) -> None:
        self._follow_clock(line)
        if is_number(line.get(logged.TRAIN_TOKENS)):
            self._tokens = float(line[logged.TRAIN_TOKENS])
        position = {"step": float(line["step"]), "tokens": self._tokens, "time": self._seconds}
        if isinstance(line.get("event"), str):
            self._add_event(line, position)
        elif logged.is_from_validation(line):
            self.validation.add(position, _metrics(line))
        elif logged.TRAIN_LOSS in line:
            self.training.add(position, _metrics(line))

    def _follow_clock(self, line: LogLine) -> None:
        """Add up the time of training, without the pause before a resumption."""
        time = line.get("time")
        if not is_number(time) or not math.isfinite(time):
            return
        if self._last_time is not None and line.get("event") != "resume":
            self._seconds += max(0.0, time - self._last_time)
        self._last_time = time

    def _add_event(self, line: LogLine, position: Mapping[str, float]) -> None:
        event = line["event"]
        if event in ("start", "resume") and isinstance(line.get("config"), dict):
            self.config = line["config"]
        if event in MARKED_EVENTS:
            facts = {name: line[name] for name in ("reason", "from_step") if isinstance(line.get(name), (str, int))}
            self.marks.append({"event": event, **position, **facts})
        text = line.get("text")
        if event == logged.SAMPLE and isinstance(text, str):
            self._add_sample(line["step"], self._prompt_of(text), text)
        if event == logged.SAMPLES and isinstance(text, str):
            for found in _ANSWER.finditer(text):
                self._add_sample(line["step"], found["question"], found["answer"])

    def _prompt_of(self, text: str) -> str:
        """The configured prompt that a sample continues."""
        prompts = [prompt for prompt in _sample_prompts(self.config) if text.startswith(prompt)]
        return max(prompts, key=len) if prompts else "(no prompt)"

    def _add_sample(self, step: int, prompt: str, text: str) -> None:
        known = self.samples.setdefault(prompt, [])
        while known and known[-1][0] >= step:
            known.pop()
        known.append((step, text))

    def shown_samples(self) -> dict[str, list[tuple[int, str]]]:
        """The samples by prompt, thinned out evenly if there are very many."""
        with self.lock:
            return {prompt: _evenly(texts, MAX_SAMPLES) for prompt, texts in self.samples.items()}

    def shown_marks(self) -> list[dict[str, Any]]:
        """The newest events; a run that skips a thousand steps has one problem, not a thousand."""
        return self.marks[-MAX_MARKS:]


def _metrics(line: LogLine) -> dict[str, object]:
    return {name: value for name, value in line.items() if name not in ("step", "time", "event")}


def _sample_prompts(config: Mapping[str, Any]) -> list[str]:
    training = config.get("training")
    prompts = training.get("sample_prompts") if isinstance(training, dict) else None
    return [prompt for prompt in prompts if isinstance(prompt, str)] if isinstance(prompts, list) else []


def _evenly(items: Sequence[tuple[int, str]], most: int) -> list[tuple[int, str]]:
    """At most `most` of the items, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]
