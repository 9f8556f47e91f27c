"""A file behind HTTP that is read by ranges and survives a bad network.

A request that fails is repeated after a wait that doubles, with jitter; bytes that came before a connection broke are
kept, and the next request asks for the rest. A run of attempts that brings next to nothing gives up.
"""

import http.client
import io
import json
import random
import re
import sys
import time
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

from utils.errors import PipelineError
from utils.hub_connection import hub_request, open_url

BLOCK_BYTES = 8 << 20  # a request each; the text column is most of a Parquet file, so little is read for nothing
REQUEST_SECONDS = 60.0  # then a new request asks for the rest, and a server that only trickles counts as failing
_TIMEOUT_SECONDS = 30.0
_FIRST_ATTEMPTS, _FIRST_TIMEOUT_SECONDS = 3, 10.0  # before any connection: most often there is no network
_LEAST_PROGRESS = 0.01  # the share of a range that one request must bring to count as progress
_LONGEST_WAIT = 60.0
_CHUNK_BYTES = 1 << 18
_FINAL = {401: "it asks for a login: set HF_TOKEN", 403: "access is refused: accept its terms, set HF_TOKEN", 404: ""}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class ServerError(PipelineError):
    """The server did not give what was asked for, however often it was asked."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `unreachable`: no connection was made; `retry_after`: seconds that the server asks for."""

    problem: str
    unreachable: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True)
class Span:
    """The bytes [start, end) of a file, and what is known of the whole file: its size and hash."""

    start: int
    end: int
    file_size: int | None = None
    file_hash: str = ""

    @property
    def length(self) -> int:
        return self.end - self.start


