"""After a quickstart, errors about missing files mention the quickstart's configuration."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dataloader import open_dataset
from pipeline.cleaning.plan import plan_jobs
from pipeline.configuration import Config, load_config
from pipeline.console.menus import choose_run
from pipeline.formats.cleaned_text import cleaned_files
from pipeline.formats.run_folders import find_checkpoint
from pipeline.quickstart_hint import or_quickstart
from pipeline.tuning.dataset import SftDataset
from tokenizer import load_tokenizer
from utils.errors import PipelineError

FOLDERS = ("raw_dir", "cleaned_dir", "tokenizer_dir", "checkpoint_dir", "post_training_dir")
FINDERS: dict[str, tuple[str, Callable[[Config], object]]] = {
    "checkpoint": (
        "checkpoint_dir/run_a/checkpoint_latest.pt",
        lambda c: find_checkpoint("latest", c.paths.checkpoint_dir),
    ),
    "run in the menu": ("checkpoint_dir/run_a/checkpoint_latest.pt", lambda c: choose_run(c.paths.checkpoint_dir)),
    "tokenizer": ("tokenizer_dir/tokenizer.json", lambda c: load_tokenizer(c.paths.tokenizer_dir)),
    "dataset": ("dataset/metadata.json", lambda c: open_dataset(c.dataset, test=True)),
    "conversations": ("post_training_dir/metadata.json", lambda c: SftDataset.open(c.paths.post_training_dir)),
    "cleaned text": ("cleaned_dir/cleaned_0.txt", lambda c: cleaned_files(c.paths.cleaned_dir)),
    "raw text": ("raw_dir/python_help_0.jsonl", lambda c: plan_jobs(c.paths.raw_dir)),
}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A folder with both configurations and nothing else."""
    write_config(tmp_path / "config.json", tmp_path / "mine", "wikipedia_test_dir")
    write_config(tmp_path / "configs" / "quickstart.json", tmp_path / "quickstart", "custom_dir", source="custom")
    monkeypatch.setattr("pipeline.configuration.DEFAULT_CONFIG", tmp_path / "config.json")
    monkeypatch.setattr("pipeline.quickstart_hint.QUICKSTART_CONFIG", tmp_path / "configs" / "quickstart.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(path: Path, folder: Path, dataset_key: str, **dataset: str) -> None:
    paths = {key: str(folder / key) for key in FOLDERS}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"paths": paths, "dataset": {dataset_key: str(folder / "dataset"), **dataset}}))


def make(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()


@pytest.mark.parametrize("missing", FINDERS)
def test_errors_mention_an_existing_quickstart(checkout, missing):
    made, find = FINDERS[missing]
    make(checkout / "quickstart" / made)
    with pytest.raises(PipelineError, match=r"; or use the quickstart's: --config configs/quickstart\.json$"):
        find(load_config())


@pytest.mark.parametrize("missing", FINDERS)
def test_error_is_silent_about_an_empty_quickstart(checkout, missing):
    _, find = FINDERS[missing]
    with pytest.raises(PipelineError) as caught:
        find(load_config())
    assert "quickstart" not in str(caught.value)


def test_explicit_folder_gets_no_hint(checkout):
    make(checkout / "quickstart" / "checkpoint_dir" / "run_a" / "checkpoint_latest.pt")
    assert or_quickstart(checkout / "elsewhere") == ""


def test_quickstart_is_not_sent_to_itself(checkout):
    make(checkout / "quickstart" / "checkpoint_dir" / "run_a" / "checkpoint_latest.pt")
    assert or_quickstart(checkout / "quickstart" / "checkpoint_dir") == ""


def test_unreadable_quickstart_config_does_not_hide_errors(checkout):
    (checkout / "configs" / "quickstart.json").write_text("{")
    with pytest.raises(PipelineError, match="train a model first"):
        find_checkpoint("latest", load_config().paths.checkpoint_dir)
