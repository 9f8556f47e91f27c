"""train.py --ladder: the whole command, interrupted and continued; its results, advice and errors."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch

import train
from pipeline.configuration import load_config
from pipeline.modeling.config import ModelConfig
from pipeline.training.ladder import plan
from pipeline.training.ladder.climb import Ladder
from pipeline.training.ladder.data_supply import effective_tokens
from pipeline.training.ladder.fit import Law, Point
from pipeline.training.ladder.prediction import best_choice, doubt, predict
from pipeline.training.ladder.report import plan_text
from pipeline.training.ladder.rung_run import Result, RungRunner, read_result, write_result
from pipeline.training.starting_point import Start
from pipeline.training.trainer import Trainer
from tests.training_runs import write_config, write_tokens
from utils.errors import PipelineError, UsageError

WIDER = ["--set", "model.hidden_size=64", "--set", "model.num_attention_heads=4"]


@pytest.fixture
def ladder_project(tmp_path, monkeypatch):
    """A project in which a ladder takes a second."""
    write_tokens(tmp_path / "data")
    write_config(tmp_path, max_steps=60)
    monkeypatch.setattr(plan, "FEWEST_STEPS", 4)
    return tmp_path


def climb(project, *arguments):
    assert train.main(["--config", str(project / "config.json"), *WIDER, "--ladder", *arguments]) == 0


def count_steps(monkeypatch, *, interrupt_at: int = 0) -> list[int]:
    """Every training step from now on adds an item; Ctrl-C arrives during step `interrupt_at`."""
    steps: list[int] = []
    original = Trainer.train_step

    def counted(self: Trainer) -> float:
        steps.append(self.step)
        if len(steps) == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Trainer, "train_step", counted)
    return steps


def test_interrupted_ladder_continues_without_repeating_steps(ladder_project, monkeypatch, capsys):
    before = count_steps(monkeypatch, interrupt_at=30)
    with pytest.raises(KeyboardInterrupt):
        climb(ladder_project)
    monkeypatch.undo()
    monkeypatch.setattr(plan, "FEWEST_STEPS", 4)
    assert len(before) == 30
    assert "continue with: the same --ladder command" in capsys.readouterr().out
    (folder,) = (ladder_project / "checkpoints").iterdir()
    assert not (folder / "ladder.json").exists()
    after = count_steps(monkeypatch)
    climb(ladder_project)
    runs = [path.parent.name for path in folder.glob("*/result.json")]
    assert len(before + after) == sum(int(name.split("steps")[1].split("_")[0]) for name in runs)
    summary = capsys.readouterr().out.partition("width  layers")[2]
    assert (folder / "ladder.txt").read_text().endswith(f"{summary.strip()}\n")
    assert {path.name for path in folder.glob("ladder.*")} == {
        f"ladder.{kind}" for kind in ("json", "png", "svg", "txt")
    }
    assert not list(folder.rglob("*.pt"))
    assert_fits_screen(f"width  layers{summary.rstrip()}")
    content = json.loads((folder / "ladder.json").read_text())
    assert content["ladder_share"] <= 0.1
    assert len(content["points"]) == 10
    assert content["prediction"]["low"] <= content["prediction"]["loss"] <= content["prediction"]["high"]


def assert_fits_screen(text: str) -> None:
    lines = text.splitlines()
    assert len(lines) <= 24
    assert [line for line in lines if len(line) > 80 and not line.startswith("files")] == []


def test_the_plan_names_what_makes_a_prediction_poor(project):
    start = Start(load_config(project / "config.json", settings=["training.early_stopping_patience=3"]), False, None)
    target = plan.Target(ModelConfig(), 5_000, 32, 128, 512, 10_000)
    small = plan.make_plan(target)
    runner = RungRunner(start, project, torch.device("cpu"), 512, 0.0)
    ladder = Ladder(start, runner.device, target, small, project, runner, 1e-6, unique=1e6, ladder_seconds=90.0)
    text = plan_text(ladder)
    assert "at most 18 small runs at widths 32, 64, 96, 128" in text
    assert "10.0% of the configured run's operations, about 1m 30s" in text
    assert "training.early_stopping_patience may end it sooner" in text
    assert "the data is too small for the ladder alone" in text


def test_rates_that_all_diverge_end_the_ladder(ladder_project):
    with pytest.raises(PipelineError, match=r"every rate of the search diverged, down to 0.0625 times"):
        climb(ladder_project, "--set", "training.learning_rate=1e30")


def test_a_short_run_is_refused_before_anything_is_written(project):
    with pytest.raises(PipelineError, match=r"too short for a ladder: 20 steps"):
        climb(project)
    assert not (project / "checkpoints").exists()


def test_several_processes_are_refused(project, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PipelineError, match="start it without --nproc"):
        climb(project)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ladder", "20"], "--ladder 20: expected a percentage above 0 and at most 10"),
        (["--hours", "2"], "--hours is only used with --ladder"),
        (["--ladder", "--hours", "0"], "--hours 0: expected a number above 0"),
        (["--ladder", "--resume", "latest"], "--resume cannot be used with --ladder"),
        (["--ladder", "--dry-run"], "--dry-run cannot be used with --ladder"),
    ],
)
def test_contradicting_options_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        train.parse_args(arguments)


@pytest.mark.parametrize("result", [Result(math.inf), Result(3.5, 1.25, math.inf), Result(3.5, None, 12.0)])
def test_results_survive_the_disk(tmp_path, result):
    write_result(tmp_path / "result.json", result)
    assert read_result(tmp_path / "result.json") == result


def test_a_damaged_result_is_named(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("{}")
    with pytest.raises(PipelineError, match=r"result.json is damaged .*; delete it"):
        read_result(path)


def test_repeated_text_is_worth_less():
    assert effective_tokens(500.0, unique=1_000.0) == 500.0
    assert 1_900 < effective_tokens(2_000.0, unique=1_000.0) < 2_000
    assert effective_tokens(1e9, unique=1_000.0) == pytest.approx(1_000 * 16.39)


def test_more_hours_buy_a_larger_model_and_more_text():
    law, model = Law(1.7, 406.0, 0.34, 410.0, 0.28), ModelConfig()
    small, large = (best_choice(law, model, window=512, flops=flops, unique=1e15) for flops in (1e17, 1e18))
    assert small.model.hidden_size < large.model.hidden_size
    assert small.tokens < large.tokens
    assert small.loss > large.loss
    scarce = best_choice(law, model, window=512, flops=1e18, unique=1e7)
    assert scarce.model.hidden_size > large.model.hidden_size
    assert scarce.loss > large.loss


def test_the_interval_contains_the_prediction_and_grows_with_noise():
    law = Law(1.7, 406.0, 0.34, 410.0, 0.28)
    grid = [(size, tokens) for size in (1e5, 3e5, 9e5) for tokens in (1e6, 3e6, 9e6)]
    widths = []
    for noise in (0.001, 0.01):
        signs = [1 if index % 2 else -1 for index in range(len(grid))]
        points = [Point(*place, law.loss(*place) * (1 + noise * sign)) for place, sign in zip(grid, signs, strict=True)]
        predicted = predict(law, points, 5e6, 5e7)
        assert predicted.low <= predicted.loss <= predicted.high
        widths.append(predicted.high - predicted.low)
    assert widths[0] < widths[1] / 3


def test_points_without_a_law_are_doubted():
    law = Law(1.7, 406.0, 0.34, 410.0, 0.28)
    grid = [(size, tokens) for size in (1e5, 3e5, 9e5) for tokens in (1e6, 3e6, 9e6)]
    points = [Point(*place, law.loss(*place)) for place in grid]
    assert doubt(law, points) == ""
    flat = replace(law, parameter_factor=0.0)
    assert "larger models did no better" in doubt(flat, [Point(*place, flat.loss(*place)) for place in grid])
    scattered = [replace(point, loss=point.loss * (1.1 if index % 2 else 1.0)) for index, point in enumerate(points)]
    assert "the points miss the law by" in doubt(law, scattered)
