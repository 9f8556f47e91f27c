"""Read documents from shards, pieces of input that can be read independently, in a fixed order.

Shards are small enough for many workers to share a large file, and reading can start at any row.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import RawIOBase
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from pipeline.formats.cleaned_text import LINE_BREAK, PARAGRAPH_BREAK, printable_name
from pipeline.formats.raw_files import BOM, ParquetRows, RawFile, format_of, json_record, reading_parquet
from utils.errors import PipelineError

SHARD_BYTES = 32 << 20
BATCH_CHARACTERS = 8 << 20  # text in memory; its ids, hashes and strings take about ten times as much
_PARQUET_ROWS = 256
_PARAGRAPH_BREAK, _LINE_BREAK = PARAGRAPH_BREAK.encode(), LINE_BREAK.encode()

Rejection = Callable[[Mapping[str, Any]], str | None]  # a document's fields → why it is dropped, or None


class Row(NamedTuple):
    """A document: its text, or the reason to drop it. `size` is in input bytes."""

    text: str
    reason: str | None
    size: int


@dataclass(frozen=True)
class Batch:
    """Consecutive documents. `rows` and `size` (input bytes) include rejected ones."""

    texts: Sequence[str]
    rows: int
    size: int
    rejected: Mapping[str, int] = field(default_factory=dict)


class Shard(Protocol):
    """Reads a piece of the input; pickled to the worker that reads it.

    `source` is the name of its file, `modified` identifies a version of that file, `size` is in input bytes, and `path`
    is None for a file on the hub.
    """

    @property
    def source(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def modified(self) -> str: ...

    @property
    def path(self) -> Path | None: ...

    def rows(self, start: int, stop: int | None) -> Iterator[Row]:
        """The rows [start, stop), or to the end of the shard if `stop` is None."""
        ...


def batches(rows: Iterable[Row], *, batch_size: int) -> Iterator[Batch]:
    """`rows` in batches of `batch_size`, or fewer if they are long."""
    texts: list[str] = []
    rejected: Counter[str] = Counter()
    number = size = held = 0
    for row in rows:
        number += 1
        size += row.size
        held += len(row.text)
        reason = row.reason or (None if row.text else "empty")
        if reason:
            rejected[reason] += 1
        else:
            texts.append(row.text)
        if number == batch_size or held >= BATCH_CHARACTERS:
            yield Batch(texts, number, size, rejected)
            texts, rejected, number, size, held = [], Counter(), 0, 0, 0
    if number:
        yield Batch(texts, number, size, rejected)


@dataclass(frozen=True)
class LineShard:
    """The lines of a cleaned file, one article each, that start in its bytes [start, end)."""

    path: Path
    start: int
    end: int
    modified: str

    @property
    def source(self) -> str:
        return printable_name(self.path.name)

    @property
    def size(self) -> int:
        return self.end - self.start

    def lines(self) -> Iterator[bytes]:
        with self.path.open("rb", buffering=1 << 20) as stream:
            position = self.start
            if self.start:
                # A line across the border belongs to the shard in which it starts.
                stream.seek(self.start - 1)
                position += len(stream.readline()) - 1
            while position < self.end and (line := stream.readline()):
                position += len(line)
                yield line

    def rows(self, start: int, stop: int | None) -> Iterator[Row]:
        for line in islice(self.lines(), start, stop):
            yield Row(self._text_of(line), None, len(line))

    def _text_of(self, line: bytes) -> str:
        try:
            # from_line on bytes, because a str with U+2028 takes two bytes per character and is slow to decode.
            return line.removesuffix(b"\n").replace(_PARAGRAPH_BREAK, b"\n\n").replace(_LINE_BREAK, b"\n").decode()
        except UnicodeDecodeError as error:
            raise PipelineError(
                f"{self.path} is not valid UTF-8: {error}; clean it again with python3 cleaner.py"
            ) from None


@dataclass(frozen=True)
class JsonLineShard(LineShard):
    """The documents of a JSONL file, each with a `text`, that start in its bytes [start, end)."""

    reject: Rejection

    def rows(self, start: int, stop: int | None) -> Iterator[Row]:
        for number, line in enumerate(islice(self.lines(), start, stop), start + 1):
            yield _row(json_record(number, line.removeprefix(BOM)).value, self.reject, len(line))


@dataclass(frozen=True)
class CompressedShard:
    """A whole compressed JSONL file, which is one shard because it cannot be read from the middle."""

    path: Path
    size: int
    modified: str
    reject: Rejection

    @property
    def source(self) -> str:
        return printable_name(self.path.name)

    def rows(self, start: int, stop: int | None) -> Iterator[Row]:
        position = 0
        with RawFile(self.path) as file:
            for record in islice(file.records(), start, stop):
                yield _row(record.value, self.reject, file.position - position)
                position = file.position


@dataclass(frozen=True)
class ParquetShard:
    """The row groups [first, last) of a local or remote Parquet file, or to the end of the file if `last` is None."""

    source: str
    size: int
    modified: str
    open: Callable[[], IO[bytes] | RawIOBase]
    reject: Rejection
    first: int = 0
    last: int | None = None
    columns: tuple[str, ...] = ("text", "language_score")
    path: Path | None = None

    def rows(self, start: int, stop: int | None) -> Iterator[Row]:
        with self.open() as stream, reading_parquet(self.source), ParquetRows(stream, at_once=_PARQUET_ROWS) as file:
            if "text" not in file.columns:
                raise PipelineError(f"{self.source} has no column 'text'; columns found: {', '.join(file.columns)}")
            rows = file.rows(self.columns, start=start, first_group=self.first, last_group=self.last)
            for row in islice(rows, None if stop is None else max(stop - start, 0)):
                yield _row(row.fields, self.reject, row.size)


def _row(fields: Mapping[str, Any] | None, reject: Rejection, size: int) -> Row:
    text = fields.get("text") if fields is not None else None
    if fields is None or not isinstance(text, str):
        return Row("", "malformed", size)
    return Row(text, reject(fields) if text else "empty", size)


def line_shards(paths: Sequence[Path], kind: Callable[..., LineShard] = LineShard) -> Sequence[LineShard]:
    """Cut every file into shards of about `SHARD_BYTES`."""
    facts = [(path, path.stat()) for path in paths]
    return [
        kind(path, start, min(start + SHARD_BYTES, fact.st_size), str(fact.st_mtime_ns))
        for path, fact in facts
        for start in range(0, fact.st_size, SHARD_BYTES)
    ]


def record_shards(paths: Sequence[Path], reject: Rejection) -> list[Shard]:
    """Local Parquet and (optionally compressed) JSONL files as shards."""
    shards: list[Shard] = []
    for path in paths:
        fact = path.stat()
        if format_of(path) == "parquet":
            shards += _parquet_shards(path, reject)
        elif path.suffix in (".jsonl", ".ndjson"):
            shards += line_shards([path], partial(JsonLineShard, reject=reject))
        elif format_of(path) == "jsonl":
            shards.append(CompressedShard(path, fact.st_size, str(fact.st_mtime_ns), reject))
        else:
            raise PipelineError(f"{path} is neither Parquet nor JSONL; expected *.parquet, *.jsonl (.gz, .bz2, .zst)")
    return shards


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _parquet_shards(path: Path, reject: Rejection) -> list[Shard]:
    with path.open("rb") as stream, reading_parquet(path), ParquetRows(stream) as file:
        sizes = file.group_sizes
    shards: list[Shard] = []
    first = 0
    size = 0
    modified = str(path.stat().st_mtime_ns)
    for group, group_size in enumerate(sizes):
        size += group_size
        if size >= SHARD_BYTES // 2 or group == len(sizes) - 1:
            rows = (first, group + 1)
            shards.append(
                ParquetShard(printable_name(path.name), size, modified, partial(_open, path), reject, *rows, path=path)
            )
            first = group + 1
            size = 0
    return shards
