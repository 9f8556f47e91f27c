"""DualLogger writes every number to TensorBoard and, as a JSON line, to raw_metrics.

logger = DualLogger(config.paths.log_dir, "run_2026_01_31_12_00", hyperparameters=config.to_dict())
logger.log(step=10, train_loss=3.2)         # {"step": 10, "time": …, "train_loss": 3.2}
logger.event("samples", step=10, text="…")  # {"event": "samples", "step": 10, …}

A log that cannot be written never stops a run: its lines are kept here, and in checkpoints, until the next flush.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from utils.errors import PipelineError
from utils.files import make_folder, remove_stale_temporaries, sync_directory, write_text
from utils.raw_log import HparamValue, LogLine, is_number, log_lines, raw_metrics_path, read_log
from utils.tensorboard_log import TensorBoardLog

SECONDS_BETWEEN_WRITES = 5.0  # so that a run can be followed while it trains


class ResumedLog(Protocol):
    """Where the log of a resumed run continues, as decided by `pipeline.training.log_position`."""

    @property
    def step(self) -> int: ...
    @property
    def unwritten(self) -> tuple[str, ...]: ...
    def kept(self, lines: Sequence[LogLine]) -> list[LogLine]: ...


class Tracker(Protocol):
    """Another place for the numbers and texts, such as `pipeline.training.tracker.RunTracker`."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def add_text(self, step: int, name: str, text: str) -> None: ...
    def close(self, *, failed: bool) -> None: ...


