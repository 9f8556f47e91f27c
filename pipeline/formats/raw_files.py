"""Read raw input files as a stream of records: JSON lines, Parquet, MediaWiki XML and plain text, optionally
compressed.

    with RawFile(path) as file:
        for record in file.records():
            ...                                  # record.number, record.value, or record.problem

Memory is bounded for files of any size. A record that cannot be read has a `problem` and no value. A damaged file
(truncated, or in a different format than its extension) raises a PipelineError.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from xml.etree import ElementTree

from pipeline.quickstart_hint import or_quickstart
from utils.errors import PipelineError
from utils.terminal import format_bytes

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".xml": "xml", ".txt": "text", ".md": "text"}
COMPRESSIONS = (".gz", ".bz2", ".zst")

# The longest articles are a few MB. Parsing and cleaning a line takes up to sixteen times its size in memory.
MAX_LINE_BYTES = 24 << 20
TEXT_PIECE_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
_PIECE_OF_DUMP = re.compile(r"(\.xml)(-p\d+p\d+)$")
_ROWS_AT_ONCE = 64
_PARQUET_BUFFER_BYTES = 4 << 20
_BUFFER_BYTES = 1 << 20


class Record(NamedTuple):
    """An article or document; `number` is its line, row, page or piece, counted from 1."""

    number: int
    value: dict[str, Any] | None
    problem: str = ""
    excerpt: str = ""


def format_of(path: Path) -> str | None:
    """``jsonl``, ``parquet``, ``xml`` or ``text``, or None for an unknown extension."""
    return FORMATS.get(Path(bare_name(path)).suffix.lower())


def bare_name(path: Path) -> str:
    """The file name without the compression suffix: ``a.jsonl.gz`` → ``a.jsonl``.

    The pages in a piece of a dump are put before its extension: ``a1.xml-p1p41242.bz2`` → ``a1-p1p41242.xml``.
    """
    name = path.stem if path.suffix.lower() in COMPRESSIONS else path.name
    return _PIECE_OF_DUMP.sub(r"\2\1", name)


def find_raw_files(place: Path) -> list[Path]:
    """`place` itself, or the readable files in it and its subfolders, sorted by path.

    Raises:
        PipelineError: it does not exist, or has no readable files.
    """
    expected = ", ".join(FORMATS) + f" (also {', '.join(COMPRESSIONS)})"
    if not place.exists():
        remedy = f"pass one with --input{or_quickstart(place)}"
        raise PipelineError(f"{place} does not exist; expected a folder or one of these files: {expected}; {remedy}")
    if place.is_file():
        if not format_of(place):
            raise PipelineError(f"{place} has an unknown format; expected {expected}")
        return [place]
    candidates = sorted(path for path in place.rglob("*") if path.is_file() and not _is_hidden(path, place))
    found = [path for path in candidates if format_of(path)]
    if not found:
        seen = f"{len(candidates)} files, such as {candidates[0].name}" if candidates else "nothing"
        remedy = f"choose a different folder with --input{or_quickstart(place)}"
        raise PipelineError(f"{place} contains {seen}; expected {expected}; {remedy}")
    return found


def _is_hidden(path: Path, place: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(place).parts)


class ParquetRow(NamedTuple):
    """`number` counts from 1 over all row groups; `size` is a row's share of its row group's compressed bytes."""

    number: int
    fields: dict[str, Any]
    size: int


class ParquetRows:
    """A Parquet file, local or remote, as rows. Pages are read on demand, `at_once` rows at a time."""

    def __init__(self, stream: IO[bytes] | io.RawIOBase, *, at_once: int = _ROWS_AT_ONCE) -> None:
        from pyarrow import parquet

        # A row group may be an entire large file, so do not prefetch.
        self._file = parquet.ParquetFile(
            stream, pre_buffer=False, buffer_size=_PARQUET_BUFFER_BYTES, page_checksum_verification=True
        )
        self._at_once = at_once
        self.columns: list[str] = self._file.schema_arrow.names
        self.num_rows: int = self._file.metadata.num_rows

    def __enter__(self) -> "ParquetRows":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def group_sizes(self) -> list[int]:
        """The compressed size of every row group in bytes."""
        groups = (self._file.metadata.row_group(group) for group in range(self._file.num_row_groups))
        return [sum(group.column(n).total_compressed_size for n in range(group.num_columns)) for group in groups]

    def rows(
        self, columns: Sequence[str] | None, *, start: int = 0, first_group: int = 0, last_group: int | None = None
    ) -> Iterator[ParquetRow]:
        """Read rows from the row groups [first_group, last_group), skipping the first `start` rows.

        Args:
            columns: the columns to read (None: all); columns that do not exist are ignored.
        """
        chosen = [name for name in self.columns if columns is None or name in columns]
        sizes = self.group_sizes
        number = 0
        for group in range(first_group, len(sizes) if last_group is None else last_group):
            num_rows = self._file.metadata.row_group(group).num_rows
            if number + num_rows <= start:
                number += num_rows
                continue
            size = sizes[group] // max(num_rows, 1)
            for batch in self._file.iter_batches(self._at_once, row_groups=[group], columns=chosen, use_threads=False):
                skipped = min(max(start - number, 0), batch.num_rows)
                number += skipped
                for fields in batch.slice(skipped).to_pylist() if skipped < batch.num_rows else ():
                    number += 1
                    yield ParquetRow(number, fields, size)


@contextmanager
def reading_parquet(source: object) -> Iterator[None]:
    """Raise PipelineError, naming `source`, for a damaged file; disk and network errors pass through."""
    from pyarrow import ArrowInvalid

    try:
        yield
    except (ArrowInvalid, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise PipelineError(f"{source} is not a Parquet file or is damaged: {error}; download it again") from None


class RawFile:
    """An open raw file. `position` of `size` bytes on disk have been read so far, for a progress bar.

    `kind` is one of the values of FORMATS, for a file without a known extension.
    """

    def __init__(self, path: Path, *, kind: str | None = None) -> None:
        self.path = path
        self._kind = kind or format_of(path)
        self.size = path.stat().st_size
        self._file = path.open("rb")
        self._stream: io.BufferedIOBase = self._file  # pyarrow's stream closes this when collected
        self._share_read = 0.0

    def __enter__(self) -> "RawFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def position(self) -> int:
        # pyarrow reads Parquet with random access.
        return round(self._share_read * self.size) if self._share_read else self._file.tell()

    def records(self, *, start: int = 0, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """The records after the first `start`. From Parquet, only those of `columns` that exist are read.

        Raises:
            PipelineError: the file is damaged.
        """
        readers = {"jsonl": self._json_lines, "xml": self._pages, "text": self._text_pieces}
        assert self._kind, f"{self.path.name} was not found by find_raw_files"
        number = 0
        try:
            records = self._rows(start, columns) if self._kind == "parquet" else readers[self._kind](start)
            for record in records:
                number = record.number
                yield record
        except (EOFError, OSError, ValueError, ElementTree.ParseError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            place = f"after record {number}" if number else "at the start"
            raise PipelineError(f"{self.path} is damaged {place}: {error}; download the file again") from error

    def _decompressed(self) -> io.BufferedIOBase:
        compression = self.path.suffix.lower()
        if compression == ".gz":
            import gzip

            return io.BufferedReader(gzip.GzipFile(fileobj=self._file), _BUFFER_BYTES)
        if compression == ".bz2":
            import bz2

            return io.BufferedReader(bz2.BZ2File(self._file), _BUFFER_BYTES)
        if compression == ".zst":
            # Not the zstandard package, whose reader accepts truncated files.
            import pyarrow

            return io.BufferedReader(pyarrow.CompressedInputStream(self._file, "zstd"), _BUFFER_BYTES)
        return self._file

    def _open_stream(self) -> io.BufferedIOBase:
        self._stream = self._decompressed()
        return self._stream

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """(number, line); only the first MAX_LINE_BYTES + 1 bytes of a line that is too long."""
        stream = self._open_stream()
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_LINE_BYTES + 1)
            yield number, line.removeprefix(BOM) if number == 1 else line

    def _json_lines(self, start: int) -> Iterator[Record]:
        for number, line in self._lines():
            if number > start and not line.isspace():
                yield json_record(number, line)

    def _rows(self, start: int, columns: Sequence[str] | None) -> Iterator[Record]:
        with ParquetRows(self._file) as file:
            for row in file.rows(columns, start=start):
                self._share_read = row.number / file.num_rows
                yield Record(row.number, row.fields)

    def _pages(self, start: int) -> Iterator[Record]:
        """MediaWiki pages as {title, namespace, redirect, wikitext}, with or without an XML namespace."""
        events = ElementTree.iterparse(self._open_stream(), events=("start", "end"))
        _, root = next(events)
        number = 0
        for event, element in events:
            if event == "start" or _local_name(element) != "page":
                continue
            number += 1
            if number > start:
                yield _page_record(number, element)
            root.clear()  # otherwise the tree of the whole dump would build up in memory
        if not number and _local_name(root) != "mediawiki":
            found = f"the root element is <{_local_name(root)}>, and there is no <page>"
            raise PipelineError(f"{self.path}: {found}; expected a MediaWiki export; move the file out of the input")

    def _text_pieces(self, start: int) -> Iterator[Record]:
        """The whole text, or pieces of about TEXT_PIECE_BYTES cut at blank lines, each as {text}."""
        for number, piece in enumerate(self._byte_pieces(), 1):
            if number <= start:
                continue
            try:
                yield Record(number, {"text": piece.decode("utf-8")})
            except UnicodeDecodeError as error:
                yield Record(number, None, _encoding_problem(error), _excerpt(piece))

    def _byte_pieces(self) -> Iterator[bytes]:
        stream = self._open_stream()
        piece = stream.readline(8 * TEXT_PIECE_BYTES).removeprefix(BOM)
        parts: list[bytes] = []
        size = 0
        while piece:
            parts.append(piece)
            size += len(piece)
            if size >= TEXT_PIECE_BYTES and (piece.isspace() or size >= 8 * TEXT_PIECE_BYTES):
                whole = b"".join(parts)
                cut = _last_whole_character(whole)
                yield whole[:cut]
                parts = [whole[cut:]]
                size = len(whole) - cut
            piece = stream.readline(8 * TEXT_PIECE_BYTES)
        if size:
            yield b"".join(parts)


def json_record(number: int, line: bytes) -> Record:
    """The record in a line of JSON."""
    import orjson

    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Record(number, None, _line_problem(line, error), _excerpt(line))
    if isinstance(value, dict):
        return Record(number, value)
    return Record(number, None, f"a JSON {type(value).__name__}, expected an object", _excerpt(line))


def _last_whole_character(data: bytes) -> int:
    """The end of the last complete character in `data`, so that a forced cut does not split one."""
    start = len(data) - 1
    while start > 0 and data[start] & 0xC0 == 0x80:
        start -= 1
    length = {0b110: 2, 0b1110: 3, 0b11110: 4}
    expected = next((size for bits, size in length.items() if data[start] >> (8 - bits.bit_length()) == bits), 1)
    return len(data) if start + expected <= len(data) else start


def _local_name(element: ElementTree.Element) -> str:
    """The name of an element without its XML namespace."""
    return element.tag.rpartition("}")[2]


def _page_record(number: int, page: ElementTree.Element) -> Record:
    try:
        return Record(number, _page_value(page))
    except ValueError as error:
        return Record(number, None, str(error), _excerpt(ElementTree.tostring(page, encoding="utf-8")))


def _page_value(page: ElementTree.Element) -> dict[str, Any]:
    namespace = page.tag.removesuffix("page")
    number = page.findtext(f"{namespace}ns") or "0"
    if not number.strip().lstrip("-").isdecimal():
        raise ValueError(f"<ns> is {number[:20]!r}, expected a number")
    redirect = page.find(f"{namespace}redirect")
    revisions = page.findall(f"{namespace}revision")
    return {
        "title": page.findtext(f"{namespace}title", ""),
        "namespace": int(number),
        "redirect": redirect.get("title", "") if redirect is not None else None,
        "wikitext": revisions[-1].findtext(f"{namespace}text", "") if revisions else "",
    }


def _line_problem(line: bytes, error: ValueError) -> str:
    if len(line) > MAX_LINE_BYTES:
        return f"longer than {format_bytes(MAX_LINE_BYTES)}"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return _encoding_problem(wrong)
    return f"not JSON: {error}"


def _encoding_problem(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: {error.reason} at byte {error.start}"


def _excerpt(data: bytes) -> str:
    return data[:200].decode("utf-8", errors="replace").strip()
