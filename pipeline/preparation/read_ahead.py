"""Reads ahead in a thread, so that a slow source (a network) works while the reader does."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def prefetched(items: Iterable[Item], *, depth: int = 2) -> Iterator[Item]:
    """`items`, up to `depth` of them fetched ahead. An exception of theirs is raised here, in its place."""
    ready: queue.Queue = queue.Queue(depth)
    left = threading.Event()

    def put(kind: object, value: object) -> None:
        while not left.is_set():
            try:
                return ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def fetch() -> None:
        try:
            for item in items:
                put(None, item)
                if left.is_set():
                    return
            put(_END, None)
        except BaseException as error:
            put(error, None)

    threading.Thread(target=fetch, daemon=True).start()
    try:
        while True:
            kind, value = ready.get()
            if kind is _END:
                return
            if isinstance(kind, BaseException):
                raise kind
            yield value
    finally:
        left.set()
