"""Training progress: the bar in a terminal, lines elsewhere, the trace."""

import io
import sys

import pytest

from pipeline.training import curves
from pipeline.training.profiler import step_profile
from pipeline.training.progress_bar import TrainingProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch, *, mfu: float | None, width: int = 120) -> str:
    """The terminal output for step 3 of 10."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    progress = TrainingProgress(10, first_step=2)
    progress.show(step=3, loss=2.5, tokens_per_second=12_345.0, seconds_left=75.0, mfu=mfu)
    progress._bar.refresh()
    text = sys.stderr.getvalue()
    progress.close()
    return text.split("\r")[-1]


def test_the_bar_shows_loss_speed_utilisation_and_the_time_left(monkeypatch):
    assert "3/10 [loss 2.5000, 12.3K tokens/s, MFU 42%, 1m 15s left]" in shown(monkeypatch, mfu=0.42)
    assert "3/10 [loss 2.5000, 12.3K tokens/s, 1m 15s left]" in shown(monkeypatch, mfu=None)


@pytest.mark.parametrize(("width", "last"), [(80, "left]"), (64, "MFU 42%]"), (54, "tokens/s]"), (40, "2.5000]")])
def test_the_bar_drops_what_a_narrow_terminal_cannot_hold(monkeypatch, width, last):
    bar = shown(monkeypatch, mfu=0.42, width=width)
    assert len(bar) <= width
    assert bar.rstrip().endswith(last)


def test_without_a_terminal_only_the_main_process_prints(capsys):
    for enabled in (True, False):
        progress = TrainingProgress(10, enabled=enabled)
        progress.show(step=10, loss=2.5, tokens_per_second=900.0, seconds_left=0.0, mfu=0.5)
        progress.say("something")
    assert capsys.readouterr().out.splitlines() == [
        "step 10/10: loss 2.5000, 900 tokens/s, MFU 50%, 0.0s left",
        "something",
    ]


@pytest.mark.parametrize("steps", [4, 6, 7])
def test_trace_is_complete_or_reported_missing(tmp_path, steps):
    said: list[str] = []
    with step_profile(tmp_path / "trace.json", said.append) as on_step:
        for _ in range(steps):
            on_step()
    if steps == 7:
        assert (tmp_path / "trace.json").exists()
        assert said == [f"trace of 3 steps: {tmp_path / 'trace.json'}; open it in https://ui.perfetto.dev"]
    else:
        assert not (tmp_path / "trace.json").exists()
        assert said == [f"no trace: the run had {steps} steps, but a trace needs 7; raise training.max_steps"]


def test_curves_use_tokens_seen_with_readable_units(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save_figure", lambda path, figure: figures.append(figure))
    lines = [
        {"step": 1, "train_tokens": 1_000_000, "train_loss_smoothed": 3.0},
        {"step": 2, "train_tokens": 2_500_000, "train_loss_smoothed": 2.0},
        {"step": 2, "train_tokens": 2_500_000, "val_loss": 2.25},
    ]
    curves.draw_runs(tmp_path / "curve.png", {"a": lines, "b": lines[:1]})
    axes = figures[0].axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[1_000_000, 3.0], [2_500_000, 2.0]],
        [[2_500_000, 2.25]],
        [[1_000_000, 3.0]],
        [],
    ]
    assert axes.xaxis.get_major_formatter()(2_500_000, 0) == "2.5M"
