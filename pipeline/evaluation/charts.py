"""Charts: models beside each other, and one run's checkpoints over its steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.text_report import LABELS, TITLES
from utils.plots import new_figure

# One figure a panel: what people look at first.
PANELS = (
    ("wikitext", "bits_per_byte"),
    ("lambada", "acc"),
    ("hellaswag", "acc_norm"),
    ("wikitext", "next_token_top1"),
    ("wikitext", "word_perplexity"),
    ("completion", "rougeL"),
)


def comparison_chart(results: Mapping[str, Any]) -> Any:
    """A bar for each model in each panel, with error bars of one standard error."""
    panels = [each for each in PANELS if each[0] in results["sets"]]
    figure, grid = _grid("", len(panels))
    for axes, (task, name) in zip(grid, panels, strict=True):
        for place, each in enumerate(results["models"].values()):
            value = each["figures"][task][name]
            axes.bar(place, value["value"] or 0, yerr=value["stderr"] or 0, capsize=4, width=0.6)
        axes.set_xticks(range(len(results["models"])), list(results["models"]), rotation=20, ha="right", fontsize=8)
        _label(axes, results, task, name)
    return figure


def training_chart(results: Mapping[str, Any]) -> Any:
    """Curves over the steps of the checkpoints that `results` are of."""
    steps = {model: result["step"] for model, result in results["models"].items()}
    panels = [each for each in PANELS if each[0] in results["sets"]]
    figure, grid = _grid("", len(panels))
    names = sorted(results["models"], key=lambda model: steps[model])
    for axes, (task, name) in zip(grid, panels, strict=True):
        values = [results["models"][model]["figures"][task][name] for model in names]
        heights = [each["value"] if each["value"] is not None else float("nan") for each in values]
        errors = [each["stderr"] or 0 for each in values]
        axes.errorbar([steps[model] for model in names], heights, yerr=errors, marker="o", markersize=4, capsize=3)
        axes.set_xlabel("step")
        _label(axes, results, task, name)
    return figure


def _grid(title: str, count: int) -> tuple[Any, Sequence[Any]]:
    columns = min(3, count)
    rows = -(-count // columns)
    figure, axes = new_figure(title, rows=rows, columns=columns, size=(4 * columns, 3.2 * rows))
    flat = [axes] if count == 1 else list(axes.flat)
    for unused in flat[count:]:
        unused.set_visible(False)
    return figure, flat[:count]


def _label(axes: Any, results: Mapping[str, Any], task: str, name: str) -> None:
    better = next(iter(results["models"].values()))["figures"][task][name]["higher_is_better"]
    mark = results["sets"][task]["mark"]
    title = f"{TITLES[task]}: {LABELS[name]} {'↑' if better else '↓'}"
    axes.set_title(f"{title}\n{mark}" if mark else title, fontsize=9)
    axes.grid(axis="y", alpha=0.3)
