"""A self-contained HTML page with benchmark results."""

import base64
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.text_report import LABELS, TITLES, figure_text, speed_cells
from utils.plots import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c1e21 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th, td { padding: .35rem .6rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr + tr { border-top: 1px solid #dde1e6 }
.best { background: #e3f4e6; font-weight: 600 } .mark { color: #9a5b00 } .quiet { color: #667; font-size: .9rem }
img { max-width: 100% } blockquote { margin: .5rem 0; padding-left: 1rem; border-left: 3px solid #dde1e6 }
@media (prefers-color-scheme: dark) { body { background: #16181b; color: #e6e8ea } .best { background: #1e3a26 }
  tr + tr { border-color: #333 } img { background: #fff } .mark { color: #ffb454 } }
"""


def benchmark_page(results: Mapping[str, Any], chart: "Figure | None") -> str:
    """The results as HTML, with the chart embedded."""
    models = results["models"]
    parts = [
        f"<h1>Benchmark: {escape(', '.join(models))}</h1>",
        f"<p class=quiet>{escape(results['created'])} · {escape(results['settings']['preset'])} · "
        f"{escape(results['settings']['device'])} · {escape(results['settings']['rules'])}</p>",
        _picture(chart),
        *(_task_part(results, task) for task in results["sets"]),
        _ranking_part(results),
        "<h2>Contamination</h2>",
        *(_contamination(name, model) for name, model in models.items()),
        "<h2>Speed</h2>",
        _speed_part(models),
        "<h2>Samples</h2>",
        *(_sample(name, model) for name, model in models.items()),
    ]
    head = f"<meta charset=utf-8><title>Benchmark</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _picture(chart: "Figure | None") -> str:
    if chart is None:
        return ""
    encoded = base64.b64encode(png_bytes(chart)).decode()
    return f'<img alt="Scores of the models side by side" src="data:image/png;base64,{encoded}">'


def _task_part(results: Mapping[str, Any], task: str) -> str:
    data, models = results["sets"][task], results["models"]
    mark = f" <span class=mark>{escape(data['mark'])}</span>" if data["mark"] else ""
    heading = f"<h2>{escape(TITLES[task])}</h2><p class=quiet>{data['items']:,} items from {escape(data['origin'])}</p>"
    rows = ["<tr><th>score</th>" + "".join(f"<th>{escape(name)}</th>" for name in models) + "</tr>"]
    for name, figure in next(iter(models.values()))["figures"][task].items():
        best = results["comparisons"].get(f"{task}.{name}", {}).get("best")
        cells = ""
        for model, result in models.items():
            mark_best = " class=best" if model == best else ""
            cells += f"<td{mark_best}>{escape(figure_text(result['figures'][task][name]))}</td>"
        arrow = "↑" if figure["higher_is_better"] else "↓"
        note = f" <span class=quiet>({escape(figure['note'])})</span>" if figure["note"] else ""
        rows.append(f"<tr><td>{LABELS[name]} {arrow}{note}{mark}</td>{cells}</tr>")
    return f"{heading}<table>{''.join(rows)}</table>"


def _ranking_part(results: Mapping[str, Any]) -> str:
    if not results["ranking"]:
        return ""
    items = "".join(
        f"<li value={ranked['place']}>{escape(ranked['model'])}, mean rank {ranked['mean_rank']:.2f}</li>"
        for ranked in results["ranking"]
    )
    best = "<p class=quiet>A score is highlighted if it is better than every other model's with p &lt; 0.05.</p>"
    return f"<h2>Ranking over all scores</h2><ol>{items}</ol>{best}"


def _contamination(name: str, model: Mapping[str, Any]) -> str:
    states = "; ".join(f"{TITLES[task]}: {state}" for task, state in model["contamination"].items())
    return f"<p>{escape(name)}: {escape(states)}</p>"


def _speed_part(models: Mapping[str, Any]) -> str:
    header = ("model", "parameters", "memory of weights", "reading, tokens/s", "writing, tokens/s")
    rows = ["<tr>" + "".join(f"<th>{title}</th>" for title in header) + "</tr>"]
    for name, model in models.items():
        cells = "".join(f"<td>{cell}</td>" for cell in speed_cells(model["speed"]))
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _sample(name: str, model: Mapping[str, Any]) -> str:
    sample = model["sample"]
    if sample is None:
        return ""
    return f"<p>{escape(name)}</p><blockquote><b>{escape(sample['prompt'])}</b>{escape(sample['text'])}</blockquote>"
