"""A file behind HTTP that is read by ranges and survives a bad network.

A request that fails is repeated after a wait that doubles, with jitter; bytes that came before a connection broke are
kept, and the next request asks for the rest. Only a run of attempts without one new byte gives up.
"""

import http.client
import io
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.errors import PipelineError

BLOCK_BYTES = 8 << 20  # a request each; the text column is most of a Parquet file, so little is read for nothing
_TIMEOUT_SECONDS = 30.0
_LONGEST_WAIT = 60.0
_CHUNK_BYTES = 1 << 18
_FINAL = {401: "it wants a login: set HF_TOKEN", 403: "access is refused: accept its terms, set HF_TOKEN", 404: ""}


@dataclass(frozen=True)
class Retries:
    """How long a failing server is asked again: `attempts` in a row, waiting `seconds`, twice that, …"""

    attempts: int
    seconds: float
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int, retry_after: float | None) -> None:
        """Before the next attempt. Half of the wait is random, so that workers do not come back all at once."""
        longest = min(self.seconds * 2 ** (failures - 1), _LONGEST_WAIT)
        self.sleep(max(longest * random.uniform(0.5, 1.0), min(retry_after or 0.0, _LONGEST_WAIT)))


@dataclass(frozen=True)
class Server:
    """The hub: its address, what it wants to see with a request, and how patient we are."""

    endpoint: str
    retries: Retries
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def json(self, path: str) -> tuple[Any, str | None]:
        """A JSON answer, and the address of its next page where there is one."""
        body = bytearray()
        url = path if path.startswith("http") else f"{self.endpoint}{path}"
        response_headers = self._fetch(url, None, body)
        links = response_headers.get("Link", "")
        next_page = links.partition('>; rel="next"')[0].rpartition("<")[2] if 'rel="next"' in links else None
        return json.loads(body), next_page

    def range(self, path: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file."""
        body = bytearray()
        self._fetch(f"{self.endpoint}{path}", (start, end), body)
        return bytes(body)

    def _fetch(self, url: str, span: tuple[int, int] | None, body: bytearray) -> Mapping[str, str]:
        """Fill `body`, whatever number of requests it takes; returns the last answer's headers."""
        failures = 0
        while True:
            received = len(body)
            try:
                return self._request(url, span, body)
            except urllib.error.HTTPError as error:
                if error.code in _FINAL:
                    hint = _FINAL[error.code] or "is the name right?"
                    raise PipelineError(f"{url} answered {error.code} {error.reason}; {hint}") from None
                problem, retry_after = f"answered {error.code} {error.reason}", _seconds(error.headers)
            except (OSError, http.client.HTTPException) as error:
                problem, retry_after = f"{type(error).__name__}: {error}", None
            if span is None:
                body.clear()
            failures = 1 if len(body) > received else failures + 1
            if failures >= self.retries.attempts:
                raise PipelineError(
                    f"{url}: {problem}, {failures} times in a row; what was prepared is saved, "
                    "run the same command again to go on from there"
                )
            self.retries.wait(failures, retry_after)

    def _request(self, url: str, span: tuple[int, int] | None, body: bytearray) -> Mapping[str, str]:
        request = urllib.request.Request(url)
        for name, value in self.headers.items():
            request.add_unredirected_header(name, value)  # not for the storage that the hub redirects to
        if span is not None:
            request.add_header("Range", f"bytes={span[0] + len(body)}-{span[1] - 1}")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            if span is not None and response.status != 206:
                raise http.client.HTTPException(f"status {response.status} for a range, wanted: 206")
            while chunk := response.read(_CHUNK_BYTES):
                body += chunk
            if response.length:  # the connection ended before the announced length
                raise http.client.HTTPException(f"the answer was cut short by {response.length} bytes")
            if span is not None and len(body) != span[1] - span[0]:
                raise http.client.HTTPException(f"{len(body)} bytes instead of {span[1] - span[0]}")
            return response.headers


class RemoteFile(io.RawIOBase):
    """A file of `size` bytes at `path` of a server, seekable, read in blocks of which the last few are kept."""

    def __init__(self, server: Server, path: str, size: int) -> None:
        self._server, self._path, self._size = server, path, size
        self._position = 0
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the block at the position reaches."""
        if self._position >= self._size or not len(buffer):
            return 0
        number, offset = divmod(self._position, BLOCK_BYTES)
        piece = self._block(number)[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer only at the end: pyarrow takes a short read for the file's end."""
        wanted = self._size - self._position if size < 0 else min(size, self._size - self._position)
        pieces = []
        while wanted > 0:
            piece = super().read(wanted)
            pieces.append(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if len(self._blocks) >= 3:
                self._blocks.pop(next(iter(self._blocks)))
            start = number * BLOCK_BYTES
            self._blocks[number] = self._server.range(self._path, start, min(start + BLOCK_BYTES, self._size))
        return self._blocks[number]


def _seconds(headers: Mapping[str, str] | None) -> float | None:
    """``Retry-After`` in seconds; its form with a date is left to the ordinary wait."""
    value = (headers or {}).get("Retry-After", "")
    return float(value) if value.isdigit() else None
