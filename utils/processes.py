"""Run another program and let it finish when it is interrupted.

code, signals, output = run_process([sys.executable, "train.py"])
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

# Interrupts closer together than this form a series; the third in a series kills the program.
SERIES_SECONDS = 3.0


class Finished(NamedTuple):
    """`code` is negative if a signal killed the program; `signals` are those that arrived while it ran."""

    code: int
    signals: list[int]
    output: str


def available_cores() -> int:
    """The number of cores available to this process, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_process(command: Sequence[str], *, own_group: bool = False, capture: bool = False) -> Finished:
    """Run `command` and wait for it, even after Ctrl-C (`subprocess.run` would kill it).

    Args:
        own_group: put the program into its own process group. The terminal's Ctrl-C is then forwarded instead of
            reaching it directly, and the program cannot read from the terminal.
        capture: return its standard output instead of showing it.
    """
    with SignalRelay(shares_group=not own_group) as relay:
        process = subprocess.Popen(
            command, process_group=0 if own_group else None, stdout=subprocess.PIPE if capture else None, text=True
        )
        relay.start(process)
        output, _ = process.communicate()
    return Finished(process.returncode, relay.received, output or "")


class SignalRelay:
    """Forward SIGTERM to a running program, and Ctrl-C if the terminal did not already send it there.

    The first Ctrl-C prints nothing because the program reports what it does; the third within seconds kills it.
    """

    def __init__(self, *, shares_group: bool) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.shares_group = shares_group
        self.received: list[int] = []
        self.series = 0
        self.last = 0.0

    def start(self, process: subprocess.Popen[str]) -> None:
        """Forward signals to `process`, starting with those that arrived before it was started."""
        self.process = process
        for signum in self.received:
            process.send_signal(signum)

    def __enter__(self) -> "SignalRelay":
        self.saved = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.saved.items():
            signal.signal(number, handler)

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
            print("\npress Ctrl-C again to kill it, even while it is saving", file=sys.stderr)
        elif self.series >= 3:
            self.process.kill()


def _in_foreground() -> bool:
    """True if this is the terminal's foreground process group, whose Ctrl-C also reaches the stage."""
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
