"""Helpers for training tests: a token dataset that a tiny model learns in seconds, a configuration, run results."""

import json
from pathlib import Path

import numpy as np
import torch

import train
from pipeline.formats.checkpoint import read_checkpoint
from tests.tiny_model import model_section
from utils.checksums import sha256_of
from utils.raw_log import read_log

VOCAB_SIZE, WINDOW = 48, 16


def write_tokens(directory: Path, *, tokens: int = 6_000, fingerprint: str = "f0", seed: int = 0) -> Path:
    """A fixed walk over the vocabulary with noise, in documents of 50 tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    stream = np.arange(tokens) * 7 % (VOCAB_SIZE - 3) + 3
    noise = random.random(tokens) < 0.1
    stream[noise] = random.integers(3, VOCAB_SIZE, noise.sum())
    stream[::50], stream[49::50] = 1, 2
    path = directory / "tokens_0.npy"
    np.save(path, stream.astype(np.uint16))
    metadata = {
        "format_version": 1,
        "tokenizer": {"name": "toy", "fingerprint": fingerprint, "bos_id": 1, "eos_id": 2},
        "vocab_size": VOCAB_SIZE,
        "token_byte_lengths": [0, 0, 0, *[4] * (VOCAB_SIZE - 3)],
        "window": WINDOW,
        "stride": WINDOW // 2,
        "files": [{"name": path.name, "tokens": tokens, "sha256": sha256_of(path)}],
    }
    (directory / "metadata.json").write_text(json.dumps(metadata))
    return directory


def write_config(folder: Path, **training: object) -> Path:
    """A configuration file in `folder`, where the run writes everything."""
    content = {
        "paths": {"checkpoint_dir": "checkpoints", "log_dir": "logs"},
        "dataset": {"source": "custom", "custom_dir": "data", "window": WINDOW},
        "model": model_section(vocab_size=VOCAB_SIZE, context=WINDOW),
        "training": {
            "device": "cpu",
            "compile": "off",
            "batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 5e-3,
            "warmup_steps": 4,
            "checkpoint_every_steps": 7,
            "log_every_steps": 1,
            "val_tokens": 512,
            "max_steps": 20,
            **training,
        },
    }
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def run_train(project: Path, *arguments: str) -> Path:
    """Train in this process; returns the run's folder."""
    assert train.main(["--config", str(project / "config.json"), *arguments]) == 0
    return newest_run(project)


def newest_run(project: Path) -> Path:
    return max((project / "checkpoints").iterdir(), key=lambda folder: folder.stat().st_mtime)


def content_of(run: Path, name: str = "latest") -> dict:
    return read_checkpoint(run / f"checkpoint_{name}.pt")


def losses_of(project: Path, run: Path) -> dict[int, float]:
    lines = read_log(next((project / "logs" / "raw_metrics").glob(f"{run.name}*.jsonl")))
    return {line["step"]: line["train_loss"] for line in lines if "train_loss" in line}


def assert_same_state(left: dict, right: dict) -> None:
    for name, tensor in left["model"].items():
        assert torch.equal(tensor, right["model"][name]), name
    for one, other in zip(left["optimizer"], right["optimizer"], strict=True):
        for index, state in one["state"].items():
            for key, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(other["state"][index][key]))
    for key in ("step", "tokens_seen", "epoch", "loader", "best", "scheduler", "validated_step", "guard", "metrics"):
        assert left[key] == right[key], key
    for one, other in zip(left["rng"], right["rng"], strict=True):
        assert torch.equal(one["torch"], other["torch"])
        assert one["python"] == other["python"]
