"""Devices: missing ones are one-line errors, and torchrun's ranks are read."""

from types import SimpleNamespace

import pytest
import torch

from utils.devices import (
    World,
    choose_dtype,
    current_world,
    free_memory,
    peak_flops_of,
    peak_memory,
    resolve_device,
)
from utils.errors import PipelineError


def test_missing_cuda_suggests_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PipelineError, match=r"device cuda: .*; use --device cpu"):
        resolve_device("cuda")


def test_auto_falls_back_to_the_cpu(monkeypatch):
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
    with pytest.raises(PipelineError, match=r"no GPU for process 2 on this machine \(2 found\); lower --nproc"):
        resolve_device("cuda")


def test_the_compute_type_follows_the_device():
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) is torch.float32
    assert choose_dtype("bfloat16", cpu) is torch.bfloat16


@pytest.mark.parametrize(("capability", "chosen"), [((8, 6), torch.bfloat16), ((7, 5), torch.float32)])
def test_bfloat16_requires_native_support(monkeypatch, capability, chosen):
    card = SimpleNamespace(major=capability[0], minor=capability[1], name="NVIDIA Card")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    cuda = torch.device("cuda", 0)
    assert choose_dtype("auto", cuda) is chosen
    if chosen is torch.float32:
        with pytest.raises(PipelineError, match=r"dtype bfloat16: NVIDIA Card does not support it; .*float32"):
            choose_dtype("bfloat16", cuda)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA GeForce RTX 3060", 25.5),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 88.2),
        ("NVIDIA GeForce RTX 5090", 209),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40", 181),
        ("rtx 4090", 165),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_peak_flops_match_the_exact_card(name, tera):
    assert peak_flops_of(name) == (None if tera is None else pytest.approx(tera * 1e12))


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
