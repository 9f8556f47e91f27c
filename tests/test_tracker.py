"""Trackers get what the logs get, continue a resumed run, and never stop a training."""

import json
import sys
import types
from dataclasses import replace

import pytest

import train
from pipeline.configuration import load_config
from pipeline.training import pretraining
from pipeline.training.config import TrainingConfig
from pipeline.training.starting_point import Start
from pipeline.training.tracker import link_to_tracker, require_tracker, start_tracker
from tests.training_runs import content_of, run_train, write_config, write_tokens
from utils.cli import exit_code_of


class FakeTracker(types.ModuleType):
    """A module with W&B's functions that remembers its calls; `failing` names those that raise."""

    def __init__(self, name, failing=()):
        super().__init__(name)
        self.failing, self.calls = failing, []
        self.__spec__ = types.SimpleNamespace(origin="fake.py")

    def __getattr__(self, function):
        if function.startswith("__"):
            raise AttributeError(function)

        def call(*arguments, **options):
            self.calls.append((function, arguments, options))
            if function in self.failing:
                raise RuntimeError("no\nconnection.")

        return call

    def options_of(self, function):
        return [options for name, _, options in self.calls if name == function]

    def logged(self):
        return [arguments[0] for name, arguments, _ in self.calls if name == "log"]


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request, monkeypatch):
    module = FakeTracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


@pytest.fixture
def project(tmp_path):
    write_tokens(tmp_path / "data", tokens=2_000)
    write_config(tmp_path, max_steps=4, validations_per_epoch=1, sample_prompts=[])
    return tmp_path


def using(tracker, *more):
    return ["--set", f"training.tracker={tracker.__name__}", *more]


def test_a_tracker_gets_the_config_and_every_number(project, tracker):
    run = run_train(project, *using(tracker, "--name", "mine"))
    (options,) = tracker.options_of("init")
    assert (options["project"], options["name"], options["resume"]) == ("language-model", f"{run.name}_mine", "allow")
    assert options["config"]["training"]["max_steps"] == 4
    json.dumps(options["config"])
    log = next((project / "logs" / "raw_metrics").iterdir()).read_text().splitlines()
    numbers = [line for line in map(json.loads, log) if "event" not in line]
    assert len(tracker.logged()) == len(numbers) > 4
    assert [row["train/loss"] for row in tracker.logged() if "train/loss" in row] == [
        line["train_loss"] for line in numbers if "train_loss" in line
    ]
    assert tracker.calls[-1][0] == "finish"


def test_a_resumed_run_continues_in_the_tracker(project, tracker):
    run = run_train(project, *using(tracker, "--set", "training.max_steps=2"))
    run_train(project, "--resume", str(run), "--set", "training.max_steps=4")
    first, resumed = tracker.options_of("init")
    assert {name: resumed[name] for name in ("project", "name")} == {name: first[name] for name in ("project", "name")}
    assert resumed.get("id") == first.get("id")
    assert content_of(run)["tracker"]["tracker"] == tracker.__name__


@pytest.mark.parametrize("function", ["log", "finish", "define_metric"])
def test_a_failing_tracker_is_one_warning(tmp_path, tracker, capsys, function):
    tracker.failing = (function,)
    link = {"tracker": tracker.__name__, "project": "p", "id": "1", "name": "run"}
    recorder = start_tracker(link, config={}, directory=tmp_path)
    for step in (1, 2):
        recorder.log(step, {"train/loss": 1.0})
        recorder.add_text(step, "samples", "a")
    recorder.close(failed=False)
    recorder.close(failed=False)
    warnings = capsys.readouterr().err.splitlines()
    used = [name for name, *_ in tracker.calls]
    assert len(warnings) == used.count(function) <= 1
    assert all(f"the tracker {tracker.__name__} failed: no connection; training continues" in line for line in warnings)


def test_training_survives_its_tracker(project, monkeypatch, capsys):
    module = FakeTracker("wandb", failing=("log",))
    monkeypatch.setitem(sys.modules, "wandb", module)
    assert content_of(run_train(project, *using(module)))["step"] == 4
    assert "the tracker wandb failed" in capsys.readouterr().err


def test_a_tracker_that_does_not_start_ends_the_run(project, tracker, capsys):
    tracker.failing = ("init",)
    arguments = ["--config", str(project / "config.json"), *using(tracker)]
    assert exit_code_of(lambda: train.main(arguments)) == 1
    error = capsys.readouterr().err
    assert f"{tracker.__name__} did not start: no connection; " in error
    assert "--set training.tracker=none" in error
    assert not (project / "logs" / "raw_metrics").exists()
    assert not list((project / "checkpoints").iterdir())


def test_a_failed_run_is_marked_as_failed(project, monkeypatch):
    module = FakeTracker("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("pipeline.training.trainer.Trainer.train_step", lambda trainer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_train(project, *using(module))
    assert module.options_of("finish") == [{"exit_code": 1}]


@pytest.mark.parametrize("door", ["train", "post_training"])
def test_a_missing_tracker_is_named_before_loading(door, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.training.tracker.is_installed", lambda name: False)
    monkeypatch.setitem(sys.modules, "pipeline.training.pretraining", None)
    monkeypatch.setitem(sys.modules, "pipeline.tuning.finetuning", None)
    arguments = ["--checkpoint", "none"] if door == "post_training" else []
    module = __import__(door)
    assert exit_code_of(lambda: module.main([*arguments, "--set", "training.tracker=wandb"])) == 1
    assert "-m pip install wandb, or pass --set training.tracker=none" in capsys.readouterr().err


def test_another_project_or_tracker_is_a_new_run():
    config = TrainingConfig(tracker="wandb", tracker_project="p")
    link = link_to_tracker(config, run_name="run", earlier={})
    assert link_to_tracker(config, run_name="run", earlier={"tracker": link}) == link
    for other in (replace(config, tracker_project="q"), replace(config, tracker="trackio")):
        assert link_to_tracker(other, run_name="run", earlier={"tracker": link})["id"] != link["id"]
    assert link_to_tracker(replace(config, tracker="none"), run_name="run", earlier={"tracker": link}) is None


def test_only_the_process_that_logs_starts_a_tracker(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "start_tracker", lambda *arguments, **options: pytest.fail("started"))
    start = Start(load_config(settings=[f"paths.log_dir={tmp_path}"]), test=False, name=None)
    link = {"tracker": "wandb", "project": "p", "id": "1", "name": "run"}
    pretraining.run_logger(start, tmp_path / "run", link, enabled=False).log(step=1, train_loss=1.0)
    assert not list(tmp_path.iterdir())


def test_no_tracker_needs_no_package():
    require_tracker("none")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_real_tracker_records_offline(project, monkeypatch, name):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(project / "trackio"))  # read when trackio is imported
    pytest.importorskip(name)
    run = run_train(project, "--set", f"training.tracker={name}", "--set", "training.max_steps=2")
    run_train(project, "--resume", str(run), "--set", "training.max_steps=4")
    if name == "wandb":
        files = list((project / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))
        assert len({path.name for path in files}) == 1
        assert all(b"train/loss" in path.read_bytes() for path in files)
    else:
        import sqlite3

        (database,) = (project / "trackio").glob("*.db")
        rows = sqlite3.connect(database).execute("SELECT run_name, step FROM metrics").fetchall()
        assert {name for name, _ in rows} == {run.name}
        assert {step for _, step in rows} == {1, 2, 3, 4}
