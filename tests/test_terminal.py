"""Control characters from models and files are displayed, never obeyed."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tokenizer as tokenizer_stage
from pipeline.cleaning.preview import side_by_side as articles_side_by_side
from pipeline.configuration import load_config
from pipeline.console.comparison import Result, side_by_side, summary
from pipeline.console.streaming_output import Statistics, Writer
from pipeline.evaluation.text_report import format_benchmark_results
from pipeline.generation.generate import GenerationSettings
from pipeline.generation.loading import load_for_inference
from pipeline.generation.row import TokenEvent
from pipeline.preparation.inspection import _shown
from pipeline.training.callbacks import Validation
from pipeline.training.samples import SampleWriter
from pipeline.tuning.conversations import Example, show_preview
from tests.fake_tokenizer import ByteTokenizer
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.cli import exit_code_of
from utils.errors import PipelineError
from utils.terminal import (
    counted,
    format_bytes,
    format_count,
    format_seconds,
    format_table,
    short_path,
    styled,
    visible,
)

EVIL = "\x1b]0;owned\x07\x9b2J\r\x7fé\n\tend"
SHOWN = "\\x1b]0;owned\\x07\\x9b2J\\r\\x7fé\n\tend"


def is_safe(text: str) -> bool:
    return all(character in "\n\t" or character.isprintable() or character == "\xa0" for character in text)


def test_control_characters_are_written_out_but_newlines_and_tabs():
    assert visible(EVIL) == SHOWN
    assert visible("plain 你好 🙂\u200d") == "plain 你好 🙂\u200d"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KB"), (1536, "1.5 KB"), (1024**2, "1.0 MB"), (-1024, "-1.0 KB"),
     (1024**3, "1.0 GB"), (1024**4, "1.0 TB"), (2048 * 1024**4, "2048.0 TB")],
)  # fmt: skip
def test_bytes_have_units_of_1024(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.0K"), (-10_000, "-10.0K"), (999_900, "999.9K"), (1_000_000, "1.0M"),
     (1_234_567, "1.2M"), (10**9, "1.0B"), (10**12, "1.0T")],
)  # fmt: skip
def test_counts_have_units_of_1000(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0s"), (9.94, "9.9s"), (10, "10s"), (59.4, "59s"), (59.6, "1m 00s"), (75, "1m 15s"), (3599, "59m 59s"),
     (3600, "1h 00m"), (7_325, "2h 02m")],
)  # fmt: skip
def test_durations_are_in_the_two_largest_units(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 files"), (1, "1 file"), (2_000, "2,000 files")])
def test_nouns_are_counted(number, text):
    assert counted(number, "file") == text


def test_tables_align_numbers_to_the_right():
    rows = [("name", "steps", "loss"), ("a", "1,000", "2.5"), ("long name", "7", "10.25")]
    assert format_table(rows, right=(1, 2)).splitlines() == [
        "name       steps   loss",
        "─────────  ─────  ─────",
        "a          1,000    2.5",
        "long name      7  10.25",
    ]
    assert format_table([("name", "text"), ("a", "one two three")], width=13).splitlines() == [
        "name  text",
        "────  ───────",
        "a     one two",
        "      three",
    ]


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = SimpleNamespace(isatty=lambda: True)
    assert styled("a", "bold", "red", stream=terminal) == "\x1b[1;31ma\x1b[0m"
    assert styled("a", stream=terminal) == "a"
    assert styled("a", "red", stream=SimpleNamespace(isatty=lambda: False)) == "a"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert styled("a", "red", stream=terminal) == "a"


def test_paths_inside_the_working_folder_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "data" / "a") == str(Path("data") / "a")
    assert short_path(tmp_path.parent) == str(tmp_path.parent)


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """A checkpoint whose model generates `EVIL`, one character per event."""
    tokenizer = trained_tokenizer(tmp_path / "tokenizer")
    path = small_checkpoint(tmp_path / "checkpoint_latest.pt", tokenizer)
    events = [TokenEvent(1, 40, character) for character in EVIL]
    monkeypatch.setattr("pipeline.console.streaming_output.stream_events", lambda *arguments, **options: iter(events))
    return load_for_inference(f"a\x1b[1m={path}", load_config(), device="cpu")


def test_streamed_text_is_shown_safely_and_returned_unchanged(loaded):
    output = io.StringIO()
    text, _ = Writer(loaded, "off").write([1, 5], GenerationSettings(), output=output)
    assert (text, output.getvalue()) == (EVIL, SHOWN + "\n")


def test_comparisons_and_names_are_shown_safely(loaded):
    result = Result("b\x1b[31m", Path("x.pt"), EVIL, Statistics(1, 2, 1.0, 0.1))
    assert is_safe(side_by_side([result], width=60) + summary([result]) + loaded.summary())


def test_samples_during_training_are_shown_safely(monkeypatch):
    monkeypatch.setattr("pipeline.training.samples.stream_text", lambda *arguments: iter([EVIL]))
    said, logged = [], []

    logger = SimpleNamespace(event=lambda name, *, step, text: logged.append(text))
    validation = Validation(1, {}, None, torch.device("cpu"), logger, said.append)
    SampleWriter(ByteTokenizer(), ["a"], GenerationSettings()).on_validation(validation)
    assert is_safe(said[0])
    assert logged == ["a" + EVIL]


def test_the_benchmark_report_is_safe_to_print():
    model = {
        "figures": {},
        "contamination": {"lambada": "not checked"},
        "speed": None,
        "sample": {"prompt": "p", "text": EVIL},
    }
    results = {"models": {"m\x1b[2J": model}, "settings": {"preset": "quick", "rules": ""}, "sets": {}, "ranking": []}
    text = format_benchmark_results(results)
    assert is_safe(text)
    assert " ".join(SHOWN.split()) in " ".join(text.split())


def test_texts_of_files_are_shown_safely(capsys):
    ids = np.array(ByteTokenizer().encode(EVIL), dtype=np.uint16)
    assert is_safe(_shown("document 0", ids, ByteTokenizer()))
    assert is_safe(show_preview(Example("line 1", [], ids, np.ones_like(ids)), ByteTokenizer()))
    assert is_safe(articles_side_by_side({"title": "T\x1b[2J", "text": EVIL}, EVIL))


def test_errors_that_quote_a_file_are_shown_safely(capsys):
    def fail():
        raise PipelineError("run\x1b[2J is not a checkpoint")

    assert exit_code_of(fail) == 1
    assert capsys.readouterr().err == "error: run\\x1b[2J is not a checkpoint\n"


@pytest.mark.parametrize(("is_terminal", "shown"), [(True, "\\x1b[2J"), (False, "\x1b[2J")])
def test_decoded_ids_reach_a_pipe_unchanged_and_a_terminal_safely(tmp_path, capsys, monkeypatch, is_terminal, shown):
    trained = trained_tokenizer(tmp_path / "tokenizer")
    ids = ",".join(map(str, trained.encode("\x1b[2J")))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    assert tokenizer_stage.main(["--load", str(trained.directory), "--decode", ids]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == shown
