"""Curves of training runs from their logs: loss_curve.png of one run, and several runs over one another."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import PipelineError
from utils.logging_utils import is_number, read_log
from utils.plots import new_figure, save_figure
from utils.terminal import format_count, format_table

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

CURVE_NAME = "loss_curve.png"
Lines = Sequence[Mapping[str, Any]]


class LossCurve:
    """Draws loss_curve.png in the run's folder after each validation."""

    def on_validation(self, trainer: "Trainer", metrics: Mapping[str, float]) -> None:
        path = trainer.run.folder / CURVE_NAME
        try:
            draw_runs(path, {trainer.run.folder.name: trainer.logger.lines()})
        except OSError as error:
            trainer.progress.say(f"warning: {path} cannot be written: {error.strerror or error}")


def draw_runs(path: Path, runs: Mapping[str, Lines]) -> None:
    """Training loss as a line and validation loss as dots, over the tokens seen; one colour a run."""
    figure, axes = new_figure("Loss over training tokens")
    for index, (name, lines) in enumerate(runs.items()):
        train, validation = curve(lines, "train_loss_smoothed"), curve(lines, "val_loss")
        axes.plot(*_columns(train), color=f"C{index}", linewidth=1, alpha=0.7, label=f"{name}: training, smoothed")
        axes.plot(*_columns(validation), color=f"C{index}", marker="o", markersize=4, label=f"{name}: validation")
    axes.xaxis.set_major_formatter(lambda tokens, _: format_count(tokens))
    axes.set_xlabel("tokens")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    save_figure(path, figure)


def curve(lines: Lines, key: str) -> list[tuple[float, float]]:
    """(tokens seen, value) wherever `key` was logged."""
    points = [(line.get("train_tokens"), line.get(key)) for line in lines]
    return [(tokens, value) for tokens, value in points if is_number(tokens) and is_number(value)]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def compare_runs(names: Sequence[str], log_dir: Path) -> str:
    """Draws the named runs over one another into comparison.png of `log_dir`; returns a table with the picture's path.

    Args:
        names: run folders, their names, or names given with ``--name``.
    """
    runs = {name: read_log(path) for name, path in ((Path(each).name, log_of(each, log_dir)) for each in names)}
    path = log_dir / "comparison.png"
    draw_runs(path, runs)
    rows = [["run", "steps", "tokens", "best validation loss", "at step"], *map(_row, runs.items())]
    return f"{format_table(rows, right=(1, 2, 3, 4))}\n{path}"


def _row(run: tuple[str, Lines]) -> list[str]:
    name, lines = run
    steps = max((line["step"] for line in lines), default=0)
    tokens = max((line["train_tokens"] for line in lines if is_number(line.get("train_tokens"))), default=0)
    scored = [(line["val_loss"], line["step"]) for line in lines if is_number(line.get("val_loss"))]
    best, at = min(scored, default=(None, None))
    return [
        name,
        f"{steps:,}",
        format_count(tokens),
        "–" if best is None else f"{best:.4f}",
        "–" if at is None else f"{at:,}",
    ]


def log_of(run: str, log_dir: Path) -> Path:
    """The raw_metrics file of a run; raises PipelineError where none or several fit."""
    folder = log_dir / "raw_metrics"
    stem = Path(run).name.removesuffix(".jsonl")
    exact = folder / f"{stem}.jsonl"
    # With a name behind it, or asked for by that name. run_…_12_00 also begins run_…_12_00_2, which is another run.
    behind = [path for path in folder.glob(f"{stem}_*.jsonl") if not re.match(r"\d+(_|$)", path.stem[len(stem) + 1 :])]
    found = [exact] if exact.exists() else sorted({*behind, *folder.glob(f"*_{stem}.jsonl")})
    if len(found) == 1:
        return found[0]
    known = ", ".join(path.stem for path in (found or sorted(folder.glob("*.jsonl")))[-5:]) or "none"
    state = "fits several logs" if found else "has no log"
    raise PipelineError(f"run {run} {state} in {folder}; there are: {known}")
