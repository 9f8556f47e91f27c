"""Plot loss curves from training logs: loss_curve.png for one run, comparison.png for several."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.formats.logged_metrics import TRAIN_LOSS_SMOOTHED, TRAIN_TOKENS, VAL_LOSS
from utils.errors import PipelineError
from utils.plots import new_figure, save_figure
from utils.raw_log import LogLine, is_number, read_log
from utils.terminal import format_count, format_table

if TYPE_CHECKING:
    from pipeline.training.callbacks import Validation

CURVE_NAME = "loss_curve.png"
Lines = Sequence[LogLine]


class LossCurve:
    """Plot loss_curve.png in the run's folder after each validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation(self, validation: "Validation") -> None:
        path = self.folder / CURVE_NAME
        try:
            draw_runs(path, {self.folder.name: validation.logger.lines()})
        except OSError as error:
            validation.say(f"warning: {path} cannot be written: {error.strerror or error}")


def draw_runs(path: Path, runs: Mapping[str, Lines]) -> None:
    """Plot training loss as a line and validation loss as dots over the tokens seen, in one colour per run."""
    figure, axes = new_figure("Loss over training tokens")
    for index, (name, lines) in enumerate(runs.items()):
        train, validation = curve(lines, TRAIN_LOSS_SMOOTHED), curve(lines, VAL_LOSS)
        axes.plot(*_columns(train), color=f"C{index}", linewidth=1, alpha=0.7, label=f"{name}: training, smoothed")
        axes.plot(*_columns(validation), color=f"C{index}", marker="o", markersize=4, label=f"{name}: validation")
    axes.xaxis.set_major_formatter(lambda tokens, _: format_count(tokens))
    axes.set_xlabel("tokens")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    save_figure(path, figure)


def curve(lines: Lines, key: str) -> list[tuple[float, float]]:
    """(tokens seen, value) wherever `key` was logged."""
    return [
        (line[TRAIN_TOKENS], line[key])
        for line in lines
        if is_number(line.get(TRAIN_TOKENS)) and is_number(line.get(key))
    ]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def compare_runs(names: Sequence[str], log_dir: Path) -> str:
    """Plot the named runs in comparison.png in `log_dir`; returns a table and the path of the plot.

    Args:
        names: run folders, their names, or names set with ``--name``.
    """
    runs = {Path(name).name: read_log(log_of(name, log_dir)) for name in names}
    path = log_dir / "comparison.png"
    draw_runs(path, runs)
    rows = [["run", "steps", "tokens", "best validation loss", "at step"], *map(_row, runs.items())]
    return f"{format_table(rows, right=(1, 2, 3, 4))}\n{path}"


def _row(run: tuple[str, Lines]) -> list[str]:
    name, lines = run
    steps = max((line["step"] for line in lines), default=0)
    tokens = max((line[TRAIN_TOKENS] for line in lines if is_number(line.get(TRAIN_TOKENS))), default=0)
    validations = [(line[VAL_LOSS], line["step"]) for line in lines if is_number(line.get(VAL_LOSS))]
    row = [name, f"{steps:,}", format_count(tokens)]
    if not validations:
        return [*row, "–", "–"]
    loss, step = min(validations)
    return [*row, f"{loss:.4f}", f"{step:,}"]


def log_of(run: str, log_dir: Path) -> Path:
    """The raw_metrics file of a run.

    Raises:
        PipelineError: no file matches, or more than one.
    """
    folder = log_dir / "raw_metrics"
    stem = Path(run).name.removesuffix(".jsonl")
    exact = folder / f"{stem}.jsonl"
    # The file name may end in a name from --name, and that name alone may be used. run_…_12_00 is also a prefix of
    # another run, run_…_12_00_2.
    named = [path for path in folder.glob(f"{stem}_*.jsonl") if not re.match(r"\d+(_|$)", path.stem[len(stem) + 1 :])]
    found = [exact] if exact.exists() else sorted({*named, *folder.glob(f"*_{stem}.jsonl")})
    if len(found) == 1:
        return found[0]
    known = ", ".join(path.stem for path in (found or sorted(folder.glob("*.jsonl")))[-5:]) or "none"
    state = "matches several logs" if found else "has no log"
    raise PipelineError(f"run {run} {state} in {folder}; expected one of: {known}")