def print_notice(message: str) -> None:
    """Print a line to standard error, in place of a progress line that is there."""
    sys.stderr.write(f"\r\x1b[K{message}\n" if sys.stderr.isatty() else f"{message}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Retries:
    """How long a failing server is asked again: `attempts` in a row, waiting `seconds`, twice that, …"""

    attempts: int
    seconds: float
    sleep: Callable[[float], None] = time.sleep
    notify: Callable[[str], None] = print_notice

    def wait(self, server: str, failure: Failure, failures: int, attempts: int) -> None:
        """Before the next attempt. Half of the wait is random, so that workers do not come back all at once."""
        longest = min(self.seconds * 2 ** (failures - 1), _LONGEST_WAIT)
        seconds = max(longest * random.uniform(0.5, 1.0), min(failure.retry_after, _LONGEST_WAIT))
        self.notify(f"{server} {failure.problem}; attempt {failures + 1} of {attempts} in {seconds:.1f} s")
        self.sleep(seconds)


@dataclass(frozen=True)
class Server:
    """The hub: its address, the headers of a request, and how patient we are."""

    endpoint: str
    retries: Retries

    def json(self, path: str, *, first: bool = False) -> tuple[Any, str | None]:
        """A JSON answer, and the address of its next page if there is one.

        `first`: the server has not answered yet; if it cannot be reached, give up soon.
        """
        body = bytearray()
        url = path if path.startswith("http") else f"{self.endpoint}{path}"
        response_headers = self._fetch(url, body, first=first)
        links = response_headers.get("Link", "")
        next_page = links.partition('>; rel="next"')[0].rpartition("<")[2] if 'rel="next"' in links else None
        try:
            return json.loads(body), next_page
        except (ValueError, RecursionError):
            beginning = body[:60].decode("utf-8", errors="replace")
            raise PipelineError(f"{url} answered {beginning!r}, expected JSON; is HF_ENDPOINT right?") from None

    def range(self, path: str, span: Span) -> bytes:
        """The bytes `span` of a file."""
        body = bytearray()
        self._fetch(f"{self.endpoint}{path}", body, span)
        return bytes(body)

    def _fetch(self, url: str, body: bytearray, span: Span | None = None, *, first: bool = False) -> Message:
        """Fill `body`, however many requests it takes; returns the last answer's headers."""
        least = max(1, round(span.length * _LEAST_PROGRESS)) if span else 1
        failures = 0
        while True:
            received = len(body)
            try:
                return self._request(url, body, span, _FIRST_TIMEOUT_SECONDS if first else _TIMEOUT_SECONDS)
            except (OSError, http.client.HTTPException) as error:
                failure = _failure(url, error)
            first = first and failure.unreachable
            if span is None:
                body.clear()
            failures = 1 if len(body) - received >= least else failures + 1
            attempts = min(self.retries.attempts, _FIRST_ATTEMPTS) if first else self.retries.attempts
            if failures >= attempts:
                raise ServerError(f"{url} {failure.problem}, {failures} times in a row")
            self.retries.wait(urlsplit(url).netloc, failure, failures, attempts)

    def _request(self, url: str, body: bytearray, span: Span | None, timeout: float) -> Message:
        request = hub_request(url, byte_range=(span.start + len(body), span.end) if span else None)
        deadline = time.monotonic() + REQUEST_SECONDS
        response, stated_hash = open_url(request, timeout=timeout)
        with response:
            if span is not None:
                _check_range(response, span, received=len(body))
                _check_hash(stated_hash, span)
            while chunk := response.read1(_CHUNK_BYTES):
                body += chunk
                if span is not None and time.monotonic() > deadline and len(body) < span.length:
                    raise http.client.HTTPException(f"took {REQUEST_SECONDS:.0f} s without coming to an end")
            if response.length:  # the connection ended before the announced length
                raise http.client.HTTPException(f"the answer was cut short by {response.length} bytes")
            if span is not None and len(body) != span.length:
                found = len(body)
                del body[span.length :]
                raise http.client.HTTPException(f"{found} bytes instead of {span.length}")
            return response.headers


def _failure(url: str, error: Exception) -> Failure:
    """What went wrong with a request.

    Raises:
        PipelineError: asking again is of no use.
    """
    if isinstance(error, urllib.error.HTTPError):
        if error.code in _FINAL:
            hint = _FINAL[error.code] or "is the name right?"
            raise PipelineError(f"{url} answered {error.code} {error.reason}; {hint}") from None
        return Failure(f"answered {error.code} {error.reason}", retry_after=_seconds(error.headers))
    if isinstance(error, urllib.error.URLError):
        return Failure(f"cannot be reached ({error.reason})", unreachable=True)
    return Failure(f"failed ({str(error) or type(error).__name__})")


def _check_range(response: http.client.HTTPResponse, span: Span, *, received: int) -> None:
    """Refuse an answer that is not the rest of `span`, or its beginning."""
    if response.status != 206:
        raise http.client.HTTPException(f"status {response.status} for a range, expected 206")
    found = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(found.strip())
    start = span.start + received
    total = span.file_size or "*"
    sizes = ("*", str(span.file_size)) if span.file_size else None
    is_right = match and int(match[1]) == start and int(match[2]) < span.end and (not sizes or match[3] in sizes)
    if not is_right:
        raise http.client.HTTPException(f"Content-Range {found!r}, expected bytes {start}-{span.end - 1}/{total}")


def _check_hash(stated: str | None, span: Span) -> None:
    """Refuse a file that is not the one in the listing. Its content is not hashed: only parts of it are read."""
    if stated and len(stated) == len(span.file_hash) and stated != span.file_hash:
        raise http.client.HTTPException(f"a file with the hash {stated}, the listing says {span.file_hash}")


class RemoteFile(io.RawIOBase):
    """A file of `size` bytes at `path` of a server, seekable, read in blocks of which the last few are kept.

    `file_hash`, where it is known, is compared with the one that the server states.
    """

    def __init__(self, server: Server, path: str, size: int, file_hash: str = "") -> None:
        self._server = server
        self._path = path
        self._size = size
        self._hash = file_hash
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
        left = self._size - self._position if size < 0 else min(size, self._size - self._position)
        pieces = []
        while left > 0:
            piece = super().read(left)
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if len(self._blocks) >= 3:
                self._blocks.pop(next(iter(self._blocks)))
            start = number * BLOCK_BYTES
            span = Span(start, min(start + BLOCK_BYTES, self._size), self._size, self._hash)
            self._blocks[number] = self._server.range(self._path, span)
        return self._blocks[number]


def _seconds(headers: Message | None) -> float:
    """``Retry-After`` in seconds; its form with a date is left to the ordinary wait."""
    value = headers.get("Retry-After", "") if headers else ""
    return float(value) if value.isdigit() else 0.0
