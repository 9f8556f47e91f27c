"""Benchmark results as plain values: the JSON report, on which the others are based."""

import math
from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.benchmark_sets import BenchmarkSet
from pipeline.evaluation.statistics import AnyFigure, compare, rank_models
from pipeline.evaluation.task import TaskResult

FORMAT_VERSION = 1
NOT_COMPARABLE = "sample, not comparable"
# Not in the ranking, because each is a variant of a score that is.
UNRANKED = {
    "byte_perplexity",
    "word_perplexity_corrected",
    "token_perplexity",
    "acc_corrected",
    "perplexity_corrected",
    "acc_above_chance",
    "acc_norm_above_chance",
}


def set_description(data: BenchmarkSet, *, offline_samples: bool) -> dict[str, Any]:
    """`mark` is shown next to scores that are not comparable with published ones."""
    mark = "" if data.comparable else f"{len(data.items):,} of {data.total:,}, not comparable"
    if offline_samples:
        mark = NOT_COMPARABLE
    return {"origin": data.origin, "files": data.files, "items": len(data.items), "total": data.total, "mark": mark}


def figure_values(figure: AnyFigure) -> dict[str, Any]:
    value = figure.value
    error = figure.stderr
    interval = figure.interval
    return {
        "value": value if math.isfinite(value) else None,
        "stderr": error if error is not None and math.isfinite(error) else None,
        "interval": list(interval) if interval is not None and all(map(math.isfinite, interval)) else None,
        "items": figure.count,
        "higher_is_better": figure.higher_is_better,
        "unit": figure.unit,
        "note": figure.note,
    }


def model_result(tasks: Mapping[str, TaskResult]) -> dict[str, Any]:
    """The scores and items of one model by task."""
    return {
        "figures": {
            task: {name: figure_values(figure) for name, figure in result.figures.items()}
            for task, result in tasks.items()
        },
        "items": {task: result.items for task, result in tasks.items()},
    }


def comparisons(results: Mapping[str, Mapping[str, TaskResult]]) -> dict[str, dict[str, Any]]:
    """{``task.figure``: the best model, and the p-values of all pairs} for two or more models."""
    if len(results) < 2:
        return {}
    first = next(iter(results.values()))
    return {
        f"{task}.{name}": compare({model: tasks[task].figures[name] for model, tasks in results.items()})
        for task in first
        for name in first[task].figures
    }


def ranking(compared: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Models from best to worst; those with the same mean rank share a place."""
    ranked = rank_models({name: found for name, found in compared.items() if name.rpartition(".")[2] not in UNRANKED})
    ranks = [rank for _, rank in ranked]
    return [{"place": 1 + ranks.index(rank), "model": model, "mean_rank": rank} for model, rank in ranked]
