"""The files of a benchmark: first the results, then reports that may fail without losing the results."""

import sys
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from pipeline.evaluation.text_report import format_benchmark_results
from utils.files import write_json, write_text
from utils.terminal import visible

T = TypeVar("T")


class ReportFiles:
    """benchmark_<timestamp>.json, .txt, .png and .html in `directory`, which is created before any scoring."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._stem = _free_stem(directory)

    @property
    def written(self) -> list[Path]:
        """The files written so far."""
        return [path for suffix in (".json", ".txt", ".png", ".html") if (path := self._path(suffix)).exists()]

    def save(self, results: Mapping[str, Any]) -> None:
        """Write the JSON and the text; call this again after adding results."""
        write_json(self._path(".json"), results)
        write_text(self._path(".txt"), format_benchmark_results(results))

    def add_pictures(self, results: Mapping[str, Any], *, over_training: bool) -> None:
        """Plot the chart and write the page; print a warning if one of them fails."""
        attempt("the chart", lambda: self._draw(results, over_training=over_training))
        attempt("the page", lambda: self._write_page(results, over_training=over_training))

    def _draw(self, results: Mapping[str, Any], *, over_training: bool) -> None:
        from pipeline.evaluation.charts import comparison_chart, training_chart
        from utils.plots import save_figure

        save_figure(self._path(".png"), training_chart(results) if over_training else comparison_chart(results))

    def _write_page(self, results: Mapping[str, Any], *, over_training: bool) -> None:
        from pipeline.evaluation.html_report import benchmark_page

        write_text(self._path(".html"), benchmark_page(results, over_training=over_training))

    def _path(self, suffix: str) -> Path:
        return self._stem.with_suffix(suffix)


def attempt(what: str, work: Callable[[], T]) -> T | None:
    """The result of `work`. If it fails, print a warning and return None, because optional parts must not lose
    scores."""
    try:
        return work()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(visible(f"warning: {what} failed: {reason}; the scores are not affected"), file=sys.stderr)
        return None


def _free_stem(directory: Path) -> Path:
    name = f"benchmark_{time.strftime('%Y_%m_%d_%H_%M_%S')}"
    stems = (directory / (name if number == 1 else f"{name}_{number}") for number in count(1))
    return next(stem for stem in stems if not stem.with_suffix(".json").exists())
