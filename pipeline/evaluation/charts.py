"""The chart as a PNG: models next to each other, or the checkpoints of a run over its steps."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.multiple_choice import ANSWER_BITS
from pipeline.evaluation.wording import TITLES, caveat, label_with_arrow, title_of
from utils.arithmetic import ceil_div
from utils.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The (task, score) of each panel, the most informative first.
PANELS = (
    ("wikitext", "bits_per_byte"),
    ("lambada", "acc"),
    ("hellaswag", "acc_norm"),
    ("hellaswag", ANSWER_BITS),
    ("wikitext", "next_token_top1"),
    ("completion", "rougeL"),
)


def comparison_chart(results: Mapping[str, Any]) -> "Figure":
    """Plot a bar for each model in each panel, with its 95% interval."""
    panels = panels_of(results)
    figure, grid = _grid(results, len(panels))
    for axes, (task, name) in zip(grid, panels, strict=True):
        for place, model in enumerate(results["models"].values()):
            value, errors = _value_and_errors(model["figures"][task][name])
            axes.bar(place, 0 if math.isnan(value) else value, yerr=errors, capsize=4, width=0.6)
        axes.set_xticks(range(len(results["models"])), list(results["models"]), rotation=20, ha="right", fontsize=8)
        axes.set_xlim(-0.8, len(results["models"]) - 0.2)
        axes.set_ylim(bottom=0)
        _label(axes, results, task, name)
    return figure


def training_chart(results: Mapping[str, Any]) -> "Figure":
    """Plot the scores of a run's checkpoints as curves over its steps, with their 95% intervals as bands."""
    steps = {model: result["step"] for model, result in results["models"].items()}
    panels = panels_of(results)
    figure, grid = _grid(results, len(panels))
    names = sorted(results["models"], key=lambda model: steps[model])
    for axes, (task, name) in zip(grid, panels, strict=True):
        points = [_value_and_errors(results["models"][model]["figures"][task][name]) for model in names]
        values = [value for value, _ in points]
        low, high = ([value + sign * error[side][0] for value, error in points] for side, sign in ((0, -1), (1, 1)))
        places = [steps[model] for model in names]
        (line,) = axes.plot(places, values, marker="o", markersize=4)
        axes.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)  # the 95% interval
        axes.set_xlabel("step")
        _label(axes, results, task, name)
    return figure


def panels_of(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The scores to plot; of a task of the harness, its accuracy and the bits per byte of the answers."""
    panels = [(task, name) for task, name in PANELS if task in results["sets"]]
    figures = next(iter(results["models"].values()))["figures"]
    for task in results["sets"]:
        if task not in TITLES:
            main = next(name for name in ("acc_norm", "acc", *figures[task]) if name in figures[task])
            panels += [(task, name) for name in figures[task] if name in (main, ANSWER_BITS)]
    return panels


def _value_and_errors(figure: Mapping[str, Any]) -> tuple[float, list[list[float]]]:
    """The value, or NaN, and how far its interval reaches down and up; shares as percentages."""
    scale = 100 if figure["unit"] == "share" else 1
    if figure["value"] is None:
        return math.nan, [[0.0], [0.0]]
    value = figure["value"]
    low, high = figure["interval"] or (value, value)
    return scale * value, [[max(0.0, scale * (value - low))], [max(0.0, scale * (high - value))]]


def _grid(results: Mapping[str, Any], count: int) -> "tuple[Figure, Sequence[Axes]]":
    columns = min(3, count)
    rows = ceil_div(count, columns)
    figure, axes = new_figure("", rows=rows, columns=columns, size=(4 * columns, 3.2 * rows))
    if caveat(results):
        figure.suptitle(caveat(results), fontsize=9)
    flat = [axes] if count == 1 else list(axes.flat)
    for unused in flat[count:]:
        unused.set_visible(False)
    return figure, flat[:count]


def _label(axes: "Axes", results: Mapping[str, Any], task: str, name: str) -> None:
    figure = next(iter(results["models"].values()))["figures"][task][name]
    axes.set_title(f"{title_of(task)}: {label_with_arrow(name, figure)}", fontsize=9)
    if figure["unit"] == "share":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.grid(axis="y", alpha=0.3)
