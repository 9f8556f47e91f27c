"""A self-contained HTML page with benchmark results."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline.evaluation.svg_charts import comparison_panels, training_panels
from pipeline.evaluation.text_report import speed_cells
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
    set_text,
    shows_chance,
    title_of,
)
from pipeline.web.theme import theme_css

_STYLE = """
main { max-width: 62rem; margin: 0 auto; padding: 24px 16px 48px; overflow-wrap: anywhere; }
.scroll { margin-bottom: 10px; position: relative; } table { min-width: min(100%, 34rem); }
th, td { overflow-wrap: normal; } th.number, td.number { padding: 6px 6px 6px 16px; }
th[scope=row] { color: var(--text); font-weight: 400; font-size: 14px; min-width: 9rem; }
td span.muted { display: block; font-size: 13px; font-weight: 400; }
td.best { background: var(--accent-soft); font-weight: 600; }
.words { margin: 0; padding-left: 1.2rem; } .panels { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
figure { margin: 0; background: var(--surface); border: 1px solid var(--border); border-radius: var(--radius);
  padding: 10px 12px; } figcaption { font-weight: 600; font-size: 13px; margin-bottom: 6px; }
svg { display: block; width: 100%; height: auto; } svg text { font: 12px var(--sans); }
blockquote { margin: 0 0 10px; padding: 2px 0 2px 12px; border-left: 3px solid var(--accent); white-space: pre-line; }
@media (max-width: 640px) { th.number, td.number { padding-left: 12px; } th[scope=row] { min-width: 7rem; } }
"""


def benchmark_page(results: Mapping[str, Any], *, over_training: bool = False) -> str:
    """The results as HTML, with charts if there are several models."""
    models = results["models"]
    heading = f"{len(models)} checkpoints of a run" if over_training else ", ".join(models)
    facts = " · ".join((results["created"], results["settings"]["preset"], results["settings"]["device"]))
    note = caveat(results)
    parts = [
        f"<h1>Benchmark: {escape(heading)}</h1>",
        f'<p class="muted">{escape(facts)}</p>',
        f'<p class="notice warning">{escape(note)}</p>' if note else "",
        _in_words(models),
        _charts(results, over_training=over_training),
        *(_task(results, task) for task in results["sets"]),
        _ranking(results),
        _reading(results),
        _contamination(models),
        _speed(models),
        _samples(models),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Benchmark: {escape(heading)}</title><style>{theme_css()}{_STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(parts)}</main></body></html>\n'


def _in_words(models: Mapping[str, Any]) -> str:
    """What the scores say; left out for many models, where the charts say more."""
    sentences = {name: in_words(model) for name, model in models.items()}
    if len(models) > 3 or not any(sentences.values()):
        return ""
    parts = ["<h2>In words</h2>"]
    for name, found in sentences.items():
        parts.append(f"<h3>{escape(name)}</h3>" if len(models) > 1 else "")
        parts.append(f'<ul class="words">{"".join(f"<li>{escape(sentence)}</li>" for sentence in found)}</ul>')
    return "".join(parts)


def _charts(results: Mapping[str, Any], *, over_training: bool) -> str:
    if len(results["models"]) < 2:
        return ""
    panels = training_panels(results) if over_training else comparison_panels(results)
    return f'<h2>Comparison</h2><div class="panels">{"".join(panels)}</div>'


def _task(results: Mapping[str, Any], task: str) -> str:
    models = results["models"]
    names = models if len(models) > 1 else ("value", "95% interval")
    headings = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in names)
    rows = []
    first = next(iter(models.values()))["figures"][task]
    for name, figure in first.items():
        cells = _cells(task, name, results)
        label = escape(label_with_arrow(name, figure)).replace(" ↓", "&nbsp;↓").replace(" ↑", "&nbsp;↑")
        rows.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    table = f'<thead><tr><th scope="col">score</th>{headings}</tr></thead><tbody>{"".join(rows)}</tbody>'
    introduction = f'<h2>{escape(title_of(task))}</h2><p class="muted">{escape(set_text(results, task))}</p>'
    notes = "".join(f'<p class="muted">{escape(note)}</p>' for note in notes_of(first))
    return introduction + _scrolling(table, f"Scores: {title_of(task)}") + notes


def _cells(task: str, name: str, results: Mapping[str, Any]) -> str:
    """A cell for each model; for a single one, its interval has a column of its own."""
    best = results["comparisons"].get(f"{task}.{name}", {}).get("best")
    cells = []
    for model, result in results["models"].items():
        figure = result["figures"][task][name]
        value, interval = escape(score_text(figure)), escape(interval_text(figure))
        if len(results["models"]) == 1:
            cells.append(f'<td class="number">{value}</td><td class="number muted">{interval}</td>')
        elif model == best:
            mark = '<span class="visually-hidden">best: </span>'
            cells.append(f'<td class="number best">{mark}{value}<span class="muted">{interval}</span></td>')
        else:
            cells.append(f'<td class="number">{value}<span class="muted">{interval}</span></td>')
    return "".join(cells)


def _scrolling(table: str, label: str) -> str:
    """A table that scrolls sideways when it is wider than the screen, also with the keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>{table}</table></div>'


def _ranking(results: Mapping[str, Any]) -> str:
    if not results["ranking"]:
        return ""
    items = "".join(
        f'<li value="{ranked["place"]}">{escape(ranked["model"])}, mean rank {ranked["mean_rank"]:.2f}</li>'
        for ranked in results["ranking"]
    )
    return f"<h2>Ranking over all scores</h2><ol>{items}</ol>"


def _reading(results: Mapping[str, Any]) -> str:
    parts = [INTERVALS, "↑ higher is better, ↓ lower is better."]
    if shows_chance(results):
        parts.append(ABOVE_CHANCE)
    if len(results["models"]) > 1:
        parts.append("A score is highlighted if it is better than every other model's with p < 0.05.")
    parts.append(results["settings"]["rules"])
    return f"<h2>How to read the scores</h2><p>{escape(' '.join(parts))}</p>"


def _contamination(models: Mapping[str, Any]) -> str:
    parts = []
    for name, text in contamination_text(models).items():
        parts.append(f"<h3>{escape(name)}</h3>" if name else "")
        parts.append(f"<p>{escape(text)}</p>")
    return f"<h2>Was the model trained on the test texts?</h2>{''.join(parts)}"


def _speed(models: Mapping[str, Any]) -> str:
    titles = ("parameters", "weights", "prompt tokens/s", "new tokens/s")
    header = '<th scope="col">model</th>' + "".join(f'<th scope="col" class="number">{title}</th>' for title in titles)
    rows = ""
    for name, model in models.items():
        cells = "".join(f'<td class="number">{escape(cell)}</td>' for cell in speed_cells(model["speed"]))
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return "<h2>Speed</h2>" + _scrolling(f"<thead><tr>{header}</tr></thead><tbody>{rows}</tbody>", "Speed")


def _samples(models: Mapping[str, Any]) -> str:
    samples = {name: model["sample"] for name, model in models.items() if model["sample"]}
    if not samples:
        return ""
    parts = ["<h2>Samples</h2>"]
    for name, sample in samples.items():
        parts.append(f"<h3>{escape(name)}</h3>" if len(models) > 1 else "")
        text = re.sub(r"\n\s*\n", "\n\n", sample["text"])
        parts.append(f"<blockquote><strong>{escape(sample['prompt'])}</strong>{escape(text)}</blockquote>")
    return "".join(parts)
