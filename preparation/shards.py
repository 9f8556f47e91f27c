"""Where documents come from: shards, pieces of input that are read independently and in a fixed order.

A shard is small enough that many workers share one big file, and can be picked up at any row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from utils.errors import PipelineError
from utils.text import from_line

SHARD_BYTES = 32 << 20
BATCH_BYTES = 8 << 20  # text in memory at once; ids, hashes and strings of it take about ten times as much


@dataclass(frozen=True)
class Batch:
    """Documents that follow each other. `rows` and `size` (input bytes) count the rejected ones too."""

    texts: Sequence[str]
    rows: int
    size: int
    rejected: Mapping[str, int] = field(default_factory=dict)


class Shard(Protocol):
    """Reads one piece of the input; pickled to the worker that reads it.

    `source` names its file, `modified` tells one state of that file from another, `size` is in input bytes.
    """

    source: str
    size: int
    modified: str

    def batches(self, *, start: int, stop: int | None, batch_size: int) -> Iterator[Batch]:
        """Batches of the rows [start, stop), of at most `batch_size` rows each; `stop` None: to the shard's end."""
        ...


@dataclass(frozen=True)
class LineShard:
    """The articles that begin in the bytes [start, end) of a cleaned file, one a line."""

    path: Path
    start: int
    end: int
    modified: str

    @property
    def source(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        return self.end - self.start

    def lines(self) -> Iterator[bytes]:
        with self.path.open("rb", buffering=1 << 20) as stream:
            position = self.start
            if self.start:
                # The line that runs across the border belongs to the shard where it begins.
                stream.seek(self.start - 1)
                position += len(stream.readline()) - 1
            while position < self.end and (line := stream.readline()):
                position += len(line)
                yield line

    def batches(self, *, start: int, stop: int | None, batch_size: int) -> Iterator[Batch]:
        texts: list[str] = []
        size = rows = 0
        for line in islice(self.lines(), start, stop):
            rows += 1
            size += len(line)
            if text := from_line(self._decode(line)):
                texts.append(text)
            if rows == batch_size or size >= BATCH_BYTES:
                yield Batch(texts, rows, size, {"empty": rows - len(texts)})
                texts, size, rows = [], 0, 0
        if rows:
            yield Batch(texts, rows, size, {"empty": rows - len(texts)})

    def _decode(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise PipelineError(
                f"{self.path} is not UTF-8 text: {error}; clean it again with python3 cleaner.py"
            ) from None


def line_shards(paths: Sequence[Path]) -> list[LineShard]:
    """Every file cut into shards of about `SHARD_BYTES`."""
    facts = [(path, path.stat()) for path in paths]
    return [
        LineShard(path, start, min(start + SHARD_BYTES, fact.st_size), str(fact.st_mtime_ns))
        for path, fact in facts
        for start in range(0, fact.st_size, SHARD_BYTES)
    ]
