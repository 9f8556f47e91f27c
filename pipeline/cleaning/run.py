"""A cleaning run: the finished and pending jobs of its plan, and the report that survives a kill."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cleaning.cleaned_file import CleaningOptions, clean_in_process
from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.plan import REJECTS_NAME, CleaningJob
from pipeline.cleaning.policy import CLEANING_VERSION
from pipeline.cleaning.progress import CleaningBar
from pipeline.formats.cleaned_text import (
    REPORT_NAME,
    CleanedFile,
    FileReport,
    Report,
    change_of,
    read_report,
    write_report,
)
from pipeline.jobs.local_processes import LocalProcesses
from pipeline.jobs.runner import Job, claimed, resumable, run_pending
from utils.files import remove_stale_temporaries
from utils.terminal import say


def clean_all(
    directory: Path, jobs: list[CleaningJob], config: CleaningConfig, *, limit: int | None, strict: bool
) -> "CleaningRun":
    """Clean all pending files into `directory`, `config.workers` in parallel, with live progress.

    Raises:
        PipelineError: another run writes there, or files failed; with `strict`, the first failure stops the run.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with claimed(directory, partial(_remove_half_files, directory)), resumable(directory):
        cleaning = CleaningRun(directory, jobs, config, limit=limit)
        cleaning.print_state()
        cleaning.save()  # jobs to repeat no longer count as done
        if cleaning.pending:
            _run(cleaning, CleaningOptions(directory, config, limit, strict))
    return cleaning


def _remove_half_files(directory: Path) -> None:
    remove_stale_temporaries(directory, "cleaned_*.txt", REPORT_NAME)
    remove_stale_temporaries(directory / REJECTS_NAME, "*.jsonl")


def _run(cleaning: "CleaningRun", options: CleaningOptions) -> None:
    pending = {job.name: job for job in cleaning.pending}
    plan = [Job(name, partial(clean_in_process, job, options)) for name, job in pending.items()]
    with CleaningBar(cleaning.pending) as bar:

        def finish(name: str, result: CleanedFile) -> None:
            cleaning.finish(pending[name], result)
            bar.finish(pending[name], result)

        executor = LocalProcesses(options.config.workers, options.directory)
        run_pending(plan, executor, on_progress=bar.update, on_result=finish, keep_going=not options.strict)
    with suppress(OSError):  # not empty if there are rejects
        (options.directory / REJECTS_NAME).rmdir()


def policy_of(config: CleaningConfig) -> dict[str, object]:
    """The configuration keys that affect the content of cleaned files."""
    policy = asdict(config)
    del policy["workers"], policy["test_articles"]
    return {"cleaning_version": CLEANING_VERSION, **policy}


class CleaningRun:
    """The state of `directory`: finished jobs and their results, written after each job."""

    def __init__(self, directory: Path, jobs: list[CleaningJob], config: CleaningConfig, *, limit: int | None) -> None:
        self.directory = directory
        self.jobs = jobs
        self.limit = limit
        self.policy = policy_of(config)
        policy_text = json.dumps(self.policy, sort_keys=True)
        self.policy_fingerprint = hashlib.sha256(policy_text.encode()).hexdigest()[:32]
        earlier = read_report(directory)
        known = earlier["files"] if earlier else {}
        valid = {job.name: known[job.name] for job in jobs if self._is_valid(job, known.get(job.name))}
        changes = {name: change_of(directory / name, result) for name, result in valid.items()}
        self.changed = {name: change for name, change in changes.items() if change}
        self.results = {name: result for name, result in valid.items() if name not in self.changed}

    def _is_valid(self, job: CleaningJob, result: FileReport | None) -> bool:
        """A complete file is good enough for a test run too, so that a test run does not replace hours of work."""
        return (
            result is not None
            and result["input"] == job.fingerprint
            and result["policy"] == self.policy_fingerprint
            and result["limit"] in (None, self.limit)
        )

    @property
    def pending(self) -> list[CleaningJob]:
        return [job for job in self.jobs if job.name not in self.results]

    @property
    def leftovers(self) -> list[str]:
        """Cleaned files in the folder that are not from the current input."""
        names = {job.name for job in self.jobs}
        return sorted(path.name for path in self.directory.glob("cleaned_*.txt") if path.name not in names)

    def print_state(self) -> None:
        """Print what an earlier run has finished, and what has to be repeated."""
        for name, change in self.changed.items():
            say(f"{name} {change}; cleaning it again")
        done = len(self.jobs) - len(self.pending)
        if done:
            say(f"{done} of {len(self.jobs)} files are already cleaned with this input and policy")

    def save(self) -> None:
        write_report(self.directory, self.report())

    def finish(self, job: CleaningJob, result: CleanedFile) -> None:
        self.results[job.name] = {**result, "input": job.fingerprint, "policy": self.policy_fingerprint}
        self.save()

    def report(self) -> Report:
        return {
            "complete": not self.pending,
            "planned": [job.name for job in self.jobs],
            "totals": add_up(self.results.values()),
            "policy": self.policy,
            "files": dict(sorted(self.results.items())),
        }


def add_up(results: Iterable[FileReport]) -> dict[str, Any]:
    """Totals over all files, including totals by reason (most frequent first)."""
    sums: dict[str, int] = {}
    reasons: dict[str, Counter[str]] = {}
    for result in results:
        for key, value in result.items():
            if isinstance(value, dict):
                reasons[key] = reasons.get(key, Counter()) + Counter(value)
            elif isinstance(value, int) and key not in ("limit", "modified"):
                sums[key] = sums.get(key, 0) + value
    return {**sums, **{key: dict(counts.most_common()) for key, counts in reasons.items()}}
