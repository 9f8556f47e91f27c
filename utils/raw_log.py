"""Read raw_metrics, the log of a run in JSON lines; `utils/logging_utils.py` writes it."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from utils.errors import PipelineError

LogLine = dict[str, Any]
HparamValue = bool | int | float | str


def raw_metrics_path(log_dir: Path, run_name: str) -> Path:
    return log_dir / "raw_metrics" / f"{run_name}.jsonl"


def read_log(path: Path) -> list[LogLine]:
    """The lines of a raw_metrics file. Skips anything that is not an object with a step, such as a truncated line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PipelineError(f"log {path} does not exist; choose a run from paths.log_dir/raw_metrics") from None
    return log_lines(content.split(b"\n"))  # not splitlines, which also splits at characters inside a line


def log_lines(texts: Iterable[str | bytes]) -> list[LogLine]:
    """The texts that are log lines, parsed."""
    result = []
    for text in texts:
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
            if isinstance(line, dict) and type(line.get("step")) is int:
                result.append(line)
    return result


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
