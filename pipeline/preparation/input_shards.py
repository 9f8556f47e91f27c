"""Where documents come from: shards, pieces of input that are read independently and in a fixed order.

A shard is small enough that many workers share one big file, and can be picked up at any row.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from pipeline.formats.cleaned_text import LINE_BREAK, PARAGRAPH_BREAK, printable_name
from pipeline.formats.raw_files import BOM, RawFile, format_of
from utils.errors import PipelineError

SHARD_BYTES = 32 << 20
BATCH_CHARACTERS = 8 << 20  # text in memory at once; ids, hashes and strings of it take about ten times as much
_PARQUET_ROWS = 256
_PARAGRAPH_BREAK, _LINE_BREAK = PARAGRAPH_BREAK.encode(), LINE_BREAK.encode()

Rejection = Callable[[Mapping[str, Any]], str | None]  # a document's fields → why it is left out, or None


class Row(NamedTuple):
    """A document that was read: its text, or the reason why it is left out. `size` is in input bytes."""

    text: str
    reason: str | None
    size: int


@dataclass(frozen=True)
class Batch:
    """Documents that follow each other. `rows` and `size` (input bytes) count the rejected ones too."""

    texts: Sequence[str]
    rows: int
    size: int
    rejected: Mapping[str, int] = field(default_factory=dict)


class Shard(Protocol):
    """Reads one piece of the input; pickled to the worker that reads it.

    `source` names its file, `modified` tells one state of that file from another, `size` is in input bytes,
    `path` is None for a file on the hub.
    """

    source: str
    size: int
    modified: str
    path: Path | None

    def rows(self, start: int, stop: int | None) -> Iterator[Row]:
        """The rows [start, stop); `stop` None: to the shard's end."""
        ...


def batches(rows: Iterable[Row], *, batch_size: int) -> Iterator[Batch]:
    """`rows` in batches of `batch_size`, or fewer where they are long."""
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
    """The lines of a file that begin in its bytes [start, end): articles of a cleaned file."""

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
                # The line that runs across the border belongs to the shard where it begins.
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
            # from_line on bytes: a str that holds U+2028 takes two bytes a character and is slow to decode.
            return line.removesuffix(b"\n").replace(_PARAGRAPH_BREAK, b"\n\n").replace(_LINE_BREAK, b"\n").decode()
        except UnicodeDecodeError as error:
            raise PipelineError(
                f"{self.path} is not UTF-8 text: {error}; clean it again with python3 cleaner.py"
            ) from None


@dataclass(frozen=True)
class JsonLineShard(LineShard):
    """The documents of a JSONL file that begin in its bytes [start, end), each with a `text`."""

    reject: Rejection

    def rows(self, start: int, stop: int | None) -> Iterator[Row]:
        import orjson

        for line in islice(self.lines(), start, stop):
            try:
                fields = orjson.loads(line.removeprefix(BOM))
            except orjson.JSONDecodeError:
                fields = None
            yield _row(fields, self.reject, len(line))


@dataclass(frozen=True)
class CompressedShard:
    """A whole compressed JSONL file: what cannot be entered in the middle is one shard."""

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
    """The row groups [first, last) of a Parquet file, on disk or far away; `last` None: to the file's end."""

    source: str
    size: int
    modified: str
    open: Callable[[], BinaryIO]
    reject: Rejection
    first: int = 0
    last: int | None = None
    columns: tuple[str, ...] = ("text", "language_score")
    path: Path | None = None

    def rows(self, start: int, stop: int | None) -> Iterator[Row]:
        from pyarrow import ArrowInvalid, parquet

        try:
            # Pages are read as they are needed: a row group may hold all of a big file.
            options = {"pre_buffer": False, "buffer_size": 4 << 20, "page_checksum_verification": True}
            with self.open() as stream, parquet.ParquetFile(stream, **options) as file:
                yield from islice(self._rows_of(file, start), None if stop is None else max(stop - start, 0))
        except (ArrowInvalid, UnicodeDecodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise PipelineError(f"{self.source} is no Parquet file, or damaged: {error}; fetch it again") from None

    def _rows_of(self, file: Any, start: int) -> Iterator[Row]:
        names = file.schema_arrow.names
        if "text" not in names:
            raise PipelineError(f"{self.source} has no column 'text'; found: {', '.join(names)}")
        columns = [name for name in self.columns if name in names]
        for group in range(self.first, file.num_row_groups if self.last is None else self.last):
            facts = file.metadata.row_group(group)
            if facts.num_rows <= start:
                start -= facts.num_rows
                continue
            size = _compressed_size(facts) // max(facts.num_rows, 1)
            for batch in file.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=columns, use_threads=False):
                if batch.num_rows <= start:
                    start -= batch.num_rows
                    continue
                for fields in batch.slice(start).to_pylist():
                    yield _row(fields, self.reject, size)
                start = 0


def _row(fields: Mapping[str, Any] | None, reject: Rejection, size: int) -> Row:
    text = fields.get("text") if isinstance(fields, dict) else None
    if not isinstance(text, str):
        return Row("", "malformed", size)
    return Row(text, reject(fields) if text else "empty", size)


def _compressed_size(row_group: Any) -> int:
    return sum(row_group.column(column).total_compressed_size for column in range(row_group.num_columns))


def line_shards(paths: Sequence[Path], kind: Callable[..., LineShard] = LineShard) -> list[LineShard]:
    """Every file cut into shards of about `SHARD_BYTES`."""
    facts = [(path, path.stat()) for path in paths]
    return [
        kind(path, start, min(start + SHARD_BYTES, fact.st_size), str(fact.st_mtime_ns))
        for path, fact in facts
        for start in range(0, fact.st_size, SHARD_BYTES)
    ]


def record_shards(paths: Sequence[Path], reject: Rejection) -> list[Shard]:
    """Local Parquet and JSONL files (also compressed) as shards."""
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
            raise PipelineError(f"{path} is neither Parquet nor JSONL; wanted: *.parquet, *.jsonl (.gz, .bz2, .zst)")
    return shards


def _parquet_shards(path: Path, reject: Rejection) -> list[ParquetShard]:
    from pyarrow import ArrowInvalid, parquet

    try:
        metadata = parquet.read_metadata(path)
    except ArrowInvalid as error:
        raise PipelineError(f"{path} is no Parquet file, or damaged: {error}; fetch it again") from None
    shards, first, size = [], 0, 0
    modified = str(path.stat().st_mtime_ns)
    for group in range(metadata.num_row_groups):
        size += _compressed_size(metadata.row_group(group))
        if size >= SHARD_BYTES // 2 or group == metadata.num_row_groups - 1:
            open_file, rows = partial(path.open, "rb"), (first, group + 1)
            shards.append(ParquetShard(printable_name(path.name), size, modified, open_file, reject, *rows, path=path))
            first, size = group + 1, 0
    return shards
