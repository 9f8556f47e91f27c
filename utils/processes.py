"""Runs another program to its end, and lets it finish when it is interrupted.

code, signals, output = run_process([sys.executable, "train.py"])
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

# Interrupts closer together than this count as one series; the third of a series kills the program.
SERIES_SECONDS = 3.0


class Finished(NamedTuple):
    """`code` is negative where a signal killed the program; `signals` are those that came while it ran."""

    code: int
    signals: list[int]
    output: str


def run_process(command: Sequence[str], *, own_group: bool = False, capture: bool = False) -> Finished:
    """Runs `command` and waits, also through Ctrl-C, which `subprocess.run` would answer by killing it.

    Args:
        own_group: the program is put into a process group of its own, so the terminal's Ctrl-C does not reach it by
            itself and is passed on; it cannot read from the terminal then.
        capture: its standard output is returned instead of shown.
    """
    with SignalRelay(shares_group=not own_group) as relay:
        process = subprocess.Popen(
            command, process_group=0 if own_group else None, stdout=subprocess.PIPE if capture else None, text=True
        )
        relay.start(process)
        output, _ = process.communicate()
    return Finished(process.returncode, relay.received, output or "")


class SignalRelay:
    """While a program runs: passes SIGTERM on, and Ctrl-C where the terminal has not already sent it there.

    Nothing is printed at the first Ctrl-C, the program says itself what it does; the third within seconds kills it.
    """

    def __init__(self, *, shares_group: bool) -> None:
        self.process: subprocess.Popen | None = None
        self.shares_group = shares_group
        self.received: list[int] = []
        self.series = 0
        self.last = 0.0

    def start(self, process: subprocess.Popen) -> None:
        """From now on signals go to `process`; those that came before it was there go first."""
        self.process = process
        for signum in self.received:
            process.send_signal(signum)

    def __enter__(self) -> "SignalRelay":
        self.saved = {each: signal.signal(each, self._handle) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for each, handler in self.saved.items():
            signal.signal(each, handler)

    def _handle(self, signum: int, frame: object) -> None:
        self.received.append(signum)
        if self.process is None:
            return
        if signum == signal.SIGTERM:
            self.process.send_signal(signal.SIGTERM)
            return
        if not (self.shares_group and _in_foreground()):
            self.process.send_signal(signal.SIGINT)
        now = time.monotonic()
        self.series = self.series + 1 if now - self.last < SERIES_SECONDS else 1
        self.last = now
        if self.series == 2:
            print("\nCtrl-C once more kills it, whatever it is saving", file=sys.stderr)
        elif self.series >= 3:
            self.process.kill()


def _in_foreground() -> bool:
    """True where this process group is the terminal's foreground one, so that its Ctrl-C went to the stage as well."""
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
