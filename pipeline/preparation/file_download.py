"""Download a file whose size and sum are known: resumed after any interruption, and verified.

    save_file(server, ListedFile("a.bz2", "/wiki/a.bz2", size, sha1), folder, advance=bar.update)

Bytes are appended to `NAME.part`, which is given the file's name once it has the right sum.
"""

import hashlib
import http.client
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.preparation.downloads import CHUNK_BYTES, Server, Span, check_range
from utils.errors import PipelineError
from utils.files import move_into_place
from utils.hub_connection import open_url

_LEAST_BYTES = 1 << 20  # that an attempt must deliver to count as progress; of a small file, a hundredth


@dataclass(frozen=True)
class ListedFile:
    """A file at `path` on a server, as its listing describes it."""

    name: str
    path: str
    size: int
    sha1: str

    def is_in(self, folder: Path) -> bool:
        """True if `folder` has the whole file, with the right sum."""
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.size and sha1_of(path) == self.sha1

    def bytes_in(self, folder: Path) -> int:
        """How much of the unfinished file `folder` has."""
        part = part_path(folder / self.name)
        return min(part.stat().st_size, self.size) if part.is_file() else 0


def part_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def sha1_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def save_file(server: Server, file: ListedFile, folder: Path, *, advance: Callable[[int], object]) -> None:
    """Download `file` into `folder`, continuing what is there of it.

    Args:
        advance: called with the number of bytes that arrived; negative if they are discarded.

    Raises:
        PipelineError: the server does not deliver it, its sum is wrong, or it cannot be written.
    """
    path = folder / file.name
    part = _Part(part_path(path), advance)
    try:
        if part.size > file.size:
            part.clear()
        if part.size < file.size:
            _fill(part, server, file)
    finally:
        part.close()
    found = sha1_of(part.path)
    if found != file.sha1:
        part.path.unlink()
        raise PipelineError(
            f"{file.name} was damaged: its sha1 is {found}, expected {file.sha1}; it was removed, so run the same "
            "command again to download it"
        )
    move_into_place(part.path, path)


class _Part:
    """The bytes of a file that have arrived, on disk. What a killed process left is a correct beginning."""

    def __init__(self, path: Path, advance: Callable[[int], object]) -> None:
        self.path = path
        self._advance = advance
        self._file = path.open("ab", buffering=0)
        self.size = self._file.tell()

    def append(self, chunk: bytes) -> None:
        try:
            written = 0
            while written < len(chunk):
                written += self._file.write(memoryview(chunk)[written:]) or 0
        except OSError as error:  # must not count as a failure of the network
            raise PipelineError(
                f"{self.path} cannot be written: {error.strerror}; run the same command again"
            ) from None
        self.size += len(chunk)
        self._advance(len(chunk))

    def clear(self) -> None:
        self._file.truncate(0)
        self._advance(-self.size)
        self.size = 0

    def close(self) -> None:
        self._file.close()


def _fill(part: _Part, server: Server, file: ListedFile) -> None:
    """Request what is missing until it is there."""
    url = f"{server.endpoint}{file.path}"
    least = max(1, min(_LEAST_BYTES, file.size // 100))
    server.repeat(
        url, lambda timeout: _receive(part, server, url, file, timeout), received=lambda: part.size, least=least
    )


def _receive(part: _Part, server: Server, url: str, file: ListedFile, timeout: float) -> None:
    request = server.make_request(url, byte_range=(part.size, file.size))
    response, _ = open_url(request, timeout=timeout)
    with response:
        if response.status == 206:
            check_range(response, Span(0, file.size, file.size), received=part.size)
        else:
            _start_again(part, server, file, response)
        while chunk := response.read1(CHUNK_BYTES):
            if part.size + len(chunk) > file.size:
                part.clear()
                raise http.client.HTTPException(f"sent more than the {file.size:,} bytes of the listing")
            part.append(chunk)
    if part.size < file.size:
        raise http.client.HTTPException(f"ended {file.size - part.size:,} bytes too early")


def _start_again(part: _Part, server: Server, file: ListedFile, response: http.client.HTTPResponse) -> None:
    """Discard what is there, because the response is the whole file."""
    if response.status != 200 or response.length not in (None, file.size):
        found = f"status {response.status} with {response.length} bytes"
        raise http.client.HTTPException(f"got {found}, expected 206, or 200 with {file.size} bytes")
    if part.size:
        server.retries.notify(f"{urlsplit(server.endpoint).netloc} ignores ranges; {file.name} starts again from 0")
        part.clear()
