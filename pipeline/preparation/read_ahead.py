"""Read ahead in a thread, so that a slow source (a network) and the reader work at the same time."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_WAKE_SECONDS = 0.1


class _Ended:
    """Marks the end of the iterable."""


def prefetched(items: Iterable[Item], *, depth: int = 2) -> Iterator[Item]:
    """`items`, with up to `depth` of them fetched ahead. Exceptions are raised at their position."""
    ready: queue.Queue[tuple[Item] | BaseException | _Ended] = queue.Queue(depth)
    abandoned = threading.Event()

    def put(message: tuple[Item] | BaseException | _Ended) -> None:
        while not abandoned.is_set():
            try:
                ready.put(message, timeout=_WAKE_SECONDS)
                return
            except queue.Full:
                continue

    def fetch() -> None:
        try:
            for item in items:
                put((item,))
                if abandoned.is_set():
                    return
            put(_Ended())
        except BaseException as error:
            put(error)

    threading.Thread(target=fetch, daemon=True).start()
    try:
        while True:
            message = ready.get()
            if isinstance(message, _Ended):
                return
            if isinstance(message, BaseException):
                raise message
            yield message[0]
    finally:
        abandoned.set()
