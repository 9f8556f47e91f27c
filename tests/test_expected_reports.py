"""Reports are exactly as approved; see expected_text.py for how to approve a change."""

from typing import Any

from benchmark import format_benchmark_results
from pipeline.evaluation.html_report import benchmark_page
from pipeline.evaluation.results import comparisons, model_result, ranking
from pipeline.evaluation.statistics import AnyFigure, Figure
from pipeline.evaluation.task import TaskResult
from tests.expected_text import assert_expected


def tasks(losses: list[float], right: int, *, items: int = 40) -> dict[str, TaskResult]:
    """The scores of a model on every kind of task; `losses` are in nats per byte."""
    words = [loss * 6 for loss in losses]
    yes_no = [1.0] * right + [0.0] * (items - right)
    wikitext: dict[str, AnyFigure] = {
        "word_perplexity": Figure(words, scale="exp", higher_is_better=False, note="by the word"),
        "byte_perplexity": Figure(losses, scale="exp", higher_is_better=False, note="by the byte"),
        "bits_per_byte": Figure(losses, scale="bits", higher_is_better=False, unit="bits"),
        "token_perplexity": Figure([loss * 4 for loss in losses], scale="exp", higher_is_better=False),
        "next_token_top1": Figure([right / items] * 3 + [0.5], unit="share"),
    }
    accuracy: dict[str, AnyFigure] = {"acc": Figure(yes_no, is_yes_no=True, unit="share", note="exact")}
    choices: dict[str, AnyFigure] = {
        "acc_norm": Figure(yes_no, is_yes_no=True, unit="share"),
        "acc_norm_above_chance": Figure(yes_no, is_yes_no=True, unit="share", chance=0.25),
    }
    completion: dict[str, AnyFigure] = {"rougeL": Figure([20.0, 31.5, 100 * right / items], unit="points")}
    stories: list[dict[str, object]] = [{"loglikelihoods": [-1.0] * choices} for choices in (4, 4, 2)]
    return {
        "wikitext": TaskResult(wikitext, []),
        "lambada": TaskResult(accuracy, []),
        "hellaswag": TaskResult(choices, stories),
        "completion": TaskResult(completion, []),
    }


def results_of(models: dict[str, dict[str, TaskResult]], marks: tuple[str, ...] = ("", "", "", "")) -> dict[str, Any]:
    compared = comparisons(models)
    speed = {"parameters": 12_345_678, "weight_bytes": 24_700_000}
    speed |= {"reading_tokens_per_second": 12_345.6, "writing_tokens_per_second": 78.4}
    described = {
        name: {
            **model_result(scores),
            "step": 100 * place,
            "vocab_size": 32_016,
            "contamination": {"wikitext": "not checked" if place % 2 else "no overlap", "lambada": "not checked"},
            "speed": speed if place else None,
            "sample": {"prompt": "The <river>", "text": " runs.\n \n\nIt\tdoes."} if place != 1 else None,
        }
        for place, (name, scores) in enumerate(models.items())
    }
    return {
        "created": "2026-01-02 03:04",
        "settings": {"preset": "standard", "device": "cpu", "rules": "Scored as lm-evaluation-harness does."},
        "sets": {
            task: {"items": 1_040, "total": 1_040 if mark == "" else 2_891, "origin": f"{task}.txt", "mark": mark}
            for task, mark in zip(next(iter(models.values())), marks, strict=True)
        },
        "models": described,
        "comparisons": compared,
        "ranking": ranking(compared),
    }


GOOD = tasks([0.70, 0.62, 0.71, 0.66, 0.65, 0.69], 30)
FAIR = tasks([0.92, 0.81, 0.93, 0.86, 0.85, 0.92], 11)
POOR = tasks([4.1, 4.9, 5.2, 4.4, 4.0, 4.6], 0)
THREE = {"good": GOOD, "fair": FAIR, "<poor>": POOR}
FIVE = {f"sft_lima_2026_11_25_02_0{place}": scores for place, scores in enumerate([GOOD, FAIR, POOR, GOOD, FAIR])}


def test_the_benchmark_of_one_model_reads_as_approved():
    results = results_of({"good": GOOD})
    assert_expected("benchmark_of_one.txt", format_benchmark_results(results))
    assert_expected("benchmark_of_one.html", body(benchmark_page(results)))


def test_the_benchmark_of_three_models_reads_as_approved():
    results = results_of(THREE, ("", "20 of 2,891, not comparable", "custom", ""))
    assert_expected("benchmark_of_three.txt", format_benchmark_results(results, colour=True))
    assert_expected("benchmark_of_three.html", body(benchmark_page(results)))


def test_the_benchmark_of_many_models_reads_as_approved():
    results = results_of(FIVE, ("100 of 2,891, not comparable",) * 4)
    assert_expected("benchmark_of_five.txt", format_benchmark_results(results))
    assert_expected("over_training.html", body(benchmark_page(results, over_training=True)))


def body(page: str) -> str:
    """The body, an element a line, so that a difference is easy to see."""
    return page.partition("<body>")[2].replace("><", ">\n<")
