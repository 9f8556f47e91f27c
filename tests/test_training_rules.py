"""Rules of the training loop that a log or a checkpoint depends on, each with the smallest run that shows it."""

import math
import platform
import subprocess
from types import SimpleNamespace

import pytest
import torch

from pipeline.training import cpu_settings, curves, progress_bar, run_info, tracker
from pipeline.training.curves import compare_runs, log_of
from pipeline.training.dry_run import _disk, _short, dry_run, expected_time
from pipeline.training.log_position import LogPosition
from pipeline.training.loss_guard import LossGuard
from pipeline.training.out_of_memory import is_out_of_memory
from pipeline.training.progress_bar import TrainingProgress
from pipeline.training.run_info import RunInfo
from tests.test_dry_run import Clock, timed
from tests.test_trainer import make_trainer, random_ids
from utils.errors import PipelineError
from utils.raw_log import read_log


def log_lines(tmp_path, key: str) -> list[int]:
    path = tmp_path / "logs" / "raw_metrics" / "run_a.jsonl"
    return [line["step"] for line in read_log(path) if key in line]


def test_the_first_the_last_and_every_nth_step_are_logged(tmp_path):
    make_trainer(tmp_path, log_every_steps=4, max_steps=10).fit()
    assert log_lines(tmp_path, "train_loss") == [1, 4, 8, 10]


def test_validations_are_spread_over_an_epoch_and_the_end(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=12, validations_per_epoch=3)
    trainer.fit()
    assert trainer.validation_interval == 3
    assert log_lines(tmp_path, "val_loss") == [3, 6, 9, 12]


def test_a_step_has_the_tokens_of_all_its_batches(tmp_path):
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=3, max_steps=None, num_epochs=2)
    assert (trainer.steps_per_epoch, trainer.total_steps, trainer.tokens_per_step) == (3, 6, 4 * 3 * 8)
    assert make_trainer(tmp_path / "b", gradient_accumulation_steps=11, max_steps=None).steps_per_epoch == 1


def test_the_estimate_names_all_parts_of_the_run(tmp_path):
    clock = Clock()
    trainer = make_trainer(tmp_path, validation=[random_ids(9)] * 6, max_steps=100, keep_last=2)
    timed(trainer, "train_step", clock, 2.0)
    timed(trainer, "score_validation", clock, 1.5)
    lines = dry_run(trainer, clock=clock).splitlines()
    assert lines[1].startswith("step: 2.0s, 32 tokens, 16 tokens/s")
    assert lines[2] == "first 2 steps: 5.0s"
    assert lines[4] == "validation: 3.0s, 20 times"  # 1.5 s for three of six batches
    assert lines[5] == "the whole run: 100 steps, 3,200 tokens, about 4m 24s"  # 5 + 2.5 + 98 * 2 + 20 * 3


@pytest.mark.parametrize(("steps", "extent"), [(100, "4 checkpoints of 528 B, 2.1 KB in total"), (3, "3 "), (2, "2 ")])
def test_the_disk_holds_latest_best_and_step_checkpoints(tmp_path, steps, extent):
    assert _disk(make_trainer(tmp_path, max_steps=steps, keep_last=2)).startswith(extent)


@pytest.mark.parametrize(("seconds", "text"), [(0.0123, "12.3 ms"), (0.999, "999 ms"), (1.0, "1.0s")])
def test_short_times_are_in_milliseconds(seconds, text):
    assert _short(seconds) == text


def test_the_expected_time_of_an_epoch_or_of_max_steps(tmp_path):
    clock = Clock()
    trainer = make_trainer(tmp_path, max_steps=25)
    timed(trainer, "backward", clock, 0.8)
    assert expected_time(trainer, clock=clock).startswith(
        "training.max_steps, 2.5 epochs: 25 steps, 800 tokens, about 20s on CPU"
    )
    trainer = make_trainer(tmp_path / "b", max_steps=None, num_epochs=1)
    timed(trainer, "backward", clock, 0.8)
    assert expected_time(trainer, clock=clock).startswith("one epoch: 10 steps, 320 tokens, about 8.0s on CPU")


def test_a_rollback_leaves_the_log_up_to_it_in_place():
    lines = [
        {"step": 1, "train_loss": 3.0},
        {"step": 3, "train_loss": 9.0},
        {"step": 3, "event": "skipped_step"},
        {"step": 1, "event": "rollback"},
        {"step": 2, "train_loss": 2.0},
        {"step": 2, "val_loss": 2.5},
        {"step": 3, "train_loss": 1.0},
        {"step": 1, "event": "rollback"},
    ]
    kept = LogPosition(2, rollbacks=1).kept(lines)
    assert kept == [lines[0], *lines[2:6]]
    assert LogPosition(2, validated=False, rollbacks=1).kept(lines) == [lines[0], *lines[2:5]]
    assert LogPosition(3, rollbacks=0).kept(lines) == [*lines[:3], *lines[4:7]]


def guarded(sigma: float, losses: list[float]) -> LossGuard:
    guard = LossGuard(sigma)
    for loss in losses:
        assert guard.problem(loss, 1.0) == ""
    return guard


