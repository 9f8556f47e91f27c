"""A remote file, read by HTTP range requests, that tolerates a bad network.

Failed requests are retried with exponential backoff and jitter. Bytes received before a connection broke are kept, and
the next request asks for the rest. It gives up after several attempts in a row that deliver next to nothing.
"""

import http.client
import io
import json
import random
import re
import sys
import time
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit
from urllib.request import Request

from utils.errors import PipelineError
from utils.hub_connection import hub_request, open_url

BLOCK_BYTES = 8 << 20  # per request; the text column is most of a Parquet file, so little is read in vain
REQUEST_SECONDS = 60.0  # then a new request asks for the rest, so that a very slow server counts as failing
_TIMEOUT_SECONDS = 30.0
_FIRST_ATTEMPTS, _FIRST_TIMEOUT_SECONDS = 3, 10.0  # before the first connection; usually there is no network
_LEAST_PROGRESS = 0.01  # the share of a range that a request must deliver to count as progress
_LONGEST_WAIT = 60.0
CHUNK_BYTES = 1 << 18
HUB_REFUSALS = {
    401: "it requires a login: set HF_TOKEN",
    403: "access was denied: accept its terms and set HF_TOKEN",
}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

Result = TypeVar("Result")


class ServerError(PipelineError):
    """The server did not deliver the requested bytes in any attempt."""


class NotFound(PipelineError):
    """The server has nothing at this address."""


