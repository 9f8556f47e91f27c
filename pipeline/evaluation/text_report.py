"""Benchmark results as text, for the terminal and benchmark_<timestamp>.txt."""

import sys
from collections.abc import Mapping
from typing import Any

from utils.terminal import format_bytes, format_count, format_table, styled, visible

TITLES = {
    "wikitext": "WikiText-103",
    "lambada": "LAMBADA",
    "hellaswag": "HellaSwag (commonsense)",
    "completion": "Text completion",
}
LABELS = {
    "word_perplexity": "word perplexity",
    "byte_perplexity": "byte perplexity",
    "bits_per_byte": "bits per byte",
    "word_perplexity_corrected": "word perplexity, corrected",
    "token_perplexity": "token perplexity",
    "next_token_top1": "next token, top 1",
    "next_token_top5": "next token, top 5",
    "next_token_top10": "next token, top 10",
    "acc": "accuracy",
    "acc_norm": "accuracy, by length",
    "acc_corrected": "accuracy, corrected",
    "perplexity": "perplexity",
    "perplexity_corrected": "perplexity, corrected",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
}


def format_benchmark_results(results: Mapping[str, Any], *, colour: bool = False) -> str:
    """The full report as text; the best score is marked ``*`` only if the difference is significant.

    Args:
        colour: for the terminal, in colour and no wider than it. A file is the same on every terminal.
    """
    models = results["models"]
    lines = [f"{results['settings']['preset']} benchmark of {visible(', '.join(models))}", ""]
    for task, data in results["sets"].items():
        lines += [_task_heading(task, data), _task_table(results, task, colour), *_notes(results, task), ""]
    lines += ["Contamination", *_contamination_lines(models), ""]
    if results["ranking"]:
        lines += ["Ranking (mean rank over all scores)", *_ranking_lines(results["ranking"]), ""]
    lines += ["Speed", _speed_table(models, colour), "", "Samples", *_sample_lines(models)]
    lines += ["", f"* better than every other model, p < 0.05. {results['settings']['rules']}"]
    return "\n".join(lines) + "\n"


def figure_text(figure: Mapping[str, Any]) -> str:
    """``28.92 ± 0.45 %``; shares as percentages."""
    value, error = figure["value"], figure["stderr"]
    if value is None:
        return "beyond measure"
    if figure["unit"] == "share":
        return f"{100 * value:.2f} %" if error is None else f"{100 * value:.2f} ± {100 * error:.2f} %"
    return _number(value) if error is None else f"{_number(value)} ± {_number(error)}"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def _task_heading(task: str, data: Mapping[str, Any]) -> str:
    mark = f" [{data['mark']}]" if data["mark"] else ""
    return f"{TITLES[task]}: {data['items']:,} items from {visible(data['origin'])}{mark}"


def _task_table(results: Mapping[str, Any], task: str, colour: bool) -> str:
    models = results["models"]
    mark = results["sets"][task]["mark"]
    marks = [mark] if mark else []
    names = next(iter(models.values()))["figures"][task]
    rows = [["figure", *map(visible, models), *("" for _ in marks)]]
    for name, figure in names.items():
        direction = "↑" if figure["higher_is_better"] else "↓"
        best = results["comparisons"].get(f"{task}.{name}", {}).get("best")
        row = [f"{LABELS[name]} {direction}"]
        for model, result in models.items():
            star = " *" if model == best else ""
            row.append(figure_text(result["figures"][task][name]) + star)
        rows.append([*row, *marks])
    table = format_table(rows, right=range(1, len(models) + 1), width=None if colour else sys.maxsize)
    if not colour:
        return table
    return "\n".join(styled(line, "green") if " *" in line else line for line in table.split("\n"))


def _notes(results: Mapping[str, Any], task: str) -> list[str]:
    figures = next(iter(results["models"].values()))["figures"][task]
    return [f"  {LABELS[name]}: {figure['note']}" for name, figure in figures.items() if figure["note"]]


def _contamination_lines(models: Mapping[str, Any]) -> list[str]:
    return [
        f"  {visible(name)}: " + "; ".join(f"{TITLES[task]} {state}" for task, state in model["contamination"].items())
        for name, model in models.items()
    ]


def _ranking_lines(ranking: list[dict[str, Any]]) -> list[str]:
    return [f"  {ranked['place']}. {visible(ranked['model'])}  {ranked['mean_rank']:.2f}" for ranked in ranking]


def _sample_lines(models: Mapping[str, Any]) -> list[str]:
    """The sample of each model that has one."""
    samples = {name: model["sample"] for name, model in models.items() if model["sample"]}
    return [visible(f"  {name}: {sample['prompt']}{sample['text']}") for name, sample in samples.items()]


def _speed_table(models: Mapping[str, Any], colour: bool) -> str:
    rows = [["model", "parameters", "weights", "reads tokens/s", "writes tokens/s"]]
    rows += [[visible(name), *speed_cells(model["speed"])] for name, model in models.items()]
    return format_table(rows, right=range(1, 5), width=None if colour else sys.maxsize)


def speed_cells(speed: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Parameters, memory, reading and writing speed; dashes if they were not measured."""
    if speed is None:
        return ("–",) * 4
    return (
        format_count(speed["parameters"]),
        format_bytes(speed["weight_bytes"]),
        f"{speed['reading_tokens_per_second']:,.0f}",
        f"{speed['writing_tokens_per_second']:,.0f}",
    )
