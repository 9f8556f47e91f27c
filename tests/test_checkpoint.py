"""Checkpoints: complete or absent, found by file, folder or `latest`, with one-line errors."""

import errno
import os
from datetime import datetime

import pytest
import torch

from pipeline.formats import checkpoint as store
from pipeline.formats.checkpoint import read_checkpoint, tensor_bytes, write_checkpoint
from pipeline.formats.run_folders import find_checkpoint, list_runs, new_run_folder, prune_step_checkpoints
from utils.errors import PipelineError


def content(value: float = 1.0, **more) -> dict:
    return {"model": {"weight": torch.full((3, 4), value)}, "step": 7, **more}


def write_at(path, seconds: int, value: float = 1.0):
    write_checkpoint(path, content(value))
    os.utime(path, (seconds, seconds))
    return path


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / "run" / "checkpoint_latest.pt"
    written = content(rng=torch.get_rng_state(), config={"training": {"seed": 1, "max_steps": None}}, name="a ü")
    write_checkpoint(path, written)
    found = read_checkpoint(path)
    assert torch.equal(found["model"]["weight"], written["model"]["weight"])
    assert torch.equal(found["rng"], written["rng"])
    assert (found["step"], found["config"], found["name"]) == (7, written["config"], "a ü")
    assert [entry.name for entry in path.parent.iterdir()] == ["checkpoint_latest.pt"]


def test_the_prefix_of_a_compiled_model_is_taken_off(tmp_path):
    path = tmp_path / "checkpoint_best.pt"
    state = {"_orig_mod.a.weight": torch.ones(1), "b._orig_mod.weight": torch.zeros(1)}
    write_checkpoint(path, {"model": state})
    assert list(read_checkpoint(path)["model"]) == ["a.weight", "b.weight"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1 vs 0"), "so the disk may be full"),
    ],
)
def test_a_write_that_fails_leaves_the_earlier_checkpoint_whole(tmp_path, monkeypatch, error, said):
    path = tmp_path / "checkpoint_latest.pt"
    write_checkpoint(path, content(1.0))

    def half_written(values, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(store.torch, "save", half_written)
    with pytest.raises(
        PipelineError, match=rf"cannot be written: .*{said} \(.* free\); the previous checkpoint is intact"
    ):
        write_checkpoint(path, content(2.0))
    monkeypatch.undo()
    assert read_checkpoint(path)["model"]["weight"][0, 0] == 1.0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 40})())
    path = tmp_path / "checkpoint_latest.pt"
    with pytest.raises(
        PipelineError, match=r"not enough disk space in .*: 40 B free, but .* takes 48 B; .*--set paths.checkpoint_dir"
    ):
        write_checkpoint(path, content())
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    write_checkpoint(path, content())
    size = path.stat().st_size  # more than its tensors
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: type("Usage", (), {"free": size})())
    with pytest.raises(PipelineError, match="not enough disk space"):
        write_checkpoint(path, content())


def test_tied_weights_count_once():
    weight = torch.zeros(10, 10)
    assert tensor_bytes({"a": weight, "b": {"c": [weight, weight.view(100)]}}) == 400


def test_a_file_that_would_run_code_is_not_read(tmp_path):
    torch.save({"model": {}, "trap": os.system}, tmp_path / "checkpoint_latest.pt")
    with pytest.raises(PipelineError, match="cannot be read"):
        read_checkpoint(tmp_path / "checkpoint_latest.pt")


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_a_file_cut_short_is_named(tmp_path, keep):
    path = tmp_path / "checkpoint_latest.pt"
    write_checkpoint(path, content())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PipelineError, match=r"checkpoint_latest.pt is not a PyTorch checkpoint, or it is truncated"):
        read_checkpoint(path)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_flipped_bit_is_noticed(tmp_path, place):
    path = tmp_path / "checkpoint_latest.pt"
    write_checkpoint(path, {"model": {"weight": torch.rand(100, 100)}})
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(
        PipelineError, match=r"checkpoint_latest.pt is damaged: .* does not match its checksum; restore"
    ):
        read_checkpoint(path)


