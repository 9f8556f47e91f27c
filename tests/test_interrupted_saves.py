"""A run killed at any file operation and resumed ends like an undisturbed one."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.formats import checkpoint
from pipeline.formats.checkpoint import read_checkpoint
from pipeline.training import trainer as trainer_module
from pipeline.training.config import TrainingConfig
from pipeline.training.log_position import LogPosition
from pipeline.training.run_info import RunInfo
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import TrainingData
from tests.test_trainer import CPU, VOCAB, Bigram, Loader, random_ids
from utils import logging_utils
from utils.logging_utils import DualLogger
from utils.raw_log import read_log

STATE = ("step", "best", "metrics", "validated_step", "last_validation", "loader", "epoch", "guard")


class Killed(BaseException):
    """The process is dead; no later operation succeeds."""


class Operations:
    """Count the calls that change files; from number `last` on, all of them fail as in a dead process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.last = 1 << 30
        for name in ("replace", "link", "unlink"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, original: Callable) -> Callable:
        def operation(*arguments, **options):
            self.count += 1
            if self.count >= self.last:
                raise Killed
            return original(*arguments, **options)

        return operation


@pytest.fixture
def quick(monkeypatch):
    """Disable slow parts that change no file names: TensorBoard, syncing, the long state of each random generator."""
    quiet = SimpleNamespace(add=lambda *_: None, add_text=lambda *_: None, flush=lambda: None, close=lambda: None)
    monkeypatch.setattr(logging_utils, "TensorBoardLog", lambda *_, **__: quiet)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(trainer_module, "rng_state", lambda device: {})
    monkeypatch.setattr(trainer_module, "restore_rng_state", lambda state, device: None)


def trainer_in(folder: Path, content: dict | None = None, **settings) -> Trainer:
    config = TrainingConfig(
        batch_size=4,
        gradient_accumulation_steps=1,
        learning_rate=0.8,
        min_learning_rate=0.8,
        warmup_steps=0,
        max_steps=4,
        checkpoint_every_steps=1,
        keep_last=1,
        validations_per_epoch=2,
        log_every_steps=1,
    )
    position = LogPosition.of(content) if content else None
    sampler = SimpleNamespace(on_validation=lambda seen: seen.logger.event("sample", step=seen.step, text="a"))
    torch.manual_seed(0)
    trainer = Trainer(
        Bigram(),
        TrainingData(Loader(random_ids, length=4), [random_ids(999)], VOCAB),
        config=replace(config, **settings),
        device=CPU,
        run=RunInfo(folder / "run_a", epoch_checkpoints=True),
        logger=DualLogger(folder / "logs", "run_a", resume=position, buffer_lines=5),
        callbacks=[sampler],
    )
    if content:
        trainer.resume(content)
    return trainer


def left_by(folder: Path) -> tuple[dict, list]:
    """The content of each checkpoint, and the log without anything that varies between runs."""
    files = {path.name: read_checkpoint(path) for path in sorted((folder / "run_a").iterdir())}
    states = {name: {key: content[key] for key in STATE} for name, content in files.items()}
    for name, content in files.items():
        states[name]["model"] = {key: value.tolist() for key, value in content["model"].items()}
    lines = read_log(folder / "logs" / "raw_metrics" / "run_a.jsonl")
    lines = [line for line in lines if line.get("event") not in ("training", "end")]  # one for each start
    return states, [{key: line[key] for key in line if key != "time" and "speed" not in key} for line in lines]


def finish(folder: Path, **settings) -> None:
    """Resume the run in `folder`, or start over if it was killed before its first checkpoint."""
    latest = folder / "run_a" / "checkpoint_latest.pt"
    latest.parent.mkdir(parents=True, exist_ok=True)
    with checkpoint.only_training_run(folder / "run_a"):
        trainer_in(folder, read_checkpoint(latest) if latest.exists() else None, **settings).fit(validate_first=True)


def assert_best_is_the_recorded_one(folder: Path) -> None:
    latest, best = (folder / "run_a" / f"checkpoint_{name}.pt" for name in ("latest", "best"))
    recorded = read_checkpoint(latest)["metrics"]["best_step"] if latest.exists() else None
    if recorded is not None:
        assert read_checkpoint(best)["best"]["loss"] <= read_checkpoint(latest)["best"]["loss"]


def test_two_checkpoints_of_one_step_are_never_halved(tmp_path, monkeypatch, quick):
    settings = {"max_steps": 5, "keep_last": 2}  # after step 4 both checkpoint_epoch_1.pt and checkpoint_step_4.pt
    operations = Operations(monkeypatch)
    trainer_in(tmp_path / "whole", **settings).fit()
    names = sorted(path.name for path in (tmp_path / "whole" / "run_a").iterdir())
    assert {"checkpoint_epoch_1.pt", "checkpoint_step_4.pt"} < set(names)
    for number in range(operations.count - 14, operations.count + 1):
        folder = tmp_path / str(number)
        operations.count, operations.last = 0, number
        with pytest.raises(Killed):
            trainer_in(folder, **settings).fit()
        operations.last = 1 << 30
        finish(folder, **settings)
        assert sorted(path.name for path in (folder / "run_a").iterdir()) == names


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_anywhere_ends_as_if_undisturbed(tmp_path, monkeypatch, quick, every):
    trainer_in(tmp_path / "first").fit(validate_first=True)  # torch writes files of its own once
    operations = Operations(monkeypatch)
    trainer_in(tmp_path / "whole").fit(validate_first=True)
    total, whole = operations.count, left_by(tmp_path / "whole")
    assert 0 < whole[0]["checkpoint_best.pt"]["step"] < 4, "a best that is not the last"
    for number in range(1, total + 1, every):
        folder = tmp_path / str(number)
        operations.count, operations.last = 0, number
        with pytest.raises(Killed):
            trainer_in(folder).fit(validate_first=True)
        operations.last = 1 << 30
        assert_best_is_the_recorded_one(folder)
        finish(folder)
        assert left_by(folder) == whole, f"killed at operation {number} of {total}"
