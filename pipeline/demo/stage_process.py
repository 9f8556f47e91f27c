"""Run a stage through main.py, with its output in a log from which errors are extracted.

route = Route(config=Path("configs/quickstart.json"), settings=[], log=Path("quickstart/quickstart.log"))
route.run("train", ["--name", "quickstart"], on_output=watch)
text = route.answer("inference", ["--checkpoint", "latest", "--prompt", "The"])
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from pipeline.configuration import CHECKOUT
from utils.cli import EXIT_INTERRUPTED, EXIT_TERMINATED
from utils.errors import PipelineError, Terminated
from utils.processes import SignalRelay, run_process

SECONDS_BETWEEN_LOOKS = 0.25


@dataclass
class Route:
    """How to start stages: with a configuration, additional settings, and a log.

    `received` has the signals received so far, because a stage that was about to exit may have missed one.
    """

    config: Path
    settings: Sequence[str]
    log: Path
    received: list[int] = field(default_factory=list)

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        settings: Sequence[str] = (),
        on_output: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Run a stage. `on_output` is called a few times per second with its new output.

        Raises:
            PipelineError: it failed; has the stage's own message.
            KeyboardInterrupt: it was interrupted and saved its progress.
        """
        command = self.command(name, arguments, settings)
        with self.log.open("a", encoding="utf-8") as log, self.log.open(encoding="utf-8", errors="replace") as read:
            start = _write_command(log, command)
            read.seek(start)
            code = self._finish(command, log, log, lambda: on_output(read.read()))
        self._check(code, name, start)

    def answer(self, name: str, arguments: Sequence[str]) -> str:
        """The standard output of a stage.

        Raises:
            PipelineError: it failed.
            KeyboardInterrupt: it was interrupted.
        """
        command = self.command(name, arguments)
        with self.log.open("a", encoding="utf-8") as log, TemporaryFile("w+", encoding="utf-8") as output:
            start = _write_command(log, command)
            code = self._finish(command, output, log)
            output.seek(0)
            text = output.read().strip()
            log.write(f"{text}\n")
        self._check(code, name, start)
        return text

    def attach(self, name: str, arguments: Sequence[str]) -> int:
        """Run a stage in the foreground of the terminal; returns its exit code."""
        return run_process(self.command(name, arguments)).code

    def command(self, name: str, arguments: Sequence[str], settings: Sequence[str] = ()) -> list[str]:
        """The user's settings come last, because the last one wins."""
        options = [part for setting in (*settings, *self.settings) for part in ("--set", setting)]
        return [sys.executable, str(CHECKOUT / "main.py"), name, "--config", str(self.config), *options, *arguments]

    def _finish(
        self, command: list[str], output: TextIO, errors: TextIO, on_look: Callable[[], None] = lambda: None
    ) -> int:
        with SignalRelay(shares_group=True) as relay:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, text=True)
            relay.start(process)
            while (code := _wait(process)) is None:
                on_look()
        self.received += relay.received
        return code

    def _check(self, code: int, name: str, start: int) -> None:
        if code == EXIT_TERMINATED:
            raise Terminated
        if code == EXIT_INTERRUPTED or (code and self.received):
            raise KeyboardInterrupt
        if code:
            output = self.log.read_bytes()[start:].decode("utf-8", "replace")
            said = [line.removeprefix("error: ") for line in output.splitlines() if line.startswith("error: ")]
            reason = said[-1] if said else f"exit code {code}"
            raise PipelineError(f"{name}: {reason} (see {self.log} for the full output)")


def _write_command(log: TextIO, command: Sequence[str]) -> int:
    """Write the command to the log; returns the byte position where its output starts."""
    log.write(f"\n$ {' '.join(command[1:])}\n")
    log.flush()
    return log.tell()


def _wait(process: subprocess.Popen[str]) -> int | None:
    try:
        return process.wait(SECONDS_BETWEEN_LOOKS)
    except subprocess.TimeoutExpired:
        return None
