"""Benchmark results as text of at most 80 columns: a summary for the terminal, and benchmark_<timestamp>.txt."""

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from string import ascii_uppercase
from typing import Any

from pipeline.evaluation.wording import (
    ABOVE_CHANCE,
    INTERVALS,
    caveat,
    contamination_text,
    in_words,
    interval_text,
    label_with_arrow,
    notes_of,
    score_text,
    score_with_interval,
    set_text,
    shows_chance,
    title_of,
)
from utils.arithmetic import ceil_div
from utils.terminal import format_bytes, format_count, format_table, styled, visible
from utils.text_layout import columns, wrap

WIDTH = 80
ARROWS = "↑ higher is better, ↓ lower is better."
BEST = "* better than every other model's, p < 0.05."
_LONGEST_NAME = 16  # of a column; longer names are replaced with letters
_SHOW_SAMPLES = 6

# What the summary shows of a task; of one that is not listed, the first of _KEY_FIGURES that it has.
_KEY_FIGURES_OF = {
    "wikitext": ("bits_per_byte", "word_perplexity"),
    "lambada": ("acc", "perplexity"),
    "completion": ("rougeL",),
}
_KEY_FIGURES = ("acc_norm", "acc")

Names = Mapping[str, str]  # model → its heading in tables
Rows = Sequence[tuple[str, str, str]]  # task, figure, label


