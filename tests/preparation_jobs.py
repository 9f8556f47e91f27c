"""Preparation jobs over two small cleaned files, with a tokenizer of a few lines that workers can import."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.formats.cleaned_text import to_line
from pipeline.preparation.config import DatasetConfig
from pipeline.preparation.input_shards import line_shards
from pipeline.preparation.job import Preparation

FAKE = '''
import hashlib
import numpy as np

class ByteTokenizer:
    """Every byte is a token, after <unk>, <s>, </s>."""

    name, fingerprint, vocab_size, bos_id, eos_id = "bytes", "f" * 64, 259, 1, 2

    def encode(self, text):
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts):
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16) + 3 for text in texts]

    def verify_batch(self, texts):
        pass

    def decode(self, ids):
        return bytes(int(i) - 3 for i in ids if i > 2).decode(errors="replace")

    def token_byte_lengths(self):
        return np.array([0, 0, 0] + [1] * 256)
'''


@pytest.fixture
def tokenizer_class(tmp_path, monkeypatch):
    """Importable by name, so that worker processes can load it."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "byte_tokenizer_fake.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    import byte_tokenizer_fake

    yield byte_tokenizer_fake.ByteTokenizer
    sys.modules.pop("byte_tokenizer_fake", None)


@pytest.fixture
def articles():
    return [f"Article {number}.\n\nIt is {'very ' * (number % 7)}short,\nand ends – here." for number in range(200)]


@pytest.fixture
def make_job(tmp_path, tokenizer_class, articles, monkeypatch):
    """Makes a job over two cleaned files, in shards of 2,000 bytes so that there are several."""
    monkeypatch.setattr("pipeline.preparation.input_shards.SHARD_BYTES", 2000)
    cleaned = tmp_path / "cleaned"
    cleaned.mkdir()
    paths = [cleaned / "cleaned_0.txt", cleaned / "cleaned_1.txt"]
    for path, part in zip(paths, (articles[:120], articles[120:]), strict=True):
        path.write_text("".join(to_line(article) + "\n" for article in part), encoding="utf-8", newline="\n")

    def job(name: str = "dataset", **changes) -> Preparation:
        settings = {
            "directory": tmp_path / name,
            "shards": line_shards(paths),
            "load_tokenizer": tokenizer_class,
            "recipe": {"window": 16, "overlap": 0.5},
            "dataset": dataset_config(),
            "workers": 1,
        }
        return Preparation(**{**settings, **changes})

    return job


def dataset_config(**changes) -> DatasetConfig:
    return replace(DatasetConfig(window=16, overlap=0.5, file_tokens=1500, batch_size=7), **changes)


def stream_of(articles, tokenizer) -> np.ndarray:
    return np.concatenate([[1, *ids, 2] for ids in tokenizer.encode_batch(articles)])


def sums_of(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def with_window(job: Preparation, window: int) -> Preparation:
    recipe = {**job.recipe, "window": window, "overlap": 0.25}
    return replace(job, dataset=dataset_config(window=window, overlap=0.25), recipe=recipe)
