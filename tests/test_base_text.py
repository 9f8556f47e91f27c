"""Tuning reports what it keeps of the base model: bits per byte of the text that pretraining held out."""

import json
import math

import numpy as np
import pytest
import torch

import lima_tokenizer
import post_training
from model import load_model
from pipeline.configuration import config_from_dict, load_config
from pipeline.dataloading.split import read_windows, split_windows, window_positions
from pipeline.formats.checkpoint import read_checkpoint, write_checkpoint
from pipeline.formats.token_dataset import TokenDataset
from pipeline.tuning.base_text import BaseText, kept_line
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.checksums import sha256_of
from utils.errors import PipelineError

WINDOW = 32  # of small_checkpoint's configuration
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A base checkpoint with its dataset, and a finished tuning run; returns the folder and the run's."""
    folder = tmp_path_factory.mktemp("base_text")
    tokenizer = trained_tokenizer(folder / "tokenizer")
    dataset = write_dataset(folder / "dataset", tokenizer)
    checkpoint = folder / "checkpoints" / "run_2026_01_01_00_00" / "checkpoint_latest.pt"
    small_checkpoint(checkpoint, tokenizer, weight_scale=1.0)
    content = read_checkpoint(checkpoint)
    content["data"] = {"directory": str(dataset.directory), "fingerprint": dataset.fingerprint}
    write_checkpoint(checkpoint, content)
    chats = folder / "chats.jsonl"
    chats.write_text("".join(json.dumps({"conversations": [f"fox {n}?", "the lazy dog"]}) + "\n" for n in range(12)))
    paths = {"tokenizer": "tokenizer", "checkpoint": "checkpoints", "log": "logs", "post_training": "data"}
    values = [*(f"paths.{key}_dir={folder / name}" for key, name in paths.items()), "sft.sample_prompts=[]"]
    settings = [part for value in values for part in ("--set", value)]
    assert lima_tokenizer.main(["--input", str(chats), "--max-length", "64", *settings]) == 0
    assert post_training.main(["--checkpoint", "latest", "--device", "cpu", "--epochs", "1", *settings]) == 0
    (run,) = (folder / "checkpoints").glob("sft_*")
    return folder, run


def write_dataset(directory, tokenizer):
    directory.mkdir()
    ids = np.random.default_rng(0).integers(3, tokenizer.vocab_size, 2000).astype(np.uint16)
    np.save(directory / "tokens_0.npy", ids)
    files = [{"name": "tokens_0.npy", "tokens": len(ids), "sha256": sha256_of(directory / "tokens_0.npy")}]
    lengths = tokenizer.token_byte_lengths().tolist()
    metadata = {"format_version": 1, "window": WINDOW, "stride": 16, "files": files, "token_byte_lengths": lengths}
    (directory / "metadata.json").write_text(json.dumps(metadata))
    return TokenDataset.open(directory)


def test_the_report_equals_a_plain_computation(workshop):
    folder, run = workshop
    content = read_checkpoint(run / "checkpoint_best.pt")
    config = config_from_dict(content["config"], origin="test")
    dataset = TokenDataset.open(folder / "dataset", window=WINDOW, stride=config.dataset.stride)
    split = split_windows(dataset, val_split=config.dataset.val_split, seed=config.dataset.seed)
    windows = torch.from_numpy(read_windows(dataset, *window_positions(split.validation, split.val_step)).astype(int))
    num_bytes = np.array(dataset.metadata["token_byte_lengths"])[windows[:, 1:]].sum()
    for checkpoint, step in ((content["base"]["checkpoint"], 0), (run / "checkpoint_best.pt", content["step"])):
        with torch.no_grad():
            nats = load_model(checkpoint)(windows, labels=windows)["loss"].item() * windows[:, 1:].numel()
        assert content["base_text"][str(step)] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_every_validation_is_logged(workshop):
    folder, run = workshop
    lines = map(json.loads, (folder / "logs" / "raw_metrics" / f"{run.name}.jsonl").read_text().splitlines())
    logged = {str(line["step"]): line["val_base_bits_per_byte"] for line in lines if "val_base_bits_per_byte" in line}
    assert logged == read_checkpoint(run / "checkpoint_latest.pt")["base_text"]


def test_the_summary_compares_before_and_after():
    assert kept_line({"0": 1.2, "5": 1.5}, 5) == (
        "base text: 1.2000 bits per byte before tuning, 1.5000 at step 5 (+25.0%)"
    )
    assert kept_line({}, 5) == ""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"fingerprint": "other"}, "is not the dataset that the model was pretrained on"),
        ({"directory": "/nowhere"}, "/nowhere"),
        ({"directory": None}, "does not record the dataset"),
    ],
)
def test_text_that_is_not_the_base_models_is_refused(workshop, change, problem):
    _, run = workshop
    data = read_checkpoint(run / "checkpoint_best.pt")["base"]["data"] | change
    with pytest.raises(PipelineError, match=problem):
        BaseText.open({"data": data}, load_config(settings=["dataset.window=32"]), CPU)