def test_step_checkpoints_past_a_resumed_step_stay(tmp_path):
    for number in (5, 10, 70):
        write_checkpoint(tmp_path / f"checkpoint_step_{number}.pt", content())
    prune_step_checkpoints(tmp_path, keep_last=1, step=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_step_10.pt", "checkpoint_step_70.pt"]


def test_file_without_a_model_lists_its_keys(tmp_path):
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(PipelineError, match=r"expected 'model' .*; found: weights.*export --import-checkpoint"):
        read_checkpoint(tmp_path / "other.pt")


def test_latest_is_the_run_written_last(tmp_path):
    write_at(tmp_path / "run_2026_01_02_00_00" / "checkpoint_latest.pt", 200)
    newest = write_at(tmp_path / "run_2026_01_01_00_00" / "checkpoint_latest.pt", 300)
    write_at(tmp_path / "run_2026_01_01_00_00" / "checkpoint_best.pt", 310)
    assert find_checkpoint("latest", tmp_path) == newest
    assert [run.directory.name for run in list_runs(tmp_path)] == ["run_2026_01_01_00_00", "run_2026_01_02_00_00"]
    tuned = write_at(tmp_path / "sft_lima_2026_01_03_00_00" / "checkpoint_latest.pt", 400)
    assert find_checkpoint("latest", tmp_path) == tuned
    assert find_checkpoint("latest", tmp_path, prefix="run_") == newest


def test_a_checkpoint_is_found_by_file_folder_and_name(tmp_path):
    path = write_at(tmp_path / "run_a" / "checkpoint_latest.pt", 100)
    step = write_at(tmp_path / "run_a" / "checkpoint_step_5.pt", 200)
    assert find_checkpoint(path, tmp_path) == path
    assert find_checkpoint(path.parent, tmp_path / "elsewhere") == path
    assert find_checkpoint("run_a", tmp_path) == path
    assert find_checkpoint("run_a/checkpoint_step_5.pt", tmp_path) == step
    path.unlink()
    assert find_checkpoint("run_a", tmp_path) == step


def test_checkpoints_lying_flat_are_found(tmp_path):
    flat = write_at(tmp_path / "checkpoint_latest.pt", 100)
    assert find_checkpoint("latest", tmp_path) == flat
    assert find_checkpoint(tmp_path, tmp_path) == flat


def test_missing_checkpoint_lists_existing_runs(tmp_path):
    with pytest.raises(PipelineError, match=r"no checkpoints found in .*; train a model first"):
        find_checkpoint("latest", tmp_path)
    write_at(tmp_path / "run_a" / "checkpoint_latest.pt", 100)
    with pytest.raises(
        PipelineError, match=r"checkpoint run_b does not exist; available runs in .*: run_a; or use latest"
    ):
        find_checkpoint("run_b", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match=r"empty contains no checkpoint_\*.pt"):
        find_checkpoint("empty", tmp_path)


def test_run_folders_of_one_minute_are_numbered(tmp_path):
    now = datetime(2026, 11, 22, 20, 5)
    names = [new_run_folder(tmp_path, now=now).name for _ in range(3)]
    assert names == ["run_2026_11_22_20_05", "run_2026_11_22_20_05_2", "run_2026_11_22_20_05_3"]


def test_only_the_newest_step_checkpoints_are_kept(tmp_path):
    for name in ("latest", "best", "step_5", "step_10", "step_100", "step_20"):
        write_checkpoint(tmp_path / f"checkpoint_{name}.pt", content())
    prune_step_checkpoints(tmp_path, keep_last=2, step=100)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["checkpoint_best.pt", "checkpoint_latest.pt", "checkpoint_step_100.pt", "checkpoint_step_20.pt"]
