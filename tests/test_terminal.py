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
from pipeline.generation.batch_generator import TokenEvent
from pipeline.generation.generate import GenerationSettings
from pipeline.generation.loading import load_for_inference
from pipeline.preparation.inspection import _shown
from pipeline.training.callbacks import Validation
from pipeline.training.samples import SampleWriter
from pipeline.tuning.conversations import Example, show_preview
from tests.fake_tokenizer import ByteTokenizer
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.cli import exit_code_of
from utils.errors import PipelineError
from utils.terminal import visible

EVIL = "\x1b]0;owned\x07\x9b2J\r\x7fé\n\tend"
SHOWN = "\\x1b]0;owned\\x07\\x9b2J\\r\\x7fé\n\tend"


def is_safe(text: str) -> bool:
    return all(character in "\n\t" or character.isprintable() or character == "\xa0" for character in text)


def test_control_characters_are_written_out_but_newlines_and_tabs():
    assert visible(EVIL) == SHOWN
    assert visible("plain 你好 🙂\u200d") == "plain 你好 🙂\u200d"


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
