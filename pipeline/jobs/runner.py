"""The resumable runner of the data stages: a plan of jobs, a folder that one run holds, and what to do after a failure.

    with claimed(folder, remove_half_files), resumable(folder):
        run_pending(plan, LocalProcesses(4, folder), on_progress=bar.update, on_result=report.finish)

A job is idempotent: run again after a kill, it continues or starts over, and its output is the same. The job itself or
`on_result` records that it is done. An executor says where jobs run; `local_processes` has two.
"""

import errno
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from utils.errors import PipelineError
from utils.locks import only_run

P = TypeVar("P")  # what a job reports as its progress
R = TypeVar("R")  # what it returns

Work = Callable[[Callable[[P], None]], R]
Outcomes = Generator[tuple[str, R | PipelineError], None, None]

PATIENCE_SECONDS = 10.0  # the workers of a killed run are gone long before


@dataclass(frozen=True)
class Job(Generic[P, R]):
    """A named piece of work. `work` is called with a function to report progress to; `done` says that an earlier run
    finished it.
    """

    name: str
    work: Work[P, R]
    done: bool = False


class Executor(Protocol):
    """Runs jobs, each in any order and any process."""

    def outcomes(self, work: Mapping[str, Work[P, R]], on_progress: Callable[[str, P], None]) -> Outcomes[R]:
        """Yield (name, result) as jobs end; for one that failed, the PipelineError instead of a result."""
        ...


def ignore_progress(name: str, progress: object) -> None:
    """An `on_progress` that shows nothing."""


def ignore_result(name: str, result: object) -> None:
    """An `on_result` for jobs that record their own end."""


def run_pending(
    plan: Sequence[Job[P, R]],
    executor: Executor,
    *,
    on_progress: Callable[[str, P], None] = ignore_progress,
    on_result: Callable[[str, R], None] = ignore_result,
    keep_going: bool = False,
) -> None:
    """Run the jobs of `plan` that are not done.

    Raises:
        PipelineError: the first failure; at once, or with `keep_going` after the other jobs.
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
        raise PipelineError(f"{failures[0]}{others}; what is done is kept, run the same command again for the rest")


@contextmanager
def claimed(folder: Path, clean_up: Callable[[], object], *, patience: float | None = None) -> Iterator[None]:
    """Hold `folder` against other runs, and call `clean_up` while nobody else writes there.

    The run's worker processes hold the folder too (`utils.locks.part_of_run`), so that the next run waits for those
    that outlive a killed one.

    Raises:
        PipelineError: another run holds the folder for longer than `patience` seconds (PATIENCE_SECONDS if None).
    """
    refusal = f"{folder} is being written by another run; wait for it, or stop it"
    with only_run(folder, refusal, patience=PATIENCE_SECONDS if patience is None else patience) as lock:
        clean_up()
        lock.admit_workers()
        yield


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say after an interruption or on a full disk that the same command continues the work on `folder`."""
    try:
        yield
    except KeyboardInterrupt:
        print("\nstopped; what is done is kept, and the same command continues from there", flush=True)
        raise
    except OSError as error:
        problem = full_disk_problem(error, folder)
        if problem is None:
            raise
        raise PipelineError(problem) from None


def full_disk_problem(error: OSError, folder: Path) -> str | None:
    """What to do about a full disk; None for any other error."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return f"the disk of {folder} is full; what is done is kept: make space, then run the same command again"
