"""Reports are exactly as approved; see expected_text.py for how to approve a change."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Figure_

from benchmark import format_benchmark_results
from pipeline.cleaning.preview import side_by_side
from pipeline.cleaning.report import print_summary
from pipeline.demo import screen
from pipeline.demo.summary import format_commands, format_replies, format_score, next_commands
from pipeline.evaluation.charts import comparison_chart, training_chart
from pipeline.evaluation.html_report import benchmark_page
from pipeline.evaluation.results import comparisons, model_result, ranking
from pipeline.evaluation.statistics import AnyFigure, Figure
from pipeline.evaluation.svg_charts import comparison_panels
from pipeline.evaluation.task import TaskResult
from pipeline.evaluation.text_report import summarize_benchmark_results
from pipeline.exporting.model_card import model_card
from pipeline.modeling.config import ModelConfig
from pipeline.preparation.inspection import format_lengths
from pipeline.preparation.report import summary
from pipeline.tokenization.report import TokenizerReport
from pipeline.tuning.conversations import ConversationOptions, ConversationReport
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
        "answer_bits_per_byte": Figure(losses, scale="bits", higher_is_better=False, unit="bits"),
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


@pytest.mark.parametrize("models", [{"good": GOOD}, {"good": GOOD, "fair": FAIR}], ids=["one", "two"])
def test_the_summary_of_a_benchmark_reads_as_approved(models):
    summary = summarize_benchmark_results(results_of(models, ("20 of 2,891, not comparable",) * 4))
    assert len(summary.splitlines()) <= 21  # of 24, because two lines name the files
    assert_expected(f"benchmark_summary_of_{len(models)}.txt", summary)


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


def loaded_model(**content: object) -> SimpleNamespace:
    shape = {
        "intermediate_size": 160,
        "max_position_embeddings": 96,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = ModelConfig(**shape, vocab_size=32_016, qk_norm="chat_template" not in content)
    model = SimpleNamespace(config=config, num_parameters=lambda: 12_345_678)
    return SimpleNamespace(
        model=model, content=content, is_chat="chat_template" in content, tokenizer=SimpleNamespace(name="a|b")
    )


TRAINING = {"optimizer": "muon", "learning_rate": 0.0003, "batch_size": 16, "gradient_accumulation_steps": 2}
PRETRAINED = {
    "step": 12_000,
    "tokens_seen": 98_304_000,
    "data": {"fingerprint": "abc"},
    "best": {"step": 11_500, "loss": 2.34567891},
}


def test_the_card_of_a_pretrained_model_reads_as_approved():
    config = {"training": TRAINING, "dataset": {"source": "wikipedia", "window": 512}}
    loaded = loaded_model(**PRETRAINED, config=config, versions={"torch": "2.13.0", "nested": {"python": 3.11}})
    assert_expected("card_pretrained.md", model_card(loaded, name="mine", dtype="float32", scores=None))


def test_the_card_of_a_tuned_model_reads_as_approved():
    models = {"good": GOOD, "poor": tasks([800.0, 900.0, 850.0] * 2, 0)}
    loaded = loaded_model(
        chat_template="chatml",
        base=PRETRAINED,
        step=300,
        data={"training_conversations": 1_000, "validation_conversations": 100, "fingerprint": "def"},
        config={"sft": {"learning_rate": 5e-5, "batch_size": 8}, "training": TRAINING},
        before={"loss": 3.5},
        best={"loss": 2.5},
    )
    for name, shown in {"two": models, "one": {"good": GOOD}}.items():
        scores = results_of(shown, ("", "20 of 2,891, not comparable", "", ""))
        card = model_card(loaded, name="mine", dtype="bfloat16", scores=scores)
        assert_expected(f"card_tuned_{name}.md", card)


def test_the_report_on_a_tokenizer_reads_as_approved():
    report = TokenizerReport(1_200, 3_456_789, 3_400_000, 900_000, 12_345, 6_789, seconds=0.5)
    assert_expected("tokenizer_report.txt", report.table() + "\n\n" + TokenizerReport().table())


def test_the_summary_of_cleaning_reads_as_approved(capsys):
    totals = {
        "read": 12_345,
        "articles": 10_000,
        "rejected": 5,
        "removed_articles": {"redirect": 2_000, "too short": 340},
        "removed_parts": {f"part {number}": 1_000 * number for number in range(20)},
        "unknown_types": {"chart": 1_200, "map": 3},
    }
    nothing = totals | {"rejected": 0, "removed_parts": {}, "unknown_types": {}}
    for found, leftovers in ((totals, ["cleaned_old.txt"]), (nothing, [])):
        cleaning = SimpleNamespace(
            report=lambda found=found: {"totals": found},
            directory=Path("cleaned"),
            jobs=[1, 2],
            results={"a": {"bytes": 5 << 20}, "b": {"bytes": 3 << 20}},
            leftovers=leftovers,
        )
        print_summary(cleaning, 75.0)
    assert_expected("cleaning_summary.txt", capsys.readouterr().out)


def test_articles_are_previewed_side_by_side(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    same = " ".join(f"word{number}" for number in range(60))
    long = " ".join(f"long{number}" for number in range(80))
    wikitext = f"{same}<ref>cited</ref> end.\n\nRemoved [[link|here]].\n== Head ==\n{long}\n\nOne two."
    article = f"Title\n\n{same} end.\n\nAdded by cleaning it up.\n\nHead\n\n{long}\n\nOne two."
    structured = {
        "name": "Title",
        "sections": [
            {
                "type": "section",
                "name": "Head",
                "has_parts": [
                    {"type": "paragraph", "value": same},
                    {"type": "list", "has_parts": [{"type": "list_item", "value": "an item"}, {"type": "list_item"}]},
                ],
            }
        ],
        "infoboxes": [{"type": "infobox", "name": "Box"}],
        "tables": [{"caption": "Numbers"}],
    }
    previews = [
        side_by_side({"title": "Title", "wikitext": wikitext}, article),
        side_by_side(structured, f"Title\n\n{same}\n\nLast paragraph of the article."),
    ]
    assert_expected("preview.txt", "\n\n".join(previews))


def test_the_summary_of_preparation_reads_as_approved():
    metadata = {
        "totals": {"documents": 12_345, "tokens": 9_876_543, "windows": 38_580},
        "rejected": {"duplicate": 1_234, "too short": 5},
        "window": 512,
        "stride": 256,
        "files": [{}] * 3,
        "compression": {"bytes_per_token": 3.4567, "characters_per_token": 3.4321},
    }
    lengths = format_lengths(np.arange(1, 2_002))
    assert_expected("preparation.txt", f"{summary(metadata, Path('data'))}\n\n{lengths}")


def test_the_summary_of_conversations_reads_as_approved():
    report = ConversationReport(ConversationOptions(max_length=512), read=1_234, kept=1_000, truncated=20)
    report.open_questions = 3
    for number in range(200):
        report.leave_out(f"b.jsonl:{number + 3}", "too long")
    for number in range(34):
        report.leave_out(f"a.jsonl:{number + 7}", "nothing to learn")
    plain = ConversationReport(ConversationOptions(max_length=96), read=2, kept=2)
    assert_expected("conversations.txt", f"{report.summary()}\n\n{plain.summary()}")


SCORE = {
    "known": {"right": 41, "total": 48, "interval_95": [0.7271, 0.9295]},
    "unknown": {"right": 3, "total": 12, "interval_95": [0.0889, 0.5323]},
}


def test_the_summary_of_the_quickstart_reads_as_approved():
    long = "a rather long answer " * 12
    replies = [
        {"right": True, "question": "Where is it?", "reply": " Here.\nOr there."},
        {"right": False, "question": "What " + "is it really " * 8 + "?", "reply": long},
        {"right": False, "question": "Who?", "reply": " \n"},
    ]
    commands = [next_commands("configs/quickstart.json", is_tuned=tuned) for tuned in (True, False)]
    parts = [format_score(SCORE), format_replies(replies), *map(format_commands, commands)]
    assert_expected("quickstart_summary.txt", "\n\n".join(parts))


@pytest.mark.parametrize(
    ("share", "shown"), [(-1, "░" * 20), (0.5, "█" * 10 + "░" * 10), (0.974, "█" * 19 + "░"), (2, "█" * 20)]
)
def test_a_bar_is_as_long_as_its_share(share, shown):
    assert screen.bar(share) == shown


def test_a_sparkline_spans_the_latest_values():
    assert screen.sparkline([]) == ""
    assert screen.sparkline([3.0, 3.0]) == "▁▁"
    assert screen.sparkline([9.0] * 5 + [float(value) for value in range(12)]) == "▁▂▂▃▄▄▅▅▆▇▇█"


class Terminal:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_the_live_line_of_the_quickstart_overwrites_itself():
    terminal = Terminal()
    shown = screen.Screen(terminal)
    shown.live(0.25, "train 420/850", [5.1, 3.2], 160.0)
    shown.live(0.5, "sft", [], 0.2)
    shown.line("done")
    shown.live(0.0, "train", [], None)
    shown.sample("  step 5:", "The river", "runs\n  and runs " * 9)
    assert_expected("live_line.txt", screen.without_styles(terminal.text).replace("\r", "<CR>"))


def described(figure: Figure_) -> str:
    """What a chart shows, as text."""
    lines = [f"{figure.get_suptitle()!r}, {' by '.join(f'{inches:g}' for inches in figure.get_size_inches())} inches"]
    for axes in figure.axes:
        bars = [f"{bar.get_height():.2f}" for bar in axes.patches]
        curves = [f"{x:.0f} {y:.2f}" for x, y in axes.lines[0].get_xydata()] if axes.lines and not bars else []
        errors = [path.vertices[:, 1].round(2).tolist() for drawn in axes.collections for path in drawn.get_paths()]
        ticks = [label.get_text() for label in axes.get_xticklabels()] if bars else []
        limits = [f"{bound:.2f}" for bound in axes.get_xlim()] if bars else []
        shown = axes.get_visible(), axes.get_title(), axes.get_xlabel(), bars or curves, errors, ticks, limits
        lines.append("\n  ".join(map(str, shown)))
    return "\n".join(lines) + "\n"


def test_charts_show_what_was_approved():
    marks = ("100 of 2,891, not comparable",) * 4
    many = results_of(FIVE, marks)
    del many["sets"]["completion"]  # so that one place of the grid is empty
    charts = [comparison_chart(results_of(THREE)), training_chart(many)]
    assert_expected("charts.txt", "\n".join(map(described, charts)))


def test_a_ninth_model_has_the_colour_of_the_first():
    results = results_of({"good": GOOD})
    results["models"] = {f"model {number}": results["models"]["good"] for number in range(9)}
    (panel, *_) = comparison_panels(results)
    colours = re.findall(r'stroke="var\(--series-(\d)\)"', panel)
    assert colours == [*"12345678", "1"]


@pytest.mark.parametrize(("columns", "width"), [("200", 98), ("80", 38), ("51", 24), ("30", 24)])
def test_previews_are_half_as_wide_as_the_terminal(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    header = side_by_side({"title": "T", "text": "a"}, "T\n\na").splitlines()[1]
    assert header == f"{'─' * width}─┼─{'─' * width}"


def test_a_paragraph_of_400_characters_is_previewed_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")
    for length, more in ((400, "x" * 400), (401, "x" * 400 + " … (1 more)")):
        assert f"{more} " in side_by_side({"title": "T", "text": "x" * length}, "T") + " "
