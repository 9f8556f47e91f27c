"""Charts for the page as inline SVG, in the colours of `pipeline/web/theme.css`.

A panel compares one score: a dot and its 95% interval for each model, or a curve over the steps of a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any

from pipeline.evaluation.charts import panels_of
from pipeline.evaluation.wording import label_with_arrow, score_text, score_with_interval, title_of
from utils.text_layout import shorten

WIDTH = 340
_LEFT, _RIGHT = 8, 8
_ROW = 40
_CURVE_HEIGHT = 190
_CURVE_LEFT, _CURVE_BOTTOM = 46, 34
_NUM_COLOURS = 8
_LONGEST_NAME = 36


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` to positions from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """About `count` round numbers between `low` and `high`."""
        rough = (self.high - self.low) / count
        power = 10.0 ** floor(log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first = ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, floor(self.high / step + 1e-9) + 1)]


def comparison_panels(results: Mapping[str, Any]) -> list[str]:
    """A panel for each score in which the models are compared."""
    return [_dots(results["models"], task, name) for task, name in panels_of(results)]


def training_panels(results: Mapping[str, Any]) -> list[str]:
    """A panel for each score, over the steps of the run."""
    return [_curve(results["models"], task, name) for task, name in panels_of(results)]


def _dots(models: Mapping[str, Any], task: str, name: str) -> str:
    figures = {model: result["figures"][task][name] for model, result in models.items()}
    bounds = [bound for figure in figures.values() for bound in _interval(figure)]
    axis = Axis(*_padded(min(bounds, default=0.0), max(bounds, default=1.0)), _LEFT, WIDTH - _RIGHT)
    height = _ROW * len(figures) + 24
    parts = _vertical_grid(axis, height - 20, figures)
    for place, (model, figure) in enumerate(figures.items()):
        top = place * _ROW
        colour = f"var(--series-{place % _NUM_COLOURS + 1})"
        parts.append(_text(_LEFT, top + 14, shorten(model, _LONGEST_NAME)))
        parts.append(_text(WIDTH - _RIGHT, top + 14, score_text(figure), anchor="end", bold=True))
        if figure["value"] is None:
            continue
        low, high = (axis(bound) for bound in _interval(figure))
        centre = top + 25
        parts.append(f'<path d="M{low:.1f} {centre}H{high:.1f}" stroke="{colour}" stroke-width="3" opacity=".55"/>')
        parts.append(f'<circle cx="{axis(figure["value"]):.1f}" cy="{centre}" r="5" fill="{colour}"/>')
    return _panel(task, name, figures, parts, height)


def _curve(models: Mapping[str, Any], task: str, name: str) -> str:
    steps = {model: result["step"] for model, result in models.items()}
    figures = {model: models[model]["figures"][task][name] for model in sorted(models, key=lambda model: steps[model])}
    shown = {model: figure for model, figure in figures.items() if figure["value"] is not None}
    bounds = [bound for figure in shown.values() for bound in _interval(figure)]
    bottom = _CURVE_HEIGHT - _CURVE_BOTTOM
    y = Axis(*_padded(min(bounds, default=0.0), max(bounds, default=1.0)), bottom, 8)
    x = Axis(min(steps.values()), max(steps.values()), _CURVE_LEFT, WIDTH - 16)
    parts = _curve_grid(x, y, figures)
    points = [(x(steps[model]), figure) for model, figure in shown.items()]
    upper = [f"{place:.1f} {y(_interval(figure)[1]):.1f}" for place, figure in points]
    lower = [f"{place:.1f} {y(_interval(figure)[0]):.1f}" for place, figure in reversed(points)]
    line = [f"{place:.1f} {y(figure['value']):.1f}" for place, figure in points]
    if points:
        parts.append(f'<path d="M{"L".join(upper + lower)}Z" fill="var(--series-1)" opacity=".18"/>')
        parts.append(f'<path d="M{"L".join(line)}" fill="none" stroke="var(--series-1)" stroke-width="2"/>')
    for place, figure in points:
        title = f"<title>{escape(score_with_interval(figure))}</title>"
        parts.append(
            f'<circle cx="{place:.1f}" cy="{y(figure["value"]):.1f}" r="3.5" fill="var(--series-1)">{title}</circle>'
        )
    return _panel(task, name, figures, parts, _CURVE_HEIGHT)


def _panel(task: str, name: str, figures: Mapping[str, Mapping[str, Any]], parts: Sequence[str], height: int) -> str:
    """A titled picture whose description has the same numbers."""
    title = f"{title_of(task)}: {label_with_arrow(name, next(iter(figures.values())))}"
    numbers = "; ".join(f"{model} {score_with_interval(figure)}" for model, figure in figures.items())
    label = escape(f"{title}. {numbers}")
    picture = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{picture}</figure>"


def _vertical_grid(axis: Axis, bottom: float, figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    parts = []
    for tick in axis.ticks():
        place = axis(tick)
        parts.append(f'<path d="M{place:.1f} 0V{bottom}" stroke="var(--grid)"/>')
        anchor = "start" if place < 24 else "end" if place > WIDTH - 24 else "middle"
        parts.append(_text(place, bottom + 15, _tick_text(tick, figures), anchor=anchor, muted=True))
    return parts


def _curve_grid(x: Axis, y: Axis, figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    parts = []
    for tick in y.ticks():
        parts.append(f'<path d="M{x.start} {y(tick):.1f}H{x.end}" stroke="var(--grid)"/>')
        parts.append(_text(x.start - 6, y(tick) + 4, _tick_text(tick, figures), anchor="end", muted=True))
    for tick in x.ticks():
        parts.append(_text(x(tick), y.start + 16, f"{tick:,.0f}", anchor="middle", muted=True))
    parts.append(_text((x.start + x.end) / 2, y.start + 30, "step", anchor="middle", muted=True))
    return parts


def _tick_text(tick: float, figures: Mapping[str, Mapping[str, Any]]) -> str:
    unit = next(iter(figures.values()))["unit"]
    return f"{100 * tick:g}%" if unit == "share" else f"{tick:.4g}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False, muted: bool = False) -> str:
    colour = "var(--muted)" if muted else "var(--text)"
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'


def _interval(figure: Mapping[str, Any]) -> tuple[float, float]:
    if figure["value"] is None:
        return 0.0, 0.0
    low, high = figure["interval"] or (figure["value"], figure["value"])
    return low, high


def _padded(low: float, high: float) -> tuple[float, float]:
    """A little more than the range, but not below 0."""
    margin = (high - low) * 0.08 or max(abs(high) * 0.1, 0.05)
    return max(0.0, low - margin), high + margin
