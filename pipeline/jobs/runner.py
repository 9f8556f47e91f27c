"""The resumable job runner of the data stages: runs a plan of jobs, locks the output folder, handles failures.

    with claimed(folder, remove_half_files), resumable(folder):
        run_pending(plan, LocalProcesses(4, folder), on_progress=bar.update, on_result=report.finish)

Jobs are idempotent: after a kill, a job continues or starts over and gives the same output. The job itself or
`on_result` records completion. An executor determines where jobs run; `local_processes` has two.
"""

import errno
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from utils.errors import PipelineError
from utils.locks import only_run
from utils.terminal import say

P = TypeVar("P")  # what a job reports as its progress
R = TypeVar("R")  # what it returns

Work = Callable[[Callable[[P], None]], R]
Outcomes = Generator[tuple[str, R | PipelineError], None, None]

PATIENCE_SECONDS = 10.0  # much longer than the workers of a killed run survive


@dataclass(frozen=True)
class Job(Generic[P, R]):
    """A named piece of work. `work` is called with a function for reporting progress; `done` means that an earlier run
    finished it.
    """

    name: str
    work: Work[P, R]
    done: bool = False


class Executor(Protocol):
    """Runs jobs in any order and in any process."""

    def outcomes(self, work: Mapping[str, Work[P, R]], on_progress: Callable[[str, P], None]) -> Outcomes[R]:
        """Yield (name, result) as jobs end; for a failed job, the result is the PipelineError."""
        ...


def ignore_progress(name: str, progress: object) -> None:
    """An `on_progress` that ignores the progress."""


def ignore_result(name: str, result: object) -> None:
    """An `on_result` for jobs that record their own completion."""


def run_pending(
    plan: Sequence[Job[P, R]],
    executor: Executor,
    *,
    on_progress: Callable[[str, P], None] = ignore_progress,
    on_result: Callable[[str, R], None] = ignore_result,
    keep_going: bool = False,
) -> None:
    """Run all jobs in `plan` that are not done.

    Raises:
        PipelineError: the first failure, immediately or, with `keep_going`, after the other jobs.
    """
    failures = []
    pending = {job.name: job.work for job in plan if not job.done}
    with closing(executor.outcomes(pending, on_progress)) as outcomes:
        for name, outcome in outcomes:
            if not isinstance(outcome, PipelineError):
                on_result(name, outcome)
            elif keep_going:
                failures.append(outcome)
            else:
                raise outcome
    if failures:
        others = f" (and {len(failures) - 1} more failed)" if failures[1:] else ""
        raise PipelineError(
            f"{failures[0]}{others}; finished work is kept; run the same command again to process the rest"
        )


@contextmanager
def claimed(folder: Path, clean_up: Callable[[], object], *, patience: float | None = None) -> Iterator[None]:
    """Lock `folder` against other runs, and call `clean_up` while nothing else writes there.

    Worker processes hold the folder too (`utils.locks.part_of_run`), so that the next run waits for workers that
    outlive a killed run.

    Raises:
        PipelineError: another run holds the folder for longer than `patience` seconds (PATIENCE_SECONDS if None).
    """
    refusal = f"{folder} is in use by another run; wait for it to finish, or stop it"
    with only_run(folder, refusal, patience=PATIENCE_SECONDS if patience is None else patience) as lock:
        clean_up()
        lock.admit_workers()
        yield


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """After an interruption or on a full disk, print that the same command continues the work on `folder`."""
    try:
        yield
    except KeyboardInterrupt:
        say("\nstopped; finished work is kept; run the same command again to continue")
        raise
    except OSError as error:
        problem = full_disk_problem(error, folder)
        if problem is None:
            raise
        raise PipelineError(problem) from None


def full_disk_problem(error: OSError, folder: Path) -> str | None:
    """A message for a full disk, or None for other errors."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return f"the disk containing {folder} is full; finished work is kept; free some space and run the command again"
