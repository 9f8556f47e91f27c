"""Handle Ctrl-C and SIGTERM in training: the first finishes and saves the step, the second stops immediately."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

from utils.errors import Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """``with StopSignals() as stop:`` — `stop.received` is the signal received, or 0."""

    def __init__(self) -> None:
        self.received = 0
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # handlers can be set only there
            self._earlier = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise_for(number)
        self.received = number
        print("\nfinishing the step and saving; press Ctrl-C again to stop immediately", file=sys.stderr, flush=True)


def raise_for(number: int) -> None:
    """End the program like the signal would: KeyboardInterrupt (130) or Terminated (143)."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
