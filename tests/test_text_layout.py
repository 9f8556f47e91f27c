"""Text laid out for a terminal: nothing is wider than it, and no word is cut in the middle."""

import io
import sys
from importlib import import_module
from pathlib import Path

import pytest

import main
from utils.cli import stage_parser
from utils.stage_parser import fold_example, fold_paragraph
from utils.terminal import fitted, format_table, say
from utils.text_layout import WrappingOutput, columns, fit_columns, fold, join_fitting, pad, shorten, wrap

EXAMPLE = "    python3 train.py --init-from checkpoints/run_2026_01_31_12_00   # start from these weights"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def narrow_terminal(monkeypatch) -> Terminal:
    """A terminal of 40 columns as standard output."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", Terminal())
    return sys.stdout


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("你好", 4), ("e\u0301", 1), ("👩‍👩‍👧", 2), ("\x1b[1;32mok\x1b[0m", 2), ("─ → ±", 5)],
)
def test_columns_of_scripts_emoji_and_colours(text, width):
    assert columns(text) == width


def test_text_is_measured_without_rich(monkeypatch):
    monkeypatch.setattr("utils.text_layout.is_installed", lambda package: False)
    assert columns("你好e\u0301") == 5


def test_lines_break_at_spaces_and_keep_their_indentation():
    assert fold("  sample: one two three four", 20) == "  sample: one two\n  three four"
    assert fold("- one two three four five", 20) == "- one two three four\n  five"


def test_paths_are_not_broken():
    path = "/a/very/long/path/that/no/terminal/of/this/width/can/show"
    assert fold(f"written: {path}", 30) == f"written:\n{path}"


def test_columns_break_long_words_and_cjk():
    assert wrap("你好世界 abc", 5) == ["你好", "世界", "abc"]
    assert shorten("sft_lima_2026_01_03", 8) == "sft_lim…"


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abcd", 4, "abcd"), ("abcde", 4, "abc…"), ("你好", 4, "你好"), ("你好世", 5, "你好…"), ("你好世", 4, "你…")],
)
def test_text_is_shortened_only_if_it_does_not_fit(text, width, expected):
    assert shorten(text, width) == expected


def test_padding_counts_columns_not_characters():
    assert pad("你", 4) == "你  "
    assert pad("你", 4, right=True) == "  你"
    assert pad("long", 2) == "long"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two", 7, ["one two"]),
        ("one two", 6, ["one", "two"]),
        ("  one two", 5, ["  one", "two"]),
        ("one\n\ntwo", 9, ["one", "", "two"]),
        ("one  two", 8, ["one  two"]),
        ("a\tb", 9, ["a   b"]),
        ("abcdefg", 3, ["abc", "def", "g"]),
        ("ab cdefg", 3, ["ab", "cde", "fg"]),
    ],
)
def test_lines_are_as_long_as_possible(text, width, lines):
    assert wrap(text, width) == lines


def test_wrapped_lines_may_be_indented_and_keep_long_words():
    assert wrap("one two three", 8, indent="  ") == ["one two", "  three"]
    assert wrap("abcdef gh", 3, chop=False) == ["abcdef", "gh"]
    assert fold("exact", 5) == "exact"
    assert fold("1. " + "word " * 5, 20) == "1. word word word\n   word word"
    assert fold("a fold narrower than 20 columns", 5) == "a fold narrower than\n20 columns"


def test_the_widest_column_shrinks_first():
    rows = [("aaa aaa", "bbb bbb bbb"), ("a", "b")]
    assert fit_columns(rows, 20) == [7, 11]
    assert fit_columns(rows, 19) == [7, 10]
    assert fit_columns(rows, 14) == [6, 6]
    assert fit_columns(rows, 1) == [3, 3]


def test_the_stream_starts_at_the_prompts_column():
    output = io.StringIO()
    stream = WrappingOutput(output, 10, 6)
    for piece in ("four ", "next line here ", "averyverylongword ", "x"):
        stream.write(piece)
    stream.close()
    assert output.getvalue().splitlines() == ["four", "next line ", "here ", "averyverylongword x"]


def test_only_a_terminal_gets_broken_lines(monkeypatch):
    narrow = narrow_terminal(monkeypatch)
    text = "word " * 20
    say(text)
    assert max(map(len, narrow.getvalue().splitlines())) <= 40
    assert fitted(text, stream=io.StringIO()) == text


def test_wide_tables_wrap_their_cells(monkeypatch):
    narrow_terminal(monkeypatch)
    rows = [("figure", "best validation loss of the run", "note"), ("a", "1.25", "sample, not comparable")]
    table = format_table(rows, right=[1])
    assert max(map(len, table.splitlines())) <= 40
    assert {"comparable", "validation", "1.25"} <= set(table.split())
    assert format_table([("你好", "b"), ("x", "y")]).splitlines()[2] == "x     y"


def test_streamed_text_breaks_at_spaces():
    output = io.StringIO()
    stream = WrappingOutput(output, 12)
    for piece in ("The qui", "ck brown", " fox\njum", "ps over the", " dog"):
        stream.write(piece)
    stream.close()
    assert output.getvalue().splitlines() == ["The quick ", "brown fox", "jumps over ", "the dog"]


def test_progress_drops_what_does_not_fit():
    assert join_fitting(["loss 2.5", "900 tokens/s", "3s left"], 25) == "loss 2.5, 900 tokens/s"
    assert join_fitting(["one", "two", "three"], 8) == "one, two"
    assert join_fitting(["one", "two", "three"], 7) == "one"
    assert join_fitting(["one", "two"], 1) == "one"


@pytest.mark.parametrize("script", [stage.script for stage in main.STAGES])
def test_the_help_of_a_stage_fits_one_screen(monkeypatch, script):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", Terminal())
    with pytest.raises(SystemExit):
        import_module(Path(script).stem).parse_args(["--help"])
    lines = sys.stdout.getvalue().splitlines()
    assert len(lines) < 24
    assert max(map(columns, lines)) <= 80
    assert lines[-1].endswith("All options: --help-all")


def test_the_help_of_the_menu_fits_one_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = main.help_text().splitlines()
    assert len(lines) < 24
    assert max(map(columns, lines)) <= 80


def test_help_all_explains_every_option(capsys):
    parser = stage_parser("Train.\n\n    python3 train.py\n\nMore about it.")
    parser.add_argument("--rare", help="seldom used")
    parser.keep_for_help_all("--rare")
    short = parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--help-all"])
    full = capsys.readouterr().out
    for text in ("--rare", "--config", "More about it"):
        assert (text in short, text in full) == (False, True)
    assert "python3 train.py" in short


def test_help_fits_the_terminal_and_examples_stay_commands(monkeypatch):
    narrow_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "60")
    text = stage_parser(f"Train.\n\n{EXAMPLE}").format_help()
    assert max(map(len, text.splitlines())) <= 60
    sentences = "The first line of a paragraph is long. It\ngoes on."
    assert fold_paragraph(sentences, 40) == "The first line of a paragraph is long.\nIt goes on."
    command = "python3 a.py --one 1 --two 22"
    assert fold_example(command, 29) == command
    assert fold_example(command, 28) == "python3 a.py --one 1 --two \\\n    22"
    assert fold_example(command, 27) == "python3 a.py --one 1 \\\n    --two 22"
    assert fold_example(EXAMPLE, 70).splitlines()[0] == "    # start from these weights"
    code = fold_example(EXAMPLE, 60).splitlines()[1:]
    assert "".join(line.rstrip("\\") for line in code).split() == EXAMPLE.partition(" # ")[0].split()
