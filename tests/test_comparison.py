"""The comparison of several models: columns, statistics, memory, and what Tab completes."""

import re
from pathlib import Path

import pytest
import torch

from pipeline.console import comparison
from pipeline.console.commands import complete_command
from pipeline.console.comparison import Result, memory_report, side_by_side, summary
from pipeline.console.streaming_output import Statistics
from pipeline.formats.checkpoint import write_checkpoint


def result(name: str, text: str = "text", **statistics: float) -> Result:
    return Result(name, Path("x.pt"), text, Statistics(**statistics))


@pytest.mark.parametrize(
    ("width", "columns"), [(96, [3]), (95, [2, 1]), (63, [2, 1]), (62, [1, 1, 1]), (20, [1, 1, 1])]
)
def test_columns_narrower_than_30_are_stacked(width, columns):
    shown = side_by_side([result(name) for name in "abc"], width=width)
    groups = shown.split("\n\n")
    assert [len(re.split(r" │ ", group.splitlines()[0])) for group in groups] == columns
    assert max(map(len, shown.splitlines())) in (width, width - 1)


def test_shorter_texts_leave_their_column_empty():
    lines = side_by_side([result("a", "\none\ntwo"), result("b", "three")], width=63).splitlines()
    assert [line.split(" │") for line in lines] == [
        ["a" + " " * 29, " b"],
        ["─" * 30, " " + "─" * 30],
        ["one" + " " * 27, " three"],
        ["two" + " " * 27, ""],
    ]


def test_the_summary_has_the_totals_of_all_models():
    fast = result("fast", new_tokens=10, seconds=2.0, first_token_seconds=0.25)
    long = result("long", new_tokens=12, seconds=4.0, first_token_seconds=0.5)
    lines = summary([fast, long]).splitlines()
    assert lines[2].split() == ["fast", "10", "2.0s", "5.0", "250", "ms"]
    assert lines[3].split() == ["long", "12", "4.0s", "3.0", "500", "ms"]
    assert lines[4:] == ["fastest: fast (5.0 tokens/s)", "most tokens: long (12)", "total: 22 tokens in 6.0s"]


def test_statistics_of_one_text_are_a_line():
    statistics = Statistics(7, 10, 2.0, 0.25, "length")
    assert statistics.line() == (
        "10 tokens in 2.0s · 5.0 tokens/s · first token after 250 ms · 7 in the prompt · ended by: the maximum length"
    )
    assert statistics.to_dict()["tokens_per_second"] == 5.0
    assert Statistics().tokens_per_second == 0.0


@pytest.mark.parametrize(("free", "fits"), [(480, True), (479, False)])
def test_models_fit_with_a_fifth_to_spare(tmp_path, monkeypatch, free, fits):
    path = tmp_path / "checkpoint_latest.pt"
    write_checkpoint(path, {"model": {"a": torch.zeros(20), "b": torch.zeros(5, 6)}})
    monkeypatch.setattr(comparison, "free_memory", lambda device: free)
    line, enough = memory_report([path, path], device="cpu", dtype="float32")
    assert (line, enough) == (f"2 models need 400 B; {free} B free on cpu", fits)
    assert memory_report([path], device="cpu", quantize="int8")[0].startswith("1 models need 50 B")


def test_tab_completes_commands_and_parameters():
    assert {"/help", "/save", "/quit"} <= set(complete_command("/"))
    assert complete_command("/save a") == []
    assert complete_command("text") == []
    assert "temperature=" in complete_command("/settings ")