def test_a_spike_is_measured_against_the_last_losses():
    guard = guarded(3.0, [1.0, 3.0] * 16)  # mean 2, deviation 1
    assert guard.problem(5.001, 1.0) == "the loss 5.0010 is above 5.0000 (mean 2.0000 + 3 sigma)"
    assert guard.skipped_in_a_row == 1
    assert guard.problem(math.nan, 1.0) == "the loss is nan"
    assert guard.problem(1.0, math.inf) == "the gradient's norm is inf"
    assert guard.skipped_in_a_row == 3
    assert guard.problem(5.0, 1.0) == ""
    assert guard.skipped_in_a_row == 0


def test_few_or_flat_losses_are_no_spikes():
    assert guarded(3.0, [1.0, 3.0] * 15 + [2.0]).problem(100.0, 1.0) == ""
    assert guarded(0.0, [1.0] * 40).problem(100.0, 1.0) == ""
    assert guarded(2.0, [1.0] * 40).problem(1.0199, 1.0) == ""
    assert guarded(2.0, [1.0] * 40).problem(1.0201, 1.0) != ""
    assert len(guarded(0.0, [1.0] * 200).losses) == 128


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shape"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_out_of_memory_has_three_forms(error, expected):
    assert is_out_of_memory(error) == expected


def test_utilisation_needs_both_figures():
    run = RunInfo(SimpleNamespace(), flops_per_token=10.0, peak_flops=1000.0)
    assert run.mfu(50.0, 2) == pytest.approx(0.25)
    assert RunInfo(SimpleNamespace(), flops_per_token=10.0).mfu(50.0, 2) is None


def test_a_copy_without_git_has_an_unknown_commit(monkeypatch):
    def fail(command, **options):
        assert options["check"]
        raise subprocess.CalledProcessError(128, command)

    monkeypatch.setattr(run_info.subprocess, "run", fail)
    assert run_info._git_commit() == "unknown"


@pytest.mark.parametrize("library", ["glibc", "musl"])
def test_freed_memory_is_kept_only_with_glibc(monkeypatch, library):
    calls = []

    def mallopt(option: int, value: int) -> int:
        calls.append((option, value))
        return 1

    monkeypatch.setattr(platform, "libc_ver", lambda: (library, "2"))
    monkeypatch.setattr(cpu_settings.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert cpu_settings.keep_freed_memory() == (library == "glibc")
    assert calls == ([(-4, 0), (-1, 2**31 - 1)] if library == "glibc" else [])


def test_a_log_without_numbers_is_compared_as_zero_steps(tmp_path):
    folder = tmp_path / "raw_metrics"
    folder.mkdir()
    (folder / "a.jsonl").touch()
    (folder / "b.jsonl").write_text(
        '{"step": 1000, "train_tokens": 20000, "val_loss": 2.5}\n'
        '{"step": 1500, "train_tokens": 30000, "val_loss": 2.75}\n'
    )
    table = compare_runs(["a", "b"], tmp_path).splitlines()
    assert [line.split() for line in table[2:4]] == [
        ["a", "0", "0", "–", "–"],
        ["b", "1,500", "30.0K", "2.5000", "1,000"],
    ]
    assert table[4] == str(tmp_path / "comparison.png")


def test_a_run_is_found_by_its_name_but_not_by_half_of_it(tmp_path):
    folder = tmp_path / "raw_metrics"
    folder.mkdir()
    for name in ("run_1_00_first", "run_1_00_2", "run_1_00_2_first"):
        (folder / f"{name}.jsonl").touch()
    assert log_of("run_1_00", tmp_path).stem == "run_1_00_first"
    assert log_of("run_1_00_2.jsonl", tmp_path).stem == "run_1_00_2"
    with pytest.raises(PipelineError, match="matches several logs"):
        log_of("first", tmp_path)
    with pytest.raises(PipelineError, match="has no log"):
        log_of("second", tmp_path)


def test_lines_of_progress_are_ten_seconds_apart(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    progress = TrainingProgress(10)
    for step, moment in enumerate((9.9, 10.0, 19.9, 20.0, 21.0), 1):
        now[0] = moment
        progress.show(step=step, loss=1.0, tokens_per_second=1.0, seconds_left=1.0, mfu=None)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["step 2/10", "step 4/10"]


def test_only_wandb_gets_an_id_and_a_folder(monkeypatch, tmp_path):
    started = []
    package = SimpleNamespace(init=lambda **options: started.append(options), define_metric=lambda *a, **o: None)
    monkeypatch.setattr(tracker, "import_module", lambda name: package)
    monkeypatch.setattr(tracker, "is_installed", lambda name: True)
    for name in ("wandb", "trackio"):
        link = {"tracker": name, "project": "p", "id": "1", "name": "n"}
        tracker.start_tracker(link, config={}, directory=tmp_path / name)
    assert [("id" in options, "dir" in options) for options in started] == [(True, True), (False, False)]
    assert (tmp_path / "wandb").is_dir()
    assert not (tmp_path / "trackio").exists()


def test_curves_leave_out_what_is_not_a_number():
    lines = [{"step": 1, "train_tokens": 10, "val_loss": 2.0}, {"step": 2, "train_tokens": 20, "val_loss": None}]
    assert curves.curve([*lines, {"step": 3, "val_loss": 1.0}], "val_loss") == [(10, 2.0)]
