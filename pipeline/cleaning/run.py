"""What a cleaning run has to do and has done: jobs, their fingerprints, and the report that survives a kill."""

import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.policy import CLEANING_VERSION
from pipeline.formats.cleaned_text import REPORT_NAME, change_of, printable_name, read_report, write_report
from pipeline.formats.raw_files import bare_name, find_raw_files, format_of
from utils.errors import PipelineError
from utils.files import is_within, remove_stale_temporaries

# Small text files share an output, or a folder of 10,000 notes would become 10,000 files.
TEXT_BYTES_TOGETHER = 64 << 20
_SAMPLE_BYTES = 64 << 10
REJECTS_NAME = "rejects"


@dataclass(frozen=True)
class Job:
    """One output file and the raw files it is made of, cleaned by one process."""

    name: str
    files: tuple[Path, ...]
    size: int
    fingerprint: str

    @property
    def source(self) -> str:
        """``cleaned_x.txt`` → ``x``."""
        return self.name.removeprefix("cleaned_").removesuffix(".txt")


def plan_jobs(place: Path) -> list[Job]:
    """A job for each raw file in `place`; text files are put together up to TEXT_BYTES_TOGETHER.

    Raises:
        PipelineError: nothing can be read there, or two files would have the same output.
    """
    root = place if place.is_dir() else place.parent
    jobs: dict[str, Job] = {}
    for name, files in _outputs(find_raw_files(place), root):
        if name in jobs:
            both = printable_name(f"{jobs[name].files[0].name} and {files[0].name}")
            raise PipelineError(f"{both} in {root} would both become {name}; move one of them away")
        jobs[name] = Job(name, tuple(files), sum(file.stat().st_size for file in files), _fingerprint(files))
    return list(jobs.values())


def _outputs(files: list[Path], root: Path) -> list[tuple[str, list[Path]]]:
    outputs = []
    texts: list[list[Path]] = []
    room = 0
    for file in files:
        if format_of(file) != "text":
            source = Path(file.relative_to(root)).with_name(Path(bare_name(file)).stem)
            outputs.append((printable_name(f"cleaned_{'__'.join(source.parts)}.txt"), [file]))
            continue
        size = file.stat().st_size
        if size > room:
            texts.append([])
            room = TEXT_BYTES_TOGETHER
        texts[-1].append(file)
        room -= size
    return outputs + [(f"cleaned_text_{number:03d}.txt", group) for number, group in enumerate(texts)]


def _fingerprint(files: list[Path]) -> str:
    """Over names, sizes, times of change, and both ends of each file: 50 GB are not read twice."""
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(os.fsencode(file.name) + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
        with file.open("rb") as content:
            digest.update(content.read(_SAMPLE_BYTES))
            content.seek(max(0, stat.st_size - _SAMPLE_BYTES))
            digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def refuse_own_output(place: Path, directory: Path, jobs: Iterable[Job]) -> None:
    """Raise a PipelineError if a run of `jobs` would read what it writes to `directory`, or the next run would."""
    if place.is_dir() and is_within(directory, place):
        raise PipelineError(
            f"the output folder {directory} is the input {place} or inside it, so the cleaner would read its own "
            "output; name another folder with --output"
        )
    output = directory.resolve()
    for file in (file.resolve() for job in jobs for file in job.files):
        is_cleaned = file.parent == output and file.name.startswith("cleaned_") and file.suffix == ".txt"
        if is_cleaned or output / REJECTS_NAME in file.parents:
            raise PipelineError(f"{file} is the cleaner's own output; name another file or folder with --input")


def policy_of(config: CleaningConfig) -> dict[str, Any]:
    """The configuration's keys that decide what a cleaned file holds."""
    policy = asdict(config)
    del policy["workers"], policy["test_articles"]
    return {"cleaning_version": CLEANING_VERSION, **policy}


class CleaningRun:
    """The state of `directory`: which jobs are done, and their results, written after each."""

    def __init__(self, directory: Path, jobs: list[Job], config: CleaningConfig, *, limit: int | None) -> None:
        self.directory = directory
        self.jobs = jobs
        self.limit = limit
        self.policy = policy_of(config)
        policy_text = json.dumps(self.policy, sort_keys=True)
        self.policy_fingerprint = hashlib.sha256(policy_text.encode()).hexdigest()[:32]
        known = (read_report(directory) or {"files": {}})["files"]
        valid = {job.name: known[job.name] for job in jobs if self._is_valid(job, known.get(job.name))}
        changes = {name: change_of(directory / name, result) for name, result in valid.items()}
        self.changed = {name: change for name, change in changes.items() if change}
        self.results = {name: result for name, result in valid.items() if name not in self.changed}

    def _is_valid(self, job: Job, result: dict[str, Any] | None) -> bool:
        """A file that was read to its end also serves a test run: hours of work are not replaced by its beginning."""
        return (
            result is not None
            and result["input"] == job.fingerprint
            and result["policy"] == self.policy_fingerprint
            and result["limit"] in (None, self.limit)
        )

    @property
    def pending(self) -> list[Job]:
        return [job for job in self.jobs if job.name not in self.results]

    @property
    def leftovers(self) -> list[str]:
        """Cleaned files in the folder that the present input does not make."""
        names = {job.name for job in self.jobs}
        return sorted(path.name for path in self.directory.glob("cleaned_*.txt") if path.name not in names)

    def save(self) -> None:
        write_report(self.directory, self.report())

    def finish(self, job: Job, result: dict[str, Any]) -> None:
        self.results[job.name] = {**result, "input": job.fingerprint, "policy": self.policy_fingerprint}
        self.save()

    def report(self) -> dict[str, Any]:
        return {
            "complete": not self.pending,
            "planned": [job.name for job in self.jobs],
            "totals": add_up(self.results.values()),
            "policy": self.policy,
            "files": dict(sorted(self.results.items())),
        }


@contextmanager
def claimed(directory: Path, *, patience: float = 5.0) -> Iterator[None]:
    """Hold `directory` against other runs, and clear away what a killed one left half done.

    The workers of a run share its hold (`shared`), so those that outlive their parent by a moment are waited for.

    Raises:
        PipelineError: another cleaner is at work there.
    """
    deadline = time.monotonic() + patience
    with _opened(directory) as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise PipelineError(f"another cleaner is at work in {directory}; wait for it, or stop it") from None
                time.sleep(0.05)
        remove_stale_temporaries(directory, "cleaned_*.txt", REPORT_NAME)
        remove_stale_temporaries(directory / REJECTS_NAME, "*.jsonl")
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def shared(directory: Path) -> Iterator[None]:
    """A worker's part of its run's hold on `directory`; the system lets go of it when the process ends, however."""
    with _opened(directory) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    handle = os.open(directory, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def add_up(results: Any) -> dict[str, Any]:
    """The sums over files of counts, and of counts by reason (most frequent first)."""
    sums: dict[str, Any] = {}
    for result in results:
        for key, value in result.items():
            if isinstance(value, dict):
                sums[key] = sums.get(key, Counter()) + Counter(value)
            elif isinstance(value, int) and key not in ("limit", "modified"):
                sums[key] = sums.get(key, 0) + value
    return {key: dict(value.most_common()) if isinstance(value, Counter) else value for key, value in sums.items()}
