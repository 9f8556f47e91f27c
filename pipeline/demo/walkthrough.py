"""Run the stages: skip finished ones, show progress, and record completion.

walk = Walkthrough(screen, record)
walk.through(stages, keys)
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.demo.finished_stages import FinishedStage, FinishedStages
from pipeline.demo.screen import Screen
from pipeline.demo.stages import COSTS, Stage, samples
from pipeline.demo.time_left import Pace, TimeLeft
from pipeline.formats.logged_metrics import validation_losses
from utils.terminal import format_seconds

_NAME_WIDTH = 10
_TICK_LENGTH = 2


class Walkthrough:
    """A pass over the stages. Also watches those that train: see `watch`."""

    def __init__(self, screen: Screen, record: FinishedStages) -> None:
        self.screen = screen
        self.record = record
        self.estimate = TimeLeft({})
        self.losses: list[float] = []
        self.log_size = 0
        self.shown: list[int] = []  # steps whose samples have been shown
        self._begin("")

    def through(self, stages: Sequence[Stage], keys: Mapping[str, str], *, received: Sequence[int] = ()) -> None:
        """Run every stage that is not done.

        Args:
            keys: the checksum under which each stage is recorded.
            received: signals received by stages; a signal that did not stop its stage ends the walk after it.
        """
        self.estimate = TimeLeft({stage.name: COSTS[stage.name] for stage in stages})
        is_new = False  # after one stage has run, all later stages must run too
        for stage in stages:
            done = None if is_new else self.record.find(keys[stage.name], stage.outputs)
            if done:
                self.estimate.finish(stage.name, done.seconds)
                self.screen.line(f"✓ {stage.name:<{_NAME_WIDTH}}{done.outcome} (done before)", "dim")
                continue
            is_new = True
            self._run(stage, keys[stage.name])
            if received:
                raise KeyboardInterrupt

    def watch(self, output: str, log: Path | None) -> None:
        """Called a few times per second while a stage trains, with its new output and its log."""
        now = time.monotonic()
        self.pace.read(output, now)
        if log is not None and log.exists() and log.stat().st_size != self.log_size:
            self.log_size = log.stat().st_size
            self.losses = [loss for _, loss in validation_losses(log)]
            self._show_sample(samples(log))
        self._show_live(now)

    def _run(self, stage: Stage, key: str) -> None:
        self._begin(stage.name)
        self._show_live(self.started)
        if not self.screen.is_terminal and stage.run:
            self.screen.line(f"  {stage.name:<{_NAME_WIDTH}}{stage.purpose} …")
        stage.work()
        seconds, outcome = time.monotonic() - self.started, stage.outcome()
        self.record.add(key, FinishedStage(stage.name, seconds, outcome, str(stage.run()) if stage.run else ""))
        self.estimate.finish(stage.name, seconds)
        self.screen.line(f"✓ {stage.name:<{_NAME_WIDTH}}{outcome}, {format_seconds(seconds)}", "green")

    def _begin(self, name: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self.pace = Pace()
        self.losses = []
        self.log_size = 0
        self.shown = []

    def _show_live(self, now: float) -> None:
        elapsed = now - self.started
        left = self.estimate.left(self.name, elapsed=elapsed, stage_left=self.pace.left(now))
        spent = elapsed + sum(self.estimate.seconds.values())
        share = spent / (spent + left) if left is not None else 0.0
        steps = f" {self.pace.step}/{self.pace.total}" if self.pace.total else ""
        self.screen.live(share, f"{self.name}{steps}", self.losses, left)

    def _show_sample(self, found: Sequence[tuple[int, str]]) -> None:
        """Show the first sample generated in training, one from the middle, and the last."""
        if not found:
            return
        step, text = found[-1]
        due_at = (0, self.pace.total / 2, self.pace.total)
        due = len(self.shown) < len(due_at) and step >= due_at[len(self.shown)] and (self.pace.total or not self.shown)
        if due and step not in self.shown:
            self.shown.append(step)
            prompt, written = split_sample(text, self.prompt)
            self.screen.sample(f"  step {step}:", prompt, written)

    prompt = ""


def split_sample(text: str, prompt: str) -> tuple[str, str]:
    """Split a sample into the prompt and the generated text."""
    return (prompt, text.removeprefix(prompt)) if prompt and text.startswith(prompt) else ("", text)
