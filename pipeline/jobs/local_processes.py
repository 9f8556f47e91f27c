"""Runs jobs, one process each, a number of them at once, and tells how far each is.

    for name, outcome in run_jobs({"a": partial(work, "a")}, workers=4, on_progress=show):
        ...

A process that loses its parent (kill -9) ends by itself at its next report.
"""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from utils.errors import PipelineError
from utils.packages import missing_package_problem

Report = Callable[[Any], None]
Work = Callable[[Report], Any]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAKE_SECONDS = 0.5


class ProcessLost(PipelineError):
    """A job's process ended without a result, most likely killed."""


def run_jobs(
    jobs: Mapping[str, Work],
    *,
    workers: int,
    on_progress: Callable[[str, Any], None],
    start_method: str = "spawn",
) -> Iterator[tuple[str, Any]]:
    """Yields (name, what the job returned) as jobs end; for one that failed, the PipelineError instead.

    Each job is called with a function that sends progress to `on_progress(name, progress)`. Jobs must be picklable.
    Leaving the generator early (an error, Ctrl-C) kills the jobs that still run.

    Args:
        start_method: "spawn", or "fork" for jobs that are short and use what this process has loaded; they must not
            use its threads or locks, such as a progress bar's.
    """
    context = multiprocessing.get_context(start_method)
    waiting = list(jobs.items())[::-1]
    running: dict[Connection, tuple[str, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name, work = waiting.pop()
                with _signals_held():  # until the process is one of those that are killed in the end
                    running |= _start(context, name, work)
            # A signal that another thread took does not wake this one, and its handler runs here: hence the timeout.
            for connection in wait(list(running), timeout=_WAKE_SECONDS):
                name, process = running[connection]
                kind, content = _receive(connection, process)
                if kind == "progress":
                    on_progress(name, content)
                    continue
                del running[connection]
                connection.close()
                process.join()
                yield name, content
    finally:
        for _, process in running.values():
            process.kill()
        for _, process in running.values():
            process.join()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the end of the block.

    Ctrl-C reaches the whole process group; the blocked signal is inherited, so only the parent answers it. SIGTERM
    waits until the process has been told its job; it unblocks SIGTERM itself.
    """
    resource_tracker.ensure_running()  # started by the first process otherwise, which would unblock both signals
    received: list[int] = []
    # Another thread of this process may take a signal that this one blocks; Python's handler runs here all the same.
    handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in _SIGNALS}
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)


def _start(context: Any, name: str, work: Work) -> dict[Connection, tuple[str, Any]]:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, work), name=name, daemon=True)
    process.start()
    sender.close()
    return {receiver: (name, process)}


def _receive(connection: Connection, process: Any) -> tuple[str, Any]:
    try:
        return connection.recv()
    except (EOFError, OSError):  # also in the middle of a message
        process.join()
        hint = "; memory may have run out: try fewer --workers" if process.exitcode == -signal.SIGKILL else ""
        return "done", ProcessLost(f"the process for {process.name} ended with {process.exitcode}{hint}")


def _run(sender: Connection, work: Work) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process has its parent's handler
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        result = work(lambda progress: _send(sender, ("progress", progress)))
    except PipelineError as error:
        result = error
    except OSError as error:
        result = PipelineError(str(error))
    except Exception as error:
        problem = missing_package_problem(error) if isinstance(error, ImportError) else None
        result = PipelineError(problem or f"unexpected {type(error).__name__}: {error}; this is a bug")
    _send(sender, ("done", result))


def _send(sender: Connection, message: tuple[str, Any]) -> None:
    try:
        sender.send(message)
    except BrokenPipeError:  # the parent has gone; an OSError would be taken for a failure of the work
        sys.exit(1)
