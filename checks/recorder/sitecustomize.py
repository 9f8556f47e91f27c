"""Record which project functions each test runs: a pytest plugin, and a hook for processes started by tests.

    RECORD_ROOT=$PWD RECORD_FILE=/tmp/record.tsv PYTHONPATH=checks/recorder python -m pytest -p sitecustomize

Python imports a module with this name in every process that has it on its path. The lines in the file are:
``executed``, the test, whether it or a fixture ran the function, the function's file and first line; ``seconds``, the
test, the duration of a phase; ``failed``, the test. A test may run a module in a copy that it made elsewhere; the line
names the original. `checks/mutants.py` starts the recording and reads the file.
"""

import os
import sys
import threading
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

ROOT = os.environ.get("RECORD_ROOT", "") + os.sep
FILE = os.environ.get("RECORD_FILE", "")


class Recorder:
    """Write one line for each function, test and phase; `current` is pytest's name for the test and its phase."""

    def __init__(self) -> None:
        self.current = os.environ.get("PYTEST_CURRENT_TEST", "")
        self.seen: set[int] = set()
        self.kept: list[CodeType] = []  # keeps them alive, so that their ids are not reused

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if id(code) not in self.seen:
            self.seen.add(id(code))
            self.kept.append(code)
            file = project_file(code.co_filename) if self.current else None
            if file:
                name, _, phase = self.current.rpartition(" ")
                by_fixture = "test" if phase == "(call)" else "fixture"
                write(f"executed\t{name}\t{by_fixture}\t{file}\t{code.co_firstlineno}")

    def start(self, current: str) -> None:
        self.current = current
        self.seen.clear()
        self.kept.clear()


@cache
def project_file(filename: str) -> str | None:
    """The path below `ROOT` of a module, or of the original of a copy; None for other modules."""
    if filename.startswith(ROOT):
        return filename.removeprefix(ROOT)
    if filename.startswith(("<", sys.prefix, sys.base_prefix)) or "site-packages" in filename:
        return None
    parts = Path(filename).parts
    below = ("/".join(parts[start:]) for start in range(1, len(parts)))
    return next((file for file in below if os.path.isfile(ROOT + file)), None)


def write(line: str) -> None:
    """Append immediately, so that nothing is lost if a test kills its process."""
    with open(FILE, "a", encoding="utf-8") as stream:
        stream.write(line + "\n")


if FILE:
    recorder = Recorder()
    sys.settrace(recorder)
    threading.settrace(recorder)


class _Item:
    nodeid: str


class _Report:
    nodeid: str
    duration: float
    failed: bool


def _begin(item: _Item, phase: str) -> None:
    recorder.start(f"{item.nodeid} ({phase})")
    sys.settrace(recorder)


def pytest_runtest_setup(item: _Item) -> None:
    _begin(item, "setup")


def pytest_runtest_call(item: _Item) -> None:
    _begin(item, "call")


def pytest_runtest_logreport(report: _Report) -> None:
    if recorder.current:  # not in pytest-xdist's controller process
        write(f"seconds\t{report.nodeid}\t{report.duration:.3f}")
        if report.failed:
            write(f"failed\t{report.nodeid}")


def pytest_collection_finish(session: object) -> None:
    """Ignore code that runs on import."""
    recorder.start("")
    Path(FILE).touch()
