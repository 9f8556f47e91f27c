"""How benchmark results are shown: intervals, words for poor models, charts, and text in 80 columns."""

import math
from xml.etree import ElementTree

import pytest

from benchmark import format_benchmark_results
from pipeline.evaluation.charts import comparison_chart, training_chart
from pipeline.evaluation.html_report import benchmark_page
from pipeline.evaluation.statistics import Figure, standard_error
from pipeline.evaluation.svg_charts import comparison_panels, training_panels
from pipeline.evaluation.text_report import summarize_benchmark_results
from pipeline.evaluation.wording import in_words, score_with_interval


def test_charts_show_the_figures():
    results = made_up_results({"a": 0.3, "b": 0.7}, steps={"a": 20, "b": 10})
    assert [bar.get_height() for bar in comparison_chart(results).axes[0].patches] == [30.0, 70.0]
    curve = training_chart(results).axes[0].lines[0]
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([10, 20], [70.0, 30.0])


def test_charts_on_the_page_describe_their_numbers():
    results = made_up_results({"a": 0.3, "<b>": 0.7}, steps={"a": 20, "<b>": 10})
    (panel,) = comparison_panels(results)
    assert 'aria-label="LAMBADA: accuracy ↑. a 30.0% (25.0–35.0%); &lt;b&gt; 70.0% (65.0–75.0%)"' in panel
    (curve,) = training_panels(results)
    assert curve.count("<circle") == 2
    assert ElementTree.fromstring(panel.replace("&nbsp;", " ")).tag == "figure"


def test_a_chart_survives_a_score_beyond_measure():
    results = made_up_results({"a": None, "b": 0.7}, steps={"a": 1, "b": 2})
    assert comparison_chart(results)
    assert training_chart(results)
    assert "over 100,000" in comparison_panels(results)[0] + training_panels(results)[0]


def made_up_results(accuracies: dict, *, steps: dict | None = None) -> dict:
    """Results of LAMBADA only."""
    figure = {"stderr": 0.02, "items": 9, "higher_is_better": True, "unit": "share", "note": ""}
    models = {}
    for model, value in accuracies.items():
        interval = None if value is None else [value - 0.05, value + 0.05]
        found = {"acc": {**figure, "value": value, "interval": interval}}
        facts = {"contamination": {"lambada": "not checked"}, "speed": None, "sample": None, "items": {"lambada": []}}
        models[model] = {"figures": {"lambada": found}, "step": (steps or {}).get(model), **facts}
    described = {"items": 9, "total": 9, "origin": "a.jsonl", "mark": ""}
    settings = {"preset": "full", "device": "cpu", "rules": "Rules."}
    return {
        "created": "now",
        "settings": settings,
        "sets": {"lambada": described},
        "models": models,
        "comparisons": {},
        "ranking": [],
    }


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12, 30])
def test_the_text_report_fits_into_80_columns(count):
    names = [f"sft_lima_2026_11_25_02_{number:02}_with_a_name" for number in range(count)]
    results = made_up_results(dict.fromkeys(names, 0.5))
    text = format_benchmark_results(results)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("50.0%") >= count
    assert max(map(len, summarize_benchmark_results(results).splitlines())) <= 80


def test_a_perplexity_has_the_interval_of_its_loss():
    losses = [2.0, 9.0, 1.0, 14.0, 30.0]
    figure = Figure(losses, scale="exp", higher_is_better=False)
    low, high = figure.interval
    error = 1.959964 * standard_error(losses)
    assert (low, high) == pytest.approx((figure.value * math.exp(-error), figure.value * math.exp(error)))
    assert 0 < low < figure.value < high


def test_intervals_of_shares_and_points_stay_within_reach():
    assert Figure([0.0] * 16, is_yes_no=True, unit="share").interval == pytest.approx((0.0, 0.194), abs=1e-3)
    low, high = Figure([0.0, 0.0, 100.0], unit="points").interval
    assert (low, high) == (0.0, pytest.approx(98.7, abs=0.1))
    assert Figure([3.0], scale="exp").interval is None


def test_a_model_worse_than_guessing_is_described_in_words():
    def perplexity(value: float) -> dict:
        return {"value": value, "interval": [value / 9, value * 9], "unit": "", "higher_is_better": False, "items": 9}

    bits = {"value": 8.5, "interval": [8.1, 8.9], "unit": "bits", "higher_is_better": False, "items": 9}
    model = {"figures": {"wikitext": {"bits_per_byte": bits, "token_perplexity": perplexity(40_000.0)}}}
    words = " ".join(in_words({**model, "vocab_size": 32_016}))
    assert "worse than picking one of all 32,016 at random" in words
    assert score_with_interval(perplexity(12_203_602.0)) == "over 100,000"
    assert score_with_interval(perplexity(50_000.0)) == "50,000 (5,556–100,000+)"


def test_only_a_comparison_has_charts():
    assert benchmark_page(made_up_results({"a": 0.3, "b": 0.7})).count("<svg") == 1
    page = benchmark_page(made_up_results({"a": 0.3}))
    assert "<svg" not in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("", ""),
        ("sample, not comparable", "small built-in samples"),
        ("20 of 500, not comparable", "Use --full"),
        ("custom passages, not comparable", "9 items from a.jsonl [custom passages, not comparable]"),
    ],
)
def test_a_report_says_once_why_scores_are_not_comparable(mark, told):
    results = made_up_results({"a": 0.3})
    results["sets"]["lambada"]["mark"] = mark
    for report in (format_benchmark_results(results), benchmark_page(results)):
        assert told in " ".join(report.split())
        assert report.count("not comparable") == bool(mark)