class DualLogger:
    """A buffered log, written every few seconds; call `flush` at checkpoints and before the process ends.

    As a context manager, it closes itself.

    Args:
        hparams: the settings by which TensorBoard's HPARAMS tab compares runs.
        resume: continue a log, after dropping the lines and TensorBoard events that it does not keep.
        tracker: also gets every number and text.
        enabled: False in processes that do not log; every call is then a no-op.

    Raises:
        PipelineError: the log of a resumed run cannot be rewritten.
    """

    def __init__(
        self,
        log_dir: Path,
        run_name: str,
        *,
        hyperparameters: Mapping[str, object] | None = None,
        hparams: Mapping[str, HparamValue] | None = None,
        resume: ResumedLog | None = None,
        tracker: Tracker | None = None,
        buffer_lines: int = 100,
        enabled: bool = True,
    ) -> None:
        self.enabled = enabled
        self.buffer_lines = buffer_lines
        self.path = raw_metrics_path(log_dir, run_name)
        self.tensorboard_dir = log_dir / "tensorboard" / run_name
        self._lines: list[str] = []
        self._failed = False
        self._last_write = time.monotonic()
        self._hparams = hparams or {}
        self._tracker = tracker
        self._tensorboard: TensorBoardLog | None = None
        if not enabled:
            return
        try:
            kept = self._begin(resume)
        except OSError as error:
            raise PipelineError(
                f"log {self.path} cannot be written: {error.strerror or error}; free space, or --set paths.log_dir=DIR"
            ) from None
        self._tensorboard = self._open_tensorboard(None if resume is None else resume.step, kept)
        if hyperparameters is not None:
            step = 0 if resume is None else resume.step
            self.event("start" if resume is None else "resume", step=step, config=hyperparameters)
            self._tensorboard.add_text(step, "config", f"```json\n{json.dumps(hyperparameters, indent=2)}\n```")

    def _begin(self, resume: ResumedLog | None) -> list[LogLine]:
        """Prepare the folder and the file, and return the file's lines."""
        make_folder(self.path.parent)
        remove_stale_temporaries(self.path.parent, self.path.name)
        if resume is None:
            self.path.unlink(missing_ok=True)
            return []
        written = read_log(self.path) if self.path.exists() else []
        known = {_line(line) for line in written}
        lost = [line for line in log_lines(resume.unwritten) if _line(line) not in known]
        kept = resume.kept([*written, *lost])
        write_text(self.path, "".join(map(_line, kept)))
        return kept

    def log(self, *, step: int, **values: float) -> None:
        """Log the numbers of a step; `pipeline.formats.logged_metrics` has their names."""
        if self._tensorboard is not None:
            self._append({"step": step, "time": round(time.time(), 3), **values})
            self._tensorboard.add(step, chart_values(values))
            if self._tracker is not None:
                self._tracker.log(step, chart_values(values))

    def event(self, name: str, *, step: int, **details: object) -> None:
        """Log an event: a start, a sample, a skipped step."""
        if self._tensorboard is None:
            return
        self._append({"event": name, "step": step, "time": round(time.time(), 3), **details})
        text = details.get("text")
        if isinstance(text, str):
            self._tensorboard.add_text(step, chart_name(name), text)
            if self._tracker is not None:
                self._tracker.add_text(step, chart_name(name), text)

    def flush(self) -> None:
        """Write the buffered lines. If the disk is full they stay buffered, with a single warning that names the
        file."""
        if self._tensorboard is None:
            return
        if self._lines:
            self._write_lines()
        self._tensorboard.flush()

    @property
    def unwritten(self) -> tuple[str, ...]:
        """The lines that have not been written yet."""
        return tuple(self._lines)

    def lines(self) -> list[LogLine]:
        """The whole log, including buffered lines."""
        written = read_log(self.path) if self.path.exists() else []
        return [*written, *log_lines(self._lines)]

    def drop_after(self, step: int) -> None:
        """Remove the numbers past `step`, but keep events as a record."""
        if self._tensorboard is None:
            return
        kept = [line for line in self.lines() if line["step"] <= step or "event" in line]
        try:
            write_text(self.path, "".join(map(_line, kept)))
            self._lines.clear()
        except OSError as error:  # keep the numbers already written
            self._lines = [_line(line) for line in log_lines(self._lines) if line in kept]
            self._warn(error)
        self._tensorboard.close()
        self._tensorboard = self._open_tensorboard(step, kept)

    def close(self, *, failed: bool = False) -> None:
        """Write everything. `failed`: the run ended with an error or was stopped."""
        if self._tensorboard is not None:
            self.flush()
            self._tensorboard.close()
        if self._tracker is not None:
            self._tracker.close(failed=failed)

    def __enter__(self) -> "DualLogger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        self.close(failed=kind is not None)

    def _append(self, content: LogLine) -> None:
        self._lines.append(_line(content))
        is_time = time.monotonic() - self._last_write >= SECONDS_BETWEEN_WRITES
        if len(self._lines) % self.buffer_lines == 0:
            self.flush()
        elif is_time:
            self._write_lines()

    def _write_lines(self) -> None:
        self._last_write = time.monotonic()
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(self._lines)
                file.flush()
                os.fsync(file.fileno())
            if not size:
                sync_directory(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):  # otherwise a partial line remains, followed by the whole line
                os.truncate(self.path, size)
            return self._warn(error)
        self._lines.clear()
        self._failed = False

    def _warn(self, error: OSError) -> None:
        if not self._failed:
            reason = f"{error.strerror or error}; training continues, and the checkpoints keep the log lines"
            print(f"warning: log {self.path} cannot be written: {reason}", file=sys.stderr, flush=True)
        self._failed = True

    def _open_tensorboard(self, resume_step: int | None, lines: Iterable[LogLine]) -> TensorBoardLog:
        """Add the events of `resume_step` in `lines` again, because TensorBoard drops its events from that step on."""
        log = TensorBoardLog(self.tensorboard_dir, first_step=resume_step)
        if self._hparams:
            log.add_hparams(self._hparams)
        if resume_step is None:
            return log
        for line in lines:
            if line["step"] != resume_step:
                continue
            if "event" not in line:
                log.add(resume_step, chart_values(_numbers(line)))
            elif isinstance(line.get("text"), str):
                log.add_text(resume_step, chart_name(line["event"]), line["text"])
        return log


def chart_values(values: Mapping[str, float]) -> dict[str, float]:
    """The values under their names in charts; memory in GB."""
    return {chart_name(name): value / 2**30 if name.endswith("_bytes") else value for name, value in values.items()}


def chart_name(name: str) -> str:
    """``train_loss`` → ``train/loss``, ``speed_memory_bytes`` → ``speed/memory_gb``; all samples have one name."""
    if name.endswith("_bytes"):
        name = f"{name.removesuffix('_bytes')}_gb"
    return "samples" if name == "sample" else name.replace("_", "/", 1)


def _numbers(line: LogLine) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in ("step", "time") and is_number(value)}


def _line(content: Mapping[str, object]) -> str:
    # NaN and infinity are not JSON; write null instead.
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in content.items()
    }
    text = json.dumps(plain, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode(
        "utf-8"
    )  # lone surrogates become \udXXX, which is valid JSON
