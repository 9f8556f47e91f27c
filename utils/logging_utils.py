"""DualLogger: every number goes to TensorBoard and, as one JSON line, to raw_metrics.

logger = DualLogger(config.paths.log_dir, "run_2026_01_31_12_00", hyperparameters=config.to_dict())
logger.log(step=10, train_loss=3.2)         # {"step": 10, "time": …, "train_loss": 3.2}
logger.event("samples", step=10, text="…")  # {"event": "samples", "step": 10, …}
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import PipelineError
from utils.files import write_text


class DualLogger:
    """Buffered; `flush` at checkpoints and before the process ends.

    Args:
        resume_step: continue a log; lines and TensorBoard events past this step are dropped first.
        enabled: False for processes that do not log: every call is then silent.
    """

    def __init__(
        self,
        log_dir: Path,
        run_name: str,
        *,
        hyperparameters: Mapping[str, Any] | None = None,
        resume_step: int | None = None,
        buffer_lines: int = 100,
        enabled: bool = True,
    ) -> None:
        self.enabled, self.buffer_lines = enabled, buffer_lines
        self.path = raw_metrics_path(log_dir, run_name)
        self.tensorboard_dir = log_dir / "tensorboard" / run_name
        self._lines: list[str] = []
        self._writer = None
        if not enabled:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is None:
            self.path.unlink(missing_ok=True)
        else:
            self.drop_after(resume_step)
        self._open_tensorboard(resume_step)
        if hyperparameters is not None:
            self.event("start" if resume_step is None else "resume", step=resume_step or 0, config=hyperparameters)
            self._writer.add_text("config", f"```json\n{json.dumps(hyperparameters, indent=2)}\n```", resume_step or 0)

    def log(self, *, step: int, **values: float) -> None:
        if not self.enabled:
            return
        self._append({"step": step, "time": round(time.time(), 3), **values})
        for name, value in values.items():
            self._writer.add_scalar(name.replace("_", "/", 1), value, step)

    def event(self, name: str, *, step: int, **details: Any) -> None:
        """Something that happened: a start, a sample, a skipped step."""
        if not self.enabled:
            return
        self._append({"event": name, "step": step, "time": round(time.time(), 3), **details})
        if isinstance(details.get("text"), str) and self._writer is not None:
            self._writer.add_text(name, details["text"], step)

    def flush(self) -> None:
        if not self.enabled:
            return
        if self._lines:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(self._lines)
                file.flush()
                os.fsync(file.fileno())
            self._lines.clear()
        if self._writer is not None:
            self._writer.flush()

    def drop_after(self, step: int, *, keep_events: bool = False) -> None:
        """Removes lines past `step`, a line cut short too; with `keep_events` only numbers go, what happened stays."""
        if not self.enabled:
            return
        self.flush()
        if self.path.exists():
            lines = read_log(self.path)
            kept = [each for each in lines if each["step"] <= step or (keep_events and "event" in each)]
            write_text(self.path, "".join(_line(each) for each in kept))
        if self._writer is not None:
            self._writer.close()
            self._open_tensorboard(step)

    def close(self) -> None:
        self.flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _append(self, content: dict[str, Any]) -> None:
        self._lines.append(_line(content))
        if len(self._lines) >= self.buffer_lines:
            self.flush()

    def _open_tensorboard(self, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second of import that only a training run pays

        # TensorBoard itself drops the events of earlier files from `purge_step` on.
        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(self.tensorboard_dir), purge_step=purge, max_queue=1000, flush_secs=120)


def raw_metrics_path(log_dir: Path, run_name: str) -> Path:
    return log_dir / "raw_metrics" / f"{run_name}.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a raw_metrics file; a last line that was cut short is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise PipelineError(f"log {path} does not exist; name a run of paths.log_dir/raw_metrics") from None
    result = []
    for line in lines:
        with contextlib.suppress(ValueError):
            result.append(json.loads(line))
    return result


def _line(content: Mapping[str, Any]) -> str:
    # NaN and infinity are no JSON: a diverged value is written as null.
    plain = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in content.items()}
    return json.dumps(plain, ensure_ascii=False) + "\n"
