"""Raw records become clean articles: one record, one file, all files."""

import gc
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.cleaning import plain_text, structured_contents, wiki_markup
from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.policy import Page, Policy, Removals
from pipeline.cleaning.progress import Progress
from pipeline.cleaning.run import REJECTS_NAME, CleaningRun, Job, shared
from pipeline.formats.cleaned_text import printable_name, to_line
from pipeline.formats.raw_files import RawFile, Record
from pipeline.jobs.local_processes import Report, run_jobs
from utils.errors import PipelineError
from utils.files import whole_file

COLUMNS = tuple({*structured_contents.COLUMNS, *plain_text.COLUMNS})


_REPORT_SECONDS = 0.2


_MALFORMED = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


@dataclass
class Counts:
    """What became of one file's articles; all that the report says about it."""

    read: int = 0
    articles: int = 0
    characters: int = 0
    rejected: int = 0
    removals: Removals = field(default_factory=Removals)
    unknown_types: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "articles": self.articles,
            "characters": self.characters,
            "rejected": self.rejected,
            "removed_articles": dict(self.removals.articles),
            "removed_parts": dict(self.removals.parts),
            "unknown_types": dict(self.unknown_types),
        }


def iter_raw_articles(path: Path) -> Iterator[Record]:
    """The records of a raw file; those of Parquet with the columns that matter."""
    with RawFile(path) as file:
        yield from file.records(columns=COLUMNS)


def clean_article(record: dict[str, Any], policy: Policy, counts: Counts) -> str:
    """The article of one record as text, or an empty string after counting why there is none.

    Raises:
        ValueError, TypeError, AttributeError, RecursionError: the record is no article of any known form.
    """
    return policy.apply(_page(record, policy, counts), counts.removals)


def _page(record: dict[str, Any], policy: Policy, counts: Counts) -> Page:
    if "wikitext" in record:
        return wiki_markup.read_page(record, policy, counts.removals.parts)
    if structured_contents.is_structured(record):
        return structured_contents.read_page(record, counts.unknown_types)
    return plain_text.read_page(record, policy)


def clean_file(
    job: Job, directory: Path, config: CleaningConfig, *, limit: int | None, strict: bool, report: Report
) -> dict[str, Any]:
    """Clean the raw files of one job into `directory` and return its part of the report.

    The output appears under its name only when it is whole. `report` is called with (bytes read, records, articles).

    Raises:
        PipelineError: a damaged file, or with `strict` a malformed record.
    """
    output, rejects = directory / job.name, directory / REJECTS_NAME / f"{job.source}.jsonl"
    rejects.unlink(missing_ok=True)
    policy, counts = Policy(config), Counts()
    with ExitStack() as files:
        lines = _HashedFile(files.enter_context(whole_file(output)))
        reject = _Rejecter(rejects, files, strict=strict)
        is_cut = _clean_records(job, policy, counts, limit, lines, reject, report)
        if counts.rejected and counts.rejected == counts.read:
            raise PipelineError(
                f"{reject.first}; none of its {counts.read:,} records can be used: fix it, or move it out of the input"
            )
    return {"limit": limit if is_cut else None, **lines.state_of(output), **counts.to_dict()}


def _clean_records(
    job: Job,
    policy: Policy,
    counts: Counts,
    limit: int | None,
    lines: "_HashedFile",
    reject: "_Rejecter",
    report: Report,
) -> bool:
    """Write the articles of a job. True if `limit` left records unread."""
    bytes_before, next_report = 0, 0.0
    for path in job.files:
        with RawFile(path) as file:
            for record in file.records(columns=COLUMNS):
                if counts.read == limit:
                    return True
                counts.read += 1
                try:
                    article = clean_article(_value(record), policy, counts)
                except _MALFORMED as error:
                    counts.rejected += 1
                    reject(path, record, str(error))
                    continue
                if article:
                    lines.write(f"{to_line(article)}\n".encode())
                    counts.articles += 1
                    counts.characters += len(article)
                if time.monotonic() > next_report:
                    report((bytes_before + file.position, counts.read, counts.articles))
                    next_report = time.monotonic() + _REPORT_SECONDS
        bytes_before += file.size
    report((bytes_before, counts.read, counts.articles))
    return False


def _value(record: Record) -> dict[str, Any]:
    if record.value is None:
        raise ValueError(record.problem)
    return record.value


class _HashedFile:
    """Counts and hashes what is written, so that a later run can tell that the file was changed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    def state_of(self, path: Path) -> dict[str, Any]:
        """The report's facts about the content, now at `path`."""
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest(), "modified": path.stat().st_mtime_ns}


class _Rejecter:
    """Writes malformed records to `path`, created at the first one; with `strict` the first one stops the run."""

    def __init__(self, path: Path, files: ExitStack, *, strict: bool) -> None:
        self._path = path
        self._files = files
        self._file: BinaryIO | None = None
        self._strict = strict
        self.first = ""

    def __call__(self, path: Path, record: Record, reason: str) -> None:
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
    except RecursionError:  # nested too deeply to be written, too
        return ""


def clean_all(cleaning: CleaningRun, config: CleaningConfig, *, strict: bool) -> None:
    """Clean what is not done yet, `config.workers` files at once, with live progress.

    Raises:
        PipelineError: files that failed; with `strict` the first of them, at once.
    """
    pending = {job.name: job for job in cleaning.pending}
    cleaning.save()  # what is to be done again is not called done any more
    if not pending:
        return
    options = {"directory": cleaning.directory, "config": config, "limit": cleaning.limit, "strict": strict}
    work = {name: _Work(job, options) for name, job in pending.items()}
    failures = []
    with Progress(list(pending.values())) as progress:
        for name, result in run_jobs(work, workers=config.workers, on_progress=progress.update):
            if isinstance(result, PipelineError):
                if strict:
                    raise result
                failures.append(result)
            else:
                cleaning.finish(pending[name], result)
                progress.finish(pending[name], result)
    with suppress(OSError):  # not empty: there are rejects
        (cleaning.directory / REJECTS_NAME).rmdir()
    if failures:
        others = f" (and {len(failures) - 1} more failed)" if failures[1:] else ""
        raise PipelineError(f"{failures[0]}{others}; the files that are done stay, run the cleaner again for the rest")


@dataclass(frozen=True)
class _Work:
    """`clean_file` with everything but the way to report; a lambda could not be sent to a process."""

    job: Job
    options: dict[str, Any]

    def __call__(self, report: Report) -> dict[str, Any]:
        # Parsed articles are trees without cycles; looking for cycles in them takes a third of the time.
        gc.disable()
        try:
            with shared(self.options["directory"]):
                return clean_file(self.job, report=report, **self.options)
        except OSError as error:
            if error.filename:
                raise
            # A full disk names no file.
            raise PipelineError(f"{self.job.name} cannot be written: {error.strerror or error}") from error
