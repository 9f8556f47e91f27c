"""Cleans raw Wikipedia, or a folder of people's own text: `cleaned_<source>.txt`, one article a line.

    python3 cleaner.py --test                 # the first 50,000 articles of each file
    python3 cleaner.py                        # all of paths.raw_dir, four files at once
    python3 cleaner.py --input my_texts/ --output data/cleaned_mine
    python3 cleaner.py --show 3               # three articles before and after; nothing is written

Reads structured contents (JSONL, Parquet), `{title, text}` (JSONL, Parquet), MediaWiki XML, .txt and .md, also as .gz,
.bz2 and .zst. What stays is decided by the `cleaning` section of the configuration; see docs/cleaning.md.
"""

import argparse
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
from pipeline.cleaning.policy import Page, Policy, Removals
from pipeline.cleaning.run import REJECTS_NAME, CleaningRun, Job, claimed, plan_jobs, refuse_own_output, shared
from pipeline.config_sections_tmp import CleaningConfig
from pipeline.formats.cleaned_text import printable_name, to_line
from pipeline.formats.raw_files import RawFile, Record
from pipeline.jobs.local_processes import Report, run_jobs
from utils.cli import load_config_from, run, stage_parser
from utils.errors import PipelineError
from utils.files import whole_file
from utils.terminal import format_bytes, format_seconds, format_table, visible

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


class Progress:
    """One bar over all files: bytes read of raw input, articles, articles a second, files done."""

    def __init__(self, jobs: list[Job]) -> None:
        from tqdm import tqdm

        self.num_files = len(jobs)
        self.done = 0
        self.started = time.monotonic()
        self.seen = {job.name: (0, 0, 0) for job in jobs}
        total = sum(job.size for job in jobs)
        self.bar = tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc="Cleaning", dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def update(self, name: str, progress: tuple[int, int, int]) -> None:
        self.seen[name] = progress
        records = sum(seen[1] for seen in self.seen.values())
        speed = records / max(time.monotonic() - self.started, 1e-6)
        text = f"{records:,} articles, {speed:,.0f}/s, files {self.done}/{self.num_files}"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(sum(seen[0] for seen in self.seen.values()) - self.bar.n)

    def finish(self, job: Job, result: dict[str, Any]) -> None:
        self.done += 1
        self.update(job.name, (job.size, result["read"], result["articles"]))
        rejected = f", {result['rejected']:,} malformed" if result["rejected"] else ""
        empty = "" if result["read"] else f"; {_names(job)} holds no records"
        self.bar.write(f"{job.name}: {result['articles']:,} of {result['read']:,} articles kept{rejected}{empty}")


def _names(job: Job) -> str:
    first = printable_name(job.files[0].name)
    return first if len(job.files) == 1 else f"{first} and {len(job.files) - 1} more"


def print_summary(cleaning: CleaningRun, seconds: float) -> None:
    """What was read, kept and left out, by reason."""
    totals = cleaning.report()["totals"]
    rows = [("articles", "count"), ("read", f"{totals['read']:,}")]
    rows += [(f"  {reason}", f"{count:,}") for reason, count in totals["removed_articles"].items()]
    rows += [("  malformed", f"{totals['rejected']:,}")] if totals["rejected"] else []
    rows += [("kept", f"{totals['articles']:,}")]
    print("\n" + format_table(rows, right=[1]))
    parts = [("left out of articles that stay", "count"), *((k, f"{n:,}") for k, n in totals["removed_parts"].items())]
    if parts[1:]:
        print("\n" + format_table(parts[:16], right=[1]))
    if totals["unknown_types"]:
        print(
            "\nunknown part types, kept as text: " + ", ".join(f"{k} {n:,}" for k, n in totals["unknown_types"].items())
        )
    if totals["rejected"]:
        print(f"\nmalformed records, with file, line and reason: {cleaning.directory / REJECTS_NAME}")
    size = sum(result["bytes"] for result in cleaning.results.values())
    print(f"\n{len(cleaning.jobs)} files, {format_bytes(size)} in {cleaning.directory} ({format_seconds(seconds)})")
    for name in cleaning.leftovers:
        print(f"note: {printable_name(name)} was not made from this input; dataset preparation leaves it out")


def show(jobs: list[Job], config: CleaningConfig, number: int) -> None:
    """Print the first `number` articles that stay, before and after, and say which others were left out and why."""
    from pipeline.cleaning.preview import side_by_side

    policy = Policy(config)
    records = (record for job in jobs for path in job.files for record in iter_raw_articles(path))
    for record in records:
        counts = Counts()
        try:
            article = clean_article(_value(record), policy, counts)
        except _MALFORMED as error:
            print(visible(f"record {record.number} is malformed: {error}"))
            continue
        if not article:
            title = record.value.get("title") or record.value.get("name")
            print(visible(f"left out, {next(iter(counts.removals.articles))}: {title}"))
            continue
        print(side_by_side(record.value, article), end="\n\n")
        number -= 1
        if not number:
            return


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--input", metavar="PATH", help="a raw file or folder (default: paths.raw_dir)")
    parser.add_argument("--output", metavar="DIR", help="where the cleaned files go (default: paths.cleaned_dir)")
    parser.add_argument(
        "--test", action="store_true", help="only the first articles of each file (cleaning.test_articles)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="files at once, one process each (cleaning.workers)")
    parser.add_argument("--strict", action="store_true", help="stop at the first malformed record")
    parser.add_argument("--show", type=int, metavar="N", help="print N articles before and after, side by side")
    args = parser.parse_args(argv)
    if args.show is not None and args.show < 1:
        parser.error("--show: expected 1 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(
        args, paths__raw_dir=args.input, paths__cleaned_dir=args.output, cleaning__workers=args.workers
    )
    started = time.monotonic()
    limit = config.cleaning.test_articles if args.test else None
    jobs = plan_jobs(config.paths.raw_dir)
    if args.show:
        show(jobs, config.cleaning, args.show)
        return 0
    refuse_own_output(config.paths.raw_dir, config.paths.cleaned_dir, jobs)
    config.paths.cleaned_dir.mkdir(parents=True, exist_ok=True)
    with claimed(config.paths.cleaned_dir):
        cleaning = CleaningRun(config.paths.cleaned_dir, jobs, config.cleaning, limit=limit)
        for name, change in cleaning.changed.items():
            print(f"{name} {change}; it is cleaned again")
        done = len(jobs) - len(cleaning.pending)
        if done:
            print(f"{done} of {len(jobs)} files are cleaned already, with this input and policy")
        clean_all(cleaning, config.cleaning, strict=args.strict)
    print_summary(cleaning, time.monotonic() - started)
    if not cleaning.report()["totals"]["read"]:
        raise PipelineError(f"{config.paths.raw_dir} holds no records; expected articles in {_names(jobs[0])}")
    return 0


if __name__ == "__main__":
    run(main)
