"""Devices: what is not there is refused in one line, and torchrun's numbers are read."""

import pytest
import torch

from utils.devices import World, choose_dtype, current_world, free_memory, peak_memory, resolve_device
from utils.errors import PipelineError


def test_cuda_where_there_is_none_names_the_way_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PipelineError, match=r"device cuda: .*; run it with --device cpu"):
        resolve_device("cuda")


def test_auto_takes_the_cpu_where_there_is_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(PipelineError, match=r"device mps: .*--device cpu"):
        resolve_device("mps")


def test_each_process_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(PipelineError, match="process 2 of this machine has no GPU, 2 found; lower --nproc"):
        resolve_device("cuda")


def test_the_compute_type_follows_the_device():
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) is torch.float32
    assert choose_dtype("bfloat16", cpu) is torch.bfloat16


def test_the_world_is_one_process_unless_torchrun_says_otherwise(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert current_world() == World(0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert current_world() == World(3, 4, 0)
    assert not current_world().is_main


def test_memory_is_counted_in_bytes():
    cpu = torch.device("cpu")
    assert 10**7 < peak_memory(cpu) < 10**12
    assert 10**7 < free_memory(cpu) < 10**14
