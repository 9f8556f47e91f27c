"""Charts: models side by side, and the checkpoints of a run over its steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.text_report import LABELS, TITLES
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
    ("wikitext", "next_token_top1"),
    ("wikitext", "word_perplexity"),
    ("completion", "rougeL"),
)


def comparison_chart(results: Mapping[str, Any]) -> "Figure":
    """Plot a bar for each model in each panel, with error bars of one standard error."""
    panels = _panels(results)
    figure, grid = _grid(len(panels))
    for axes, (task, name) in zip(grid, panels, strict=True):
        for place, model in enumerate(results["models"].values()):
            figure_of_model = model["figures"][task][name]
            height, error = figure_of_model["value"] or 0, figure_of_model["stderr"] or 0
            axes.bar(place, height, yerr=error, capsize=4, width=0.6)
        axes.set_xticks(range(len(results["models"])), list(results["models"]), rotation=20, ha="right", fontsize=8)
        _label(axes, results, task, name)
    return figure


def training_chart(results: Mapping[str, Any]) -> "Figure":
    """Plot the scores of a run's checkpoints as curves over its steps."""
    steps = {model: result["step"] for model, result in results["models"].items()}
    panels = _panels(results)
    figure, grid = _grid(len(panels))
    names = sorted(results["models"], key=lambda model: steps[model])
    for axes, (task, name) in zip(grid, panels, strict=True):
        values = [results["models"][model]["figures"][task][name] for model in names]
        heights = [value["value"] if value["value"] is not None else float("nan") for value in values]
        errors = [value["stderr"] or 0 for value in values]
        axes.errorbar([steps[model] for model in names], heights, yerr=errors, marker="o", markersize=4, capsize=3)
        axes.set_xlabel("step")
        _label(axes, results, task, name)
    return figure


def _panels(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(task, name) for task, name in PANELS if task in results["sets"]]


def _grid(count: int) -> "tuple[Figure, Sequence[Axes]]":
    columns = min(3, count)
    rows = ceil_div(count, columns)
    figure, axes = new_figure("", rows=rows, columns=columns, size=(4 * columns, 3.2 * rows))
    flat = [axes] if count == 1 else list(axes.flat)
    for unused in flat[count:]:
        unused.set_visible(False)
    return figure, flat[:count]


def _label(axes: "Axes", results: Mapping[str, Any], task: str, name: str) -> None:
    better = next(iter(results["models"].values()))["figures"][task][name]["higher_is_better"]
    mark = results["sets"][task]["mark"]
    title = f"{TITLES[task]}: {LABELS[name]} {'↑' if better else '↓'}"
    axes.set_title(f"{title}\n{mark}" if mark else title, fontsize=9)
    axes.grid(axis="y", alpha=0.3)
