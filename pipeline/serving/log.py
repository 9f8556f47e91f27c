"""The server's log on standard error: one line a record, and no more of the same than people would read."""

import logging
import time
from collections.abc import Callable

RECORDS, SECONDS = 10, 60.0


class RepeatLimit(logging.Filter):
    """Passes ten records a minute from each place in the code, and then says how many were left out.

    Whoever can make the server log a line could otherwise fill its disk.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, int], tuple[float, int]] = {}  # place → (its minute's begin, records in it)

    def filter(self, record: logging.LogRecord) -> bool:
        place, now = (record.pathname, record.lineno), self._clock()
        begin, count = self._windows.get(place, (now, 0))
        if now - begin >= SECONDS:
            if count > RECORDS:
                record.msg = f"{record.getMessage()} ({count - RECORDS:,} more like this were not logged)"
                record.args = ()
            begin, count = now, 0
        self._windows[place] = (begin, count + 1)
        return count < RECORDS


def configure_log() -> None:
    """Everything that this process logs goes to standard error, through the limit."""
    handler = logging.StreamHandler()
    handler.addFilter(RepeatLimit())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", handlers=[handler])