def format_benchmark_results(results: Mapping[str, Any], *, colour: bool = False) -> str:
    """The full report as text; the best score is marked ``*`` only if the difference is significant."""
    models = results["models"]
    names = _headings(models)
    sections = [
        _introduction(results, names),
        _words(results, names),
        *(_task(results, task, names, colour) for task in results["sets"]),
        ["Was the model trained on the test texts?", *_contamination(models, names)],
        ["Ranking (mean rank over all scores)", *_ranking(results["ranking"])] if results["ranking"] else [],
        ["Speed", *_speed(models, names)],
        _samples(models, names),
        _legend(results),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def summarize_benchmark_results(results: Mapping[str, Any], *, colour: bool = False) -> str:
    """The key figures of each task and the ranking; one screen for one or two models."""
    names = _headings(results["models"])
    rows = [row for task in results["sets"] for row in _key_rows(results, task)]
    sections = [
        _introduction(results, names),
        _words(results, names) if len(names) == 1 else [],
        _coloured(_score_table(results, rows, names), colour) if rows else [],
        ["Ranking (mean rank over all scores)", *_ranking(results["ranking"])] if results["ranking"] else [],
        _paragraph(" ".join(_explanations(results, rows)), indent=""),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _key_rows(results: Mapping[str, Any], task: str) -> Rows:
    figures = next(iter(results["models"].values()))["figures"][task]
    fallback = [name for name in (*_KEY_FIGURES, *figures) if name in figures][:1]
    shown = [name for name in _KEY_FIGURES_OF.get(task, ()) if name in figures] or fallback
    title = title_of(task).partition(" (")[0]
    return [(task, name, f"{title} {label_with_arrow(name, figures[name])}") for name in shown]


def _headings(models: Mapping[str, Any]) -> dict[str, str]:
    """Letters, or numbers, for several models if a name is too long for a column."""
    if len(models) == 1 or max(map(len, models)) <= _LONGEST_NAME:
        return {name: visible(name) for name in models}
    marks = ascii_uppercase if len(models) <= len(ascii_uppercase) else map(str, count(1))
    return dict(zip(models, marks, strict=False))


def _introduction(results: Mapping[str, Any], names: Names) -> list[str]:
    letters = [f"  {names[name]}: {visible(name)}" for name in names if names[name] != visible(name)]
    models = f"{len(names)} models" if letters else visible(", ".join(names))
    note = caveat(results)
    title = _paragraph(f"{results['settings']['preset']} benchmark of {models}", indent="")
    return [*title, *letters, *(_paragraph(note, indent="") if note else [])]


def _words(results: Mapping[str, Any], names: Names) -> list[str]:
    """What the scores say; left out for many models, where the tables say more."""
    if len(names) > 3 or not any(in_words(model) for model in results["models"].values()):
        return []
    lines = ["In words"]
    for name, model in results["models"].items():
        start = f"{names[name]}: " if len(names) > 1 else ""
        lines += _paragraph(start + " ".join(in_words(model)))
    return lines


def _task(results: Mapping[str, Any], task: str, names: Names, colour: bool) -> list[str]:
    first = next(iter(results["models"].values()))["figures"][task]
    rows = [(task, name, label_with_arrow(name, figure)) for name, figure in first.items()]
    lines = _coloured(_score_table(results, rows, names), colour)
    heading = _paragraph(f"{title_of(task)}: {visible(set_text(results, task))}", indent="")
    return [*heading, *lines, *(line for note in notes_of(first) for line in _paragraph(note))]


def _coloured(table: Sequence[str], colour: bool) -> list[str]:
    return [styled(line, "green") if colour and " *" in line else line for line in table]


def _score_table(results: Mapping[str, Any], rows: Rows, names: Names) -> list[str]:
    """A table of these models, with intervals if that fits and without if not; in two parts if neither fits."""
    if len(results["models"]) == 1:
        return _single_table(results, rows)
    for cell in (score_with_interval, score_text):
        table = _table_of(results, rows, names, cell)
        if max(map(columns, table)) <= WIDTH or len(names) == 1:
            return table
    halves = list(names.items())
    middle = ceil_div(len(halves), 2)
    parts = [_score_table(results, rows, dict(half)) for half in (halves[:middle], halves[middle:])]
    return [*parts[0], "", *parts[1]]


def _table_of(
    results: Mapping[str, Any], rows: Rows, names: Names, cell: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    models = results["models"]
    table = [["score", *names.values()]]
    for task, name, label in rows:
        best = results["comparisons"].get(f"{task}.{name}", {}).get("best")
        cells = [cell(models[model]["figures"][task][name]) + (" *" if model == best else "") for model in names]
        table.append([label, *cells])
    return format_table(table, right=range(1, len(names) + 1), width=sys.maxsize).split("\n")


def _single_table(results: Mapping[str, Any], rows: Rows) -> list[str]:
    (model,) = results["models"].values()
    table = [["score", "", "95% interval"]]
    for task, name, label in rows:
        figure = model["figures"][task][name]
        table.append([label, score_text(figure), interval_text(figure)])
    return format_table(table, right=(1, 2), width=sys.maxsize).split("\n")


def _contamination(models: Mapping[str, Any], names: Names) -> list[str]:
    texts = {names.get(name, ""): visible(text) for name, text in contamination_text(models).items()}
    return [line for name, text in texts.items() for line in _paragraph(f"{name}: {text}" if name else text)]


def _ranking(ranking: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"  {ranked['place']}. {visible(ranked['model'])}  {ranked['mean_rank']:.2f}" for ranked in ranking]


def _speed(models: Mapping[str, Any], names: Names) -> list[str]:
    if len(models) == 1:
        (model,) = models.values()
        parameters, weights, reading, writing = speed_cells(model["speed"])
        return _paragraph(
            f"{parameters} parameters, {weights} of weights; {reading} prompt tokens/s, {writing} new tokens/s"
        )
    rows = [["model", "parameters", "weights", "prompt tokens/s", "new tokens/s"]]
    rows += [[names[name], *speed_cells(model["speed"])] for name, model in models.items()]
    return format_table(rows, right=range(1, 5), width=sys.maxsize).split("\n")


def _samples(models: Mapping[str, Any], names: Names) -> list[str]:
    """The sample of each model that has one."""
    samples = {names[name]: model["sample"] for name, model in models.items() if model["sample"]}
    if not samples:
        return []
    lines = ["Samples"]
    for name, sample in list(samples.items())[:_SHOW_SAMPLES]:
        text = " ".join(visible(f"{sample['prompt']}{sample['text']}").split())
        lines += _paragraph(f"{name}: {text}" if len(models) > 1 else text)
    return lines


def _explanations(results: Mapping[str, Any], rows: Rows) -> list[str]:
    """What the signs of the summary mean; intervals have a heading of their own for one model."""
    if len(results["models"]) == 1:
        return [ARROWS]
    best = any(results["comparisons"].get(f"{task}.{name}", {}).get("best") for task, name, _ in rows)
    return ["In parentheses: 95% interval.", ARROWS, *([BEST] if best else [])]


def _legend(results: Mapping[str, Any]) -> list[str]:
    parts = [INTERVALS, ARROWS]
    if shows_chance(results):
        parts.append(ABOVE_CHANCE)
    if len(results["models"]) > 1:
        parts.append(BEST)
    return _paragraph(" ".join([*parts, results["settings"]["rules"]]), indent="")


def _paragraph(text: str, *, indent: str = "  ") -> list[str]:
    return wrap(indent + text, WIDTH, indent=indent)


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
