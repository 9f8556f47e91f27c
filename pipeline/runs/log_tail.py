"""Read what was appended to a run's log since the last look.

    tail = LogTail(path)
    for line in tail.read(on_restart=series.clear):
        series.add(line)

A resumed run replaces its log with a shorter one and goes on appending; `on_restart` is called before its lines are
read from the start.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from utils.raw_log import LogLine

CHUNK_BYTES = 4_000_000  # a longer line is not a log line
_LONGEST_INTEGER = 18  # characters; longer ones are read as floats
_PROOF_BYTES = 64  # that the file still starts with what was read


class LogTail:
    """The position in a log file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._file: tuple[int, int] | None = None
        self._proof = b""

    def read(self, on_restart: Callable[[], None]) -> Iterator[bytes]:
        """The complete lines after those already read; none if the file is gone.

        Raises:
            OSError: the file exists but cannot be read.
        """
        try:
            file = self.path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return
        with file:
            if self._is_another(file.fileno()):
                self._offset = 0
                on_restart()
            file.seek(self._offset)
            while chunk := file.read(CHUNK_BYTES):
                end = chunk.rfind(b"\n") + 1
                if not end and len(chunk) < CHUNK_BYTES:
                    return  # a line that is still being written
                whole = chunk[: end or len(chunk)]
                self._offset += len(whole)
                self._proof = (self._proof + whole)[-_PROOF_BYTES:]
                yield from whole.split(b"\n")
                file.seek(self._offset)

    def _is_another(self, handle: int) -> bool:
        """Whether the file was replaced or rewritten since the last look."""
        status = os.fstat(handle)
        file = (status.st_dev, status.st_ino)
        known, self._file = self._file, file
        if known is None:
            return False
        if known != file or status.st_size < self._offset:
            self._proof = b""
            return True
        start = self._offset - len(self._proof)
        if os.pread(handle, len(self._proof), start) == self._proof:
            return False
        self._proof = b""
        return True


def parse_line(line: bytes) -> LogLine | None:
    """The object in a line of a log; None if it is not a log line, such as one that was cut off."""
    content = _parse(line)
    return content if isinstance(content, dict) and type(content.get("step")) is int and content["step"] >= 0 else None


def _parse(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except ValueError:
        pass
    try:
        # Slower, but reads NaN and infinity, which other tools write; they become null.
        return json.loads(line, parse_constant=lambda name: None, parse_float=_finite, parse_int=_integer)
    except (ValueError, RecursionError):
        return None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _integer(text: str) -> int | float | None:
    return int(text) if len(text) <= _LONGEST_INTEGER else _finite(text)