class RequestMaker(Protocol):
    """Makes a request for all bytes of a file or for [start, end)."""

    def __call__(self, url: str, *, byte_range: tuple[int, int] | None = None) -> Request: ...


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `unreachable`: there was no connection; `retry_after`: the delay requested by the
    server."""

    problem: str
    unreachable: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True)
class Span:
    """The bytes [start, end) of a file, and the size and hash of the whole file."""

    start: int
    end: int
    file_size: int | None = None
    file_hash: str = ""

    @property
    def length(self) -> int:
        return self.end - self.start


def print_notice(message: str) -> None:
    """Print a line to standard error, replacing a progress line."""
    sys.stderr.write(f"\r\x1b[K{message}\n" if sys.stderr.isatty() else f"{message}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Retries:
    """How to retry: up to `attempts` in a row, waiting `seconds`, then twice that, …"""

    attempts: int
    seconds: float
    sleep: Callable[[float], None] = time.sleep
    notify: Callable[[str], None] = print_notice

    def wait(self, server: str, failure: Failure, failures: int, attempts: int) -> None:
        """Wait before the next attempt. Half of the delay is random, so that workers do not retry all at the same
        time."""
        longest = min(self.seconds * 2 ** (failures - 1), _LONGEST_WAIT)
        seconds = max(longest * random.uniform(0.5, 1.0), min(failure.retry_after, _LONGEST_WAIT))
        self.notify(f"{server} {failure.problem}; retrying in {seconds:.1f} s (attempt {failures + 1} of {attempts})")
        self.sleep(seconds)


@dataclass(frozen=True)
class Server:
    """A server, by default the hub: its address, the retry policy, and the requests that it expects.

    `refusals`: what to do about final status codes; `address_setting`: where the user sets the address.
    """

    endpoint: str
    retries: Retries
    make_request: RequestMaker = hub_request
    refusals: Mapping[int, str] = field(default_factory=lambda: HUB_REFUSALS)
    address_setting: str = "HF_ENDPOINT"

    def json(self, path: str, *, first: bool = False) -> tuple[Any, str | None]:
        """A JSON response, and the address of the next page if there is one.

        `first`: the server has not answered yet, so give up soon if it cannot be reached.
        """
        url = path if path.startswith("http") else f"{self.endpoint}{path}"
        body, response_headers = self.page(url, first=first)
        links = response_headers.get("Link", "")
        next_page = links.partition('>; rel="next"')[0].rpartition("<")[2] if 'rel="next"' in links else None
        try:
            return json.loads(body), next_page
        except (ValueError, RecursionError):
            beginning = body[:60].decode("utf-8", errors="replace")
            raise PipelineError(f"{url} returned {beginning!r}, expected JSON; check {self.address_setting}") from None

    def page(self, url: str, *, first: bool = False) -> tuple[bytes, Message]:
        """A whole response and its headers."""
        body = bytearray()

        def request(timeout: float) -> Message:
            body.clear()
            return self._request(url, body, None, timeout)

        headers = self.repeat(url, request, received=lambda: 0, least=1, first=first)
        return bytes(body), headers

    def range(self, path: str, span: Span) -> bytes:
        """Read the bytes `span` of a file, with several requests if necessary."""
        body = bytearray()
        url = f"{self.endpoint}{path}"
        least = max(1, round(span.length * _LEAST_PROGRESS))
        self.repeat(
            url, lambda timeout: self._request(url, body, span, timeout), received=lambda: len(body), least=least
        )
        return bytes(body)

    def repeat(
        self,
        url: str,
        attempt: Callable[[float], Result],
        *,
        received: Callable[[], int],
        least: int,
        first: bool = False,
    ) -> Result:
        """The result of `attempt(timeout)`, which is repeated until it succeeds.

        `received` counts the bytes so far; an attempt that delivers `least` of them before it fails is progress.

        Raises:
            ServerError: too many attempts in a row failed without progress.
        """
        failures = 0
        while True:
            before = received()
            try:
                return attempt(_FIRST_TIMEOUT_SECONDS if first else _TIMEOUT_SECONDS)
            except (OSError, http.client.HTTPException) as error:
                failure = self._failure(url, error)
            first = first and failure.unreachable
            failures = 1 if received() - before >= least else failures + 1
            attempts = min(self.retries.attempts, _FIRST_ATTEMPTS) if first else self.retries.attempts
            if failures >= attempts:
                raise ServerError(f"{url} {failure.problem} {failures} times in a row")
            self.retries.wait(urlsplit(url).netloc, failure, failures, attempts)

    def _request(self, url: str, body: bytearray, span: Span | None, timeout: float) -> Message:
        request = self.make_request(url, byte_range=(span.start + len(body), span.end) if span else None)
        deadline = time.monotonic() + REQUEST_SECONDS
        response, stated_hash = open_url(request, timeout=timeout)
        with response:
            if span is not None:
                check_range(response, span, received=len(body))
                _check_hash(stated_hash, span)
            while chunk := response.read1(CHUNK_BYTES):
                body += chunk
                if span is not None and time.monotonic() > deadline and len(body) < span.length:
                    raise http.client.HTTPException(f"took longer than {REQUEST_SECONDS:.0f} s")
            if response.length:  # the connection ended before the announced length
                raise http.client.HTTPException(f"the response was {response.length} bytes too short")
            if span is not None and len(body) != span.length:
                found = len(body)
                del body[span.length :]
                raise http.client.HTTPException(f"got {found} bytes instead of {span.length}")
            return response.headers

    def _failure(self, url: str, error: Exception) -> Failure:
        """Classify a failed request.

        Raises:
            PipelineError: retrying is pointless.
        """
        if isinstance(error, urllib.error.HTTPError):
            if error.code == 404:
                raise NotFound(f"{url} returned 404 {error.reason}; is the name correct?") from None
            if error.code in self.refusals:
                raise PipelineError(
                    f"{url} returned {error.code} {error.reason}; {self.refusals[error.code]}"
                ) from None
            return Failure(f"returned {error.code} {error.reason}", retry_after=_seconds(error.headers))
        if isinstance(error, urllib.error.URLError):
            return Failure(f"cannot be reached ({error.reason})", unreachable=True)
        return Failure(f"failed ({str(error) or type(error).__name__})")


def check_range(response: http.client.HTTPResponse, span: Span, *, received: int) -> None:
    """Check that a response is the rest of `span` or the start of it."""
    if response.status != 206:
        raise http.client.HTTPException(f"got status {response.status} for a range request, expected 206")
    found = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(found.strip())
    start = span.start + received
    total = span.file_size or "*"
    sizes = ("*", str(span.file_size)) if span.file_size else None
    is_right = match and int(match[1]) == start and int(match[2]) < span.end and (not sizes or match[3] in sizes)
    if not is_right:
        raise http.client.HTTPException(f"got Content-Range {found!r}, expected bytes {start}-{span.end - 1}/{total}")


def _check_hash(stated: str | None, span: Span) -> None:
    """Check that a file is the one in the listing. Its content is not hashed, because only parts of it are read."""
    if stated and len(stated) == len(span.file_hash) and stated != span.file_hash:
        raise http.client.HTTPException(f"got a file with hash {stated}, but the listing says {span.file_hash}")


class RemoteFile(io.RawIOBase):
    """A seekable file of `size` bytes at `path` on a server, read in blocks, the last few of which are cached.

    `file_hash`, if known, is compared with the hash stated by the server.
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
        """Fill `buffer` up to the end of the current block."""
        if self._position >= self._size or not len(buffer):
            return 0
        number, offset = divmod(self._position, BLOCK_BYTES)
        piece = self._block(number)[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes; fewer only at the end, because pyarrow treats a short read as the end of the file."""
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
    """``Retry-After`` in seconds; a date is ignored in favour of the normal delay."""
    value = headers.get("Retry-After", "") if headers else ""
    return float(value) if value.isdigit() else 0.0
