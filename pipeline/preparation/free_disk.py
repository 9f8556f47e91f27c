"""Estimate the size of a dataset, and check whether the disk has room for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.preparation.near_duplicate_jobs import bytes_per_document
from pipeline.preparation.shard_output import INDEX_DTYPE
from utils.errors import PipelineError
from utils.files import free_disk
from utils.terminal import format_bytes, format_count, say

if TYPE_CHECKING:
    from pipeline.preparation.job import Preparation
    from pipeline.tokenization.interface import Tokenizer

_SAMPLE_ROWS = 200
_SAMPLE_BYTES = 1 << 18


@dataclass(frozen=True)
class ExpectedSize:
    """`at_most` is the peak disk usage during preparation, `dataset` the final size; both in bytes."""

    tokens: int
    dataset: int
    at_most: int


def expected_size(job: "Preparation", tokenizer: "Tokenizer") -> ExpectedSize:
    """An estimate from the first documents: tokens per byte of input, and bytes per document."""
    sizes, texts = _sample(job)
    row_size = max(sum(sizes) / max(len(sizes), 1), 1.0)
    total: float = sum(shard.size for shard in job.shards)
    documents = total / row_size
    if job.limit is not None:
        documents = min(documents, job.limit)
        total = min(total, job.limit * row_size)
    tokens = sum(len(tokenizer.encode(text)) + 2 for text in texts) / max(sum(sizes), 1) * total
    dataset = int(tokens * 2)
    files = min(max(1, int(tokens) // job.dataset.file_tokens), job.dataset.max_files)
    # Until they are removed, parts are on disk together with the files written from them.
    at_most = dataset + dataset * min(job.workers, files) // files + int(documents * _record_bytes(job))
    return ExpectedSize(int(tokens), dataset, at_most)


def _record_bytes(job: "Preparation") -> int:
    """What is stored about each document besides its tokens."""
    threshold = job.dataset.near_duplicates
    return INDEX_DTYPE.itemsize + (0 if threshold is None else bytes_per_document(threshold))


def refuse_small_disk(directory: Path, expected: ExpectedSize) -> None:
    """Print the expected size and the free space.

    Raises:
        PipelineError: there is not enough space.
    """
    there = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    free = free_disk(directory)
    needed = max(expected.at_most - there, 0)
    about = f"about {format_count(expected.tokens)} tokens, {format_bytes(expected.dataset)}"
    if needed > free:
        raise PipelineError(
            f"{directory} will contain {about}; preparing it needs {format_bytes(needed)} of disk space, but "
            f"only {format_bytes(free)} is free; free some space, or choose a different folder in the config"
        )
    say(f"expected: {about} in {directory} ({format_bytes(free)} free)")


def _sample(job: "Preparation") -> tuple[Sequence[int], Sequence[str]]:
    """The input bytes and the texts of the first documents."""
    sizes: list[int] = []
    texts: list[str] = []
    rows = (row for shard in job.shards for row in shard.rows(0, _SAMPLE_ROWS))
    for row in islice(rows, _SAMPLE_ROWS):
        sizes.append(row.size)
        if not row.reason:
            texts.append(row.text)
        if sum(sizes) > _SAMPLE_BYTES:
            break
    return sizes, texts
