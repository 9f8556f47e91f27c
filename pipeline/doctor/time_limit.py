"""Run work that may hang, such as a DNS lookup without a network, with a time limit.

answer = within(2.0, lambda: open_url(request, timeout=2.0))
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Started(Generic[T]):
    """Work in a daemon thread."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, deadline: float) -> T:
        """The result of the work, or its exception.

        Raises:
            TimeoutError: it is not done by `deadline`, as measured by `time.monotonic`.
        """
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._error is not None:
            raise self._error
        if not self._results:
            raise TimeoutError
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`, or its exception.

    Raises:
        TimeoutError: it takes longer than `seconds`.
    """
    return Started(work).result(time.monotonic() + seconds)
