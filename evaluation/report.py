"""Results as text: the table in the terminal and benchmark_<timestamp>.txt."""

from collections.abc import Mapping
from typing import Any

from utils.terminal import format_bytes, format_count, format_table, styled

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
    """The whole report as text; the best figure is marked ``*`` only where the difference is more than noise."""
    models = results["models"]
    lines = [f"{results['settings']['preset']} benchmark of {', '.join(models)}", ""]
    for task, data in results["sets"].items():
        lines += [_task_heading(task, data), _task_table(results, task, colour), *_notes(results, task), ""]
    lines += ["Contamination", *_contamination_lines(models), ""]
    if results["ranking"]:
        lines += ["Ranking (mean rank over all figures)", *_ranking_lines(results["ranking"]), ""]
    lines += ["Speed", _speed_table(models), "", "Samples"]
    lines += [f"  {name}: {each['sample']['prompt']}{each['sample']['text']}" for name, each in models.items()]
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
    decimals = 0 if abs(value) >= 1000 else 2 if abs(value) >= 1 else 4
    return f"{value:,.{decimals}f}"


def _task_heading(task: str, data: Mapping[str, Any]) -> str:
    mark = f" [{data['mark']}]" if data["mark"] else ""
    return f"{TITLES[task]}: {data['items']:,} items from {data['origin']}{mark}"


def _task_table(results: Mapping[str, Any], task: str, colour: bool) -> str:
    models, mark = results["models"], results["sets"][task]["mark"]
    names = next(iter(models.values()))["figures"][task]
    rows = [("figure", *models, *([""] if mark else []))]
    for name, figure in names.items():
        direction = "↑" if figure["higher_is_better"] else "↓"
        best = results["comparisons"].get(f"{task}.{name}", {}).get("best")
        cells = [
            figure_text(each["figures"][task][name]) + (" *" if model == best else "") for model, each in models.items()
        ]
        rows.append((f"{LABELS[name]} {direction}", *cells, *([mark] if mark else [])))
    table = format_table(rows, right=range(1, len(models) + 1))
    if not colour:
        return table
    return "\n".join(styled(line, "green") if " *" in line else line for line in table.split("\n"))


def _notes(results: Mapping[str, Any], task: str) -> list[str]:
    figures = next(iter(results["models"].values()))["figures"][task]
    return [f"  {LABELS[name]}: {figure['note']}" for name, figure in figures.items() if figure["note"]]


def _contamination_lines(models: Mapping[str, Any]) -> list[str]:
    return [
        f"  {name}: " + "; ".join(f"{TITLES[task]} {state}" for task, state in each["contamination"].items())
        for name, each in models.items()
    ]


def _ranking_lines(ranking: list[dict[str, Any]]) -> list[str]:
    return [f"  {place}. {each['model']}  {each['mean_rank']:.2f}" for place, each in enumerate(ranking, start=1)]


def _speed_table(models: Mapping[str, Any]) -> str:
    rows = [("model", "parameters", "weights", "reads tokens/s", "writes tokens/s")]
    for name, each in models.items():
        speed = each["speed"]
        rows.append(
            (
                name,
                format_count(speed["parameters"]),
                format_bytes(speed["weight_bytes"]),
                f"{speed['reading_tokens_per_second']:,.0f}",
                f"{speed['writing_tokens_per_second']:,.0f}",
            )
        )
    return format_table(rows, right=range(1, 5))
