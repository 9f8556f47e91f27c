"""Write one cleaned file from the raw files of a job; it gets its final name only when it is complete."""

import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.cleaning.articles import COLUMNS, MALFORMED, Counts, clean_article, value_of
from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.plan import REJECTS_NAME, CleaningJob
from pipeline.cleaning.policy import Policy
from pipeline.formats.cleaned_text import CleanedFile, FileFacts, printable_name, to_line
from pipeline.formats.raw_files import RawFile, Record
from utils.errors import PipelineError
from utils.files import whole_file

_REPORT_SECONDS = 0.2


class FileProgress(NamedTuple):
    """The progress of a job: bytes of raw input, records, and articles kept."""

    size: int = 0
    records: int = 0
    articles: int = 0


@dataclass(frozen=True)
class CleaningOptions:
    """Options for all jobs. `limit`: read only the first records of a job; `strict`: stop at a malformed record."""

    directory: Path
    config: CleaningConfig
    limit: int | None = None
    strict: bool = False


def clean_in_process(job: CleaningJob, options: CleaningOptions, report: Callable[[FileProgress], None]) -> CleanedFile:
    """`clean_file` in a worker process."""
    # Parsed articles are trees without cycles, and garbage collection would take a third of the time.
    gc.disable()
    return clean_file(job, options, report)


def clean_file(job: CleaningJob, options: CleaningOptions, report: Callable[[FileProgress], None]) -> CleanedFile:
    """Clean the raw files of a job and return its part of the report.

    Raises:
        PipelineError: a damaged file, no usable record, or with `strict` a malformed record.
    """
    output = options.directory / job.name
    rejects = options.directory / REJECTS_NAME / f"{job.source}.jsonl"
    rejects.unlink(missing_ok=True)
    counts = Counts()
    is_cut = False
    with ExitStack() as files:
        cleaner = _RecordCleaner(
            Policy(options.config),
            counts,
            lines=_HashedFile(files.enter_context(whole_file(output))),
            rejects=_Rejects(rejects, files, strict=options.strict),
        )
        raw = _RawRecords(job)
        next_report = 0.0
        for path, record in raw:
            is_cut = counts.read == options.limit
            if is_cut:
                break
            cleaner.clean(path, record)
            if time.monotonic() > next_report:
                report(FileProgress(raw.position, counts.read, counts.articles))
                next_report = time.monotonic() + _REPORT_SECONDS
        report(FileProgress(raw.position, counts.read, counts.articles))
        if counts.rejected and counts.rejected == counts.read:
            raise PipelineError(
                f"{cleaner.rejects.first}; none of its {counts.read:,} records are usable; fix the file, or move "
                "it out of the input folder"
            )
    return {
        "limit": options.limit if is_cut else None,
        **cleaner.lines.facts(output),
        **counts.to_dict(),
    }


class _RawRecords:
    """The records of a job's raw files with their files. `position` is the total number of bytes read so far."""

    def __init__(self, job: CleaningJob) -> None:
        self._job = job
        self.position = 0

    def __iter__(self) -> Iterator[tuple[Path, Record]]:
        bytes_before = 0
        for path in self._job.files:
            with RawFile(path) as file:
                for record in file.records(columns=COLUMNS):
                    self.position = bytes_before + file.position
                    yield path, record
            bytes_before += file.size
            self.position = bytes_before


class _HashedFile:
    """Count and hash the output, so that a later run can detect changes to the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    def facts(self, path: Path) -> FileFacts:
        """The report's entry about the content, which is now at `path`."""
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest(), "modified": path.stat().st_mtime_ns}


class _Rejects:
    """Write malformed records to `path`, which is created for the first one; with `strict`, the first stops the run."""

    def __init__(self, path: Path, files: ExitStack, *, strict: bool) -> None:
        self._path = path
        self._files = files
        self._file: BinaryIO | None = None
        self._strict = strict
        self.first = ""

    def write(self, path: Path, record: Record, reason: str) -> None:
        name = printable_name(path)
        self.first = self.first or f"{name}, record {record.number}: {reason}"
        if self._strict:
            raise PipelineError(f"{self.first}; fix it, or run without --strict")
        if self._file is None:
            self._file = self._files.enter_context(whole_file(self._path))
        line = {"file": name, "line": record.number, "reason": reason, "text": record.excerpt or _beginning(record)}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _beginning(record: Record) -> str:
    try:
        return json.dumps(record.value, ensure_ascii=False, default=str)[:200]
    except RecursionError:  # nested too deeply to be serialized
        return ""


@dataclass(frozen=True)
class _RecordCleaner:
    """Clean each record into a line of `lines`, a line of `rejects`, or just a count."""

    policy: Policy
    counts: Counts
    lines: _HashedFile
    rejects: _Rejects

    def clean(self, path: Path, record: Record) -> None:
        self.counts.read += 1
        try:
            article = clean_article(value_of(record), self.policy, self.counts)
        except MALFORMED as error:
            self.counts.rejected += 1
            self.rejects.write(path, record, str(error))
            return
        if article:
            self.lines.write(f"{to_line(article)}\n".encode())
            self.counts.articles += 1
            self.counts.characters += len(article)
