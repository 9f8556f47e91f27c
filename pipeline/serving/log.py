"""The server's log on standard error: one line per record, with a limit on repeats."""

import logging
import time
from collections.abc import Callable

RECORDS = 10
SECONDS = 60.0


class RepeatLimit(logging.Filter):
    """Allow ten records per minute from each line of code, then report how many were dropped.

    Otherwise anyone who can make the server log a line could fill the disk.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[
            tuple[str, int], tuple[float, int]
        ] = {}  # line of code → (start of its minute, records in it)

    def filter(self, record: logging.LogRecord) -> bool:
        place = (record.pathname, record.lineno)
        now = self._clock()
        start, count = self._windows.get(place, (now, 0))
        if now - start >= SECONDS:
            if count > RECORDS:
                record.msg = f"{record.getMessage()} ({count - RECORDS:,} more like this were not logged)"
                record.args = ()
            start = now
            count = 0
        self._windows[place] = (start, count + 1)
        return count < RECORDS


def configure_log() -> None:
    """Send all log records of this process to standard error, with the limit."""
    handler = logging.StreamHandler()
    handler.addFilter(RepeatLimit())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", handlers=[handler])
