"""Flipped bits are detected before the data is used."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import cleaner
import dataset_prep
import lima_tokenizer
from pipeline.preparation.shard_output import INDEX_DTYPE, Part
from pipeline.tuning.dataset import SftDataset
from tests.small_models import trained_tokenizer
from tokenizer import load_tokenizer
from utils.checksums import check_sums, sealed, unsealed, write_sums
from utils.errors import PipelineError

HERE = Path("content.json")


def flip(path: Path, place: bytes) -> None:
    """Flip a bit where `place` first occurs in a file, without changing its timestamps, like a bad disk."""
    content, times = bytearray(path.read_bytes()), path.stat()
    content[content.index(place)] ^= 2
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_changed_content_breaks_its_seal():
    content = {"steps": 12, "losses": [2.5, 1e-9], "größe": None}
    written = json.loads(json.dumps(sealed(content), indent=1))
    assert unsealed(written, origin=HERE, remedy="run it again") == content
    assert unsealed(content, origin=HERE, remedy="run it again") == content
    with pytest.raises(PipelineError, match=r"content\.json is damaged or was edited: .*; run it again, or delete"):
        unsealed({**written, "steps": 13}, origin=HERE, remedy="run it again")


def test_sums_name_the_file_that_changed(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("content")
    check_sums(tmp_path, remedy="copy it again")  # without sums nothing is compared
    write_sums(tmp_path, ["a.txt", "b.txt"])
    check_sums(tmp_path, remedy="copy it again")
    flip(tmp_path / "b.txt", b"t")
    with pytest.raises(PipelineError, match=r"b\.txt is damaged or was changed: .*; copy it again"):
        check_sums(tmp_path, remedy="copy it again")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(PipelineError, match=r"a\.txt .* its sha256 is missing"):
        check_sums(tmp_path, remedy="copy it again")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cleaned")
    (folder / "raw").mkdir()
    for name in ("a", "b"):
        record = {"title": name, "text": "the quick brown fox jumps over a lazy dog " * 9}
        (folder / "raw" / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    trained_tokenizer(folder / "tokenizer")
    content = {
        "paths": {"raw_dir": "raw", "cleaned_dir": "cleaned", "tokenizer_dir": "tokenizer"},
        "dataset": {"wikipedia_full_dir": "full", "wikipedia_test_dir": "test", "test_documents": 1, "window": 16},
        "model": {"vocab_size": 340},
    }
    (folder / "config.json").write_text(json.dumps(content))
    assert cleaner.main(["--config", str(folder / "config.json"), "--workers", "1"]) == 0
    return folder


@pytest.fixture
def cleaned(made_once, tmp_path) -> Path:
    """A folder with cleaned text, a tokenizer and a configuration."""
    return shutil.copytree(made_once, tmp_path / "cleaned")


def prepare(folder: Path, *arguments: str) -> None:
    assert dataset_prep.main(["--config", str(folder / "config.json"), "--workers", "1", *arguments]) == 0


def test_flipped_cleaned_text_is_refused(cleaned):
    flip(cleaned / "cleaned" / "cleaned_b.txt", b"fox")
    with pytest.raises(PipelineError, match=r"cleaned_b\.txt is damaged or .*; delete it and run: python3 cleaner\.py"):
        prepare(cleaned)
    assert not (cleaned / "full" / "metadata.json").exists()
    prepare(cleaned, "--test")  # reads the first file only


def test_flipped_cleaning_report_is_refused(cleaned):
    flip(cleaned / "cleaned" / "cleaning_report.json", b"articles")
    with pytest.raises(PipelineError, match=r"cleaning_report\.json is damaged or was edited"):
        prepare(cleaned)


def test_flipped_tokenizer_is_refused(cleaned):
    flip(cleaned / "tokenizer" / "tokenizer.json", b"fox")
    with pytest.raises(PipelineError, match=r"tokenizer\.json is damaged or .*; fetch or train it again"):
        load_tokenizer(cleaned / "tokenizer")


@pytest.mark.parametrize("name", ["tokens", "index", "removed", "json"])
def test_flipped_part_is_refused(tmp_path, name):
    part = Part(tmp_path, "shard_000000")
    index = np.array([(3, 4, 4, (1, 2))], dtype=INDEX_DTYPE)
    for _ in range(2):
        ids = [np.array([1, 7, 2], dtype=np.uint16)]
        part.append(ids, index, rows=1, size=5, rejected={}, removed=[{"reason": "lambada"}])
    part = Part(tmp_path, "shard_000000")
    part.verify()
    path = tmp_path / f"shard_000000.{name}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=rf"shard_000000\.{name} is damaged.*--restart"):
        Part(tmp_path, "shard_000000").verify()


@pytest.mark.parametrize("name", ["tokenized_examples.npy", "loss_masks.npy", "metadata.json"])
def test_flipped_conversations_are_refused(cleaned, name):
    chats = cleaned / "chats.jsonl"
    chats.write_text(json.dumps({"conversations": ["the fox?", "a dog"]}) + "\n")
    data = cleaned / "conversations"
    config = ["--config", str(cleaned / "config.json"), "--set", f"paths.post_training_dir={data}"]
    assert lima_tokenizer.main([*config, "--input", str(chats)]) == 0
    SftDataset.open(data)
    path = data / name
    content = path.read_bytes()
    for place in (*range(min(128, len(content))), -len(content) // 8):  # the header of an array, and its values
        damaged = bytearray(content)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(PipelineError, match=rf"{name} (is damaged|cannot be read).*; run: python3 lima_token"):
            SftDataset.open(data)
