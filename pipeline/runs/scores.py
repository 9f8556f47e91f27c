"""The scores of checkpoints, from benchmark_results/: benchmarks and answered questions.

scores = Scores(config.paths.benchmark_dir)
scores.of("run_2026_01_31_12_00", "checkpoint_best.pt")
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.intervals import wilson_interval
from utils.raw_log import is_number

MAX_FILE_BYTES = 100_000_000
# Variants of figures that are shown.
_HIDDEN = ("_corrected", "byte_perplexity", "token_perplexity")

Score = dict[str, Any]


@dataclass
class Scores:
    """The scores in a folder of results; files are read again when they change."""

    folder: Path
    _files: dict[Path, tuple[int, list[Score]]] = field(default_factory=dict)

    def of(self, folder: str, kind: str | None = None) -> list[Score]:
        """The scores of a run's folder, or of one of its files (``checkpoint_best.pt``), the newest first."""
        return [score for score in self._all() if score["folder"] == folder and kind in (None, score["file"])]

    def _all(self) -> list[Score]:
        found: dict[Path, tuple[int, list[Score]]] = {}
        for path in (*self.folder.glob("benchmark_*.json"), *self.folder.glob("questions_*.json")):
            with suppress(OSError, ValueError, RecursionError):
                status = path.stat()
                if status.st_size > MAX_FILE_BYTES:
                    continue
                earlier = self._files.get(path)
                is_known = earlier is not None and earlier[0] == status.st_mtime_ns
                found[path] = earlier if earlier and is_known else (status.st_mtime_ns, _read(path, status.st_mtime))
        self._files = found
        scores = [score for _, scores in found.values() for score in scores]
        return sorted(scores, key=lambda score: score["created"], reverse=True)


def _read(path: Path, modified: float) -> list[Score]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and path.name.startswith("questions_"):
        created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(modified))
        return list(_answered(content, {"created": created, "results": path.name}))
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, dict):
        return []
    shared = {"created": str(content.get("created", "")), "results": path.name}
    sets = content.get("sets")
    marks = (
        {name: str(data.get("mark", "")) for name, data in sets.items() if isinstance(data, dict)}
        if isinstance(sets, dict)
        else {}
    )
    return [
        {**shared, **_place(name, model), "step": model.get("step"), "figures": list(_figures(model, marks))}
        for name, model in models.items()
        if isinstance(model, dict)
    ]


def _answered(content: Mapping[str, Any], shared: Mapping[str, str]) -> Iterator[Score]:
    """The share of questions that each model answered right, and of unknown ones that it admitted."""
    for name, model in content.items():
        if isinstance(model, dict) and "checkpoint" in model:
            counts = {"right": model.get("known"), "unknown_admitted": model.get("unknown")}
            figures = [_share(key, count) for key, count in counts.items() if isinstance(count, dict)]
            place = _place(name, model)
            yield {**shared, **place, "step": model.get("step"), "figures": [*filter(None, figures)]}


def _share(name: str, count: Mapping[str, Any]) -> dict[str, Any] | None:
    right, total = count.get("right"), count.get("total")
    if not is_number(right) or not is_number(total) or not 0 <= right <= total or not total:
        return None
    return {
        "task": "questions",
        "name": name,
        "value": right / total,
        "interval": wilson_interval(right, total),
        "higher_is_better": True,
        "unit": "share",
        "mark": "",
    }


def _place(name: str, model: Mapping[str, Any]) -> dict[str, str]:
    """The run's folder and the file. Without a record of the path, the model's default name tells them."""
    path = model.get("checkpoint")
    if isinstance(path, str):
        return {"folder": Path(path).parent.name, "file": Path(path).name}
    folder, _, kind = name.partition("/")
    return {"folder": folder, "file": f"checkpoint_{kind or 'latest'}.pt"}


def _figures(model: Mapping[str, Any], marks: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    tasks = model.get("figures")
    for task, figures in tasks.items() if isinstance(tasks, dict) else ():
        for name, figure in figures.items() if isinstance(figures, dict) else ():
            if name.endswith(_HIDDEN) or not isinstance(figure, dict) or not _is_finite(figure.get("value")):
                continue
            yield {
                "task": task,
                "name": name,
                "value": figure["value"],
                "interval": _interval(figure.get("interval")),
                "higher_is_better": figure.get("higher_is_better") is True,
                "unit": str(figure.get("unit", "")),
                "mark": marks.get(task, ""),
            }


def _interval(ends: object) -> list[float] | None:
    """The 95% interval of a score as the benchmark recorded it; None if it has none."""
    is_interval = isinstance(ends, list) and len(ends) == 2 and all(map(_is_finite, ends)) and ends[0] < ends[1]
    return list(ends) if isinstance(ends, list) and is_interval else None


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)
