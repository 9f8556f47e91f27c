"""Local executors: one process per job, several in parallel, or all jobs in this process.

    for name, outcome in LocalProcesses(4, folder).outcomes({"a": partial(work, "a")}, on_progress=show):
        ...

A process whose parent dies (kill -9) exits immediately.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, TypeVar

from pipeline.jobs.runner import Outcomes, Work, full_disk_problem
from utils.errors import PipelineError
from utils.locks import part_of_run
from utils.packages import missing_package_problem

P = TypeVar("P")
R = TypeVar("R")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAKE_SECONDS = 0.5
_Message = tuple[Literal["progress", "done"], object]


class ProcessLost(PipelineError):
    """The process of a job ended without a result, most likely because it was killed."""


@dataclass(frozen=True)
class ThisProcess:
    """Run jobs one after the other in this process."""

    def outcomes(self, work: Mapping[str, Work[P, R]], on_progress: Callable[[str, P], None]) -> Outcomes[R]:
        for name, job in work.items():
            try:
                yield name, job(lambda progress, name=name: on_progress(name, progress))  # type: ignore[misc]  # a default binds the name
            except PipelineError as error:
                yield name, error


@dataclass(frozen=True)
class LocalProcesses:
    """Run jobs in up to `workers` processes; jobs must be picklable.

    Closing the generator early (on an error or Ctrl-C) kills the running jobs.

    Args:
        folder: the folder that the run holds (`pipeline.jobs.runner.claimed`); its processes hold it too.
        start_method: "spawn", or "fork" for short jobs that need data loaded in this process; they must not use its
            threads or locks, such as a progress bar's.
    """

    workers: int
    folder: Path
    start_method: Literal["spawn", "fork"] = "spawn"

    def outcomes(self, work: Mapping[str, Work[P, R]], on_progress: Callable[[str, P], None]) -> Outcomes[R]:
        waiting = list(work.items())[::-1]
        running: dict[Connection, BaseProcess] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    name, job = waiting.pop()
                    with _signals_held():  # until the process is registered for killing
                        receiver, process = self._start(name, job)
                        running[receiver] = process
                # A signal received by another thread does not wake this one, although its handler runs here; hence the
                # timeout
                ready = wait(list(running), timeout=_WAKE_SECONDS)
                for receiver in [receiver for receiver in running if receiver in ready]:
                    process = running[receiver]
                    kind, content = _receive(receiver, process)
                    if kind == "progress":
                        on_progress(process.name, content)  # type: ignore[arg-type]  # pickling loses the type
                        continue
                    del running[receiver]
                    receiver.close()
                    process.join()
                    yield process.name, content  # type: ignore[misc]  # pickling loses the type
        finally:
            for process in running.values():
                process.kill()
            for process in running.values():
                process.join()

    def _start(self, name: str, work: Work[P, R]) -> tuple[Connection, BaseProcess]:
        context: SpawnContext | ForkContext = multiprocessing.get_context("spawn")
        if self.start_method == "fork":
            context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(sender, name, work, self.folder), name=name, daemon=True)
        process.start()
        sender.close()
        return receiver, process


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of the block.

    Ctrl-C reaches the whole process group. Child processes inherit the blocked signal, so only the parent handles it.
    A child unblocks SIGTERM itself once it has its job.
    """
    resource_tracker.ensure_running()  # otherwise the first process starts it, which unblocks both signals
    received: list[int] = []
    # Another thread of this process may receive a signal that this one blocks, but Python's handler still runs here.
    handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in _SIGNALS}
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for caught in received:
            signal.raise_signal(caught)


def _receive(receiver: Connection, process: BaseProcess) -> _Message:
    try:
        message: _Message = receiver.recv()
    except (EOFError, OSError):  # possibly in the middle of a message
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        what = "was killed, possibly out of memory" if killed else f"ended with exit code {process.exitcode}"
        remedy = "run the same command again to continue" + (", with fewer --workers" if killed else "")
        return "done", ProcessLost(f"a worker process {what} ({process.name}); {remedy}")
    return message


def _run(sender: Connection, name: str, work: Work[P, R], folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process inherits its parent's handler
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with part_of_run(folder):
        _send(sender, ("done", _outcome(name, work, lambda progress: _send(sender, ("progress", progress)), folder)))


def _outcome(name: str, work: Work[P, R], report: Callable[[P], None], folder: Path) -> R | PipelineError:
    try:
        return work(report)
    except PipelineError as error:
        return error
    except OSError as error:
        where = "" if error.filename else f"{name}: "
        return PipelineError(full_disk_problem(error, folder) or f"{where}{error}")
    except Exception as error:
        problem = missing_package_problem(error) if isinstance(error, ImportError) else None
        return PipelineError(problem or f"unexpected {type(error).__name__}: {error}; this is a bug")


def _send(sender: Connection, message: _Message) -> None:
    try:
        sender.send(message)
    except BrokenPipeError:  # the parent is gone; an OSError would be mistaken for a failure of the job
        sys.exit(1)


def _exit_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "only runs in a worker of LocalProcesses"
    wait([parent.sentinel])
    os._exit(1)
