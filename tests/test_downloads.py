"""Remote files: responses are validated, and unresponsive servers are given up."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.preparation import downloads
from pipeline.preparation.downloads import Failure, RemoteFile, Retries, Server, ServerError, Span
from utils.errors import PipelineError
from utils.hub_connection import HubError, download

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_SHA1 = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler, int, int], None]


class Storage:
    """A server whose answers to requests for the bytes [start, end) are set by the test."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.answer: Answer = lambda request, start, end: send(request, CONTENT[start:end], start)
        storage = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                storage.requests.append(f"{self.path} {self.headers.get('Range', '')}".strip())
                start, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
                storage.answer(self, int(start), int(last) + 1 if last else len(CONTENT))

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def reader(self, attempts: int = 3) -> Server:
        return Server(self.address, Retries(attempts, 1.0, sleep=lambda seconds: None))


@pytest.fixture
def storage() -> Iterator[Storage]:
    storage = Storage()
    yield storage
    storage.server.shutdown()
    storage.server.server_close()


def send(request: BaseHTTPRequestHandler, body: bytes, start: int, *, status: int = 206, **headers: str) -> None:
    """Answer with `body`; a keyword `Content_Length="9"` replaces or adds a header."""
    usual = {
        "Content-Length": str(len(body)),
        "Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(CONTENT)}",
    }
    request.send_response(status)
    for name, value in (usual | {name.replace("_", "-"): value for name, value in headers.items()}).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@pytest.mark.parametrize("found", ["bytes 7-106/10240", "bytes 0-99/99", "bytes 0-199/10240", "bytes */10240", ""])
def test_bytes_of_another_range_are_refused(storage, found):
    storage.answer = lambda request, start, end: send(request, CONTENT[7:107], start, Content_Range=found)
    with pytest.raises(ServerError, match=r"Content-Range '.*', expected bytes 0-99/10240.* 3 times in a row"):
        storage.reader().range("/file", Span(0, 100, len(CONTENT)))


def test_a_shorter_range_than_asked_for_is_continued(storage):
    storage.answer = lambda request, start, end: send(request, CONTENT[start : min(end, start + 40)], start)
    assert storage.reader().range("/file", Span(10, 110)) == CONTENT[10:110]
    assert storage.requests == [f"/file bytes={start}-109" for start in (10, 50, 90)]


def test_more_than_was_asked_for_is_cut_off(storage):
    storage.answer = lambda request, start, end: send(
        request, CONTENT[start : end + 5], start, Content_Range=f"bytes {start}-{end - 1}/{len(CONTENT)}"
    )
    with pytest.raises(ServerError, match=r"105 bytes instead of 100"):
        storage.reader(attempts=1).range("/file", Span(0, 100))


def test_one_byte_per_connection_is_not_progress(storage):
    storage.answer = lambda request, start, end: send(
        request, CONTENT[start : start + 1], start, Content_Length=str(end - start)
    )
    with pytest.raises(ServerError, match="3 times in a row"):
        storage.reader().range("/file", Span(0, 10_000))
    assert len(storage.requests) == 3


def test_a_slow_answer_is_continued_by_another_request(storage, monkeypatch):
    monkeypatch.setattr(downloads, "REQUEST_SECONDS", -1.0)
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 400)
    assert storage.reader().range("/file", Span(0, 1000)) == CONTENT[:1000]
    assert storage.requests == [f"/file bytes={start}-999" for start in (0, 400, 800)]


@pytest.mark.parametrize("stated", [SHA256, "0" * 64, ""])
def test_another_file_than_the_listing_s_is_refused(storage, stated):
    def answer(request: BaseHTTPRequestHandler, start: int, end: int) -> None:
        if request.path == "/stored":  # its own ETag is of another kind
            send(request, CONTENT[start:end], start, ETag=f'"{"1" * 64}"')
        else:
            request.send_response(302)
            request.send_header("Location", "/stored")
            request.send_header("Content-Length", "0")
            request.send_header("X-Linked-ETag", f'"{stated}"')
            request.end_headers()

    storage.answer = answer
    file = RemoteFile(storage.reader(), "/file", len(CONTENT), SHA256)
    if stated == "0" * 64:
        with pytest.raises(ServerError, match=f"got a file with hash {stated}, but the listing says {SHA256}"):
            file.read()
    else:
        assert file.read() == CONTENT


def test_an_answer_that_is_not_json_is_named(storage):
    storage.answer = lambda request, start, end: send(request, b"<html>log in</html>", 0, status=200)
    with pytest.raises(PipelineError, match=r"/api returned '<html>log in</html>', expected JSON"):
        storage.reader().json("/api")


@pytest.mark.parametrize("header", ["ETag", "X-Linked-ETag"])
@pytest.mark.parametrize("stated", [SHA256, GIT_SHA1, "not-a-hash"])
def test_a_download_has_the_hash_that_the_hub_states(storage, monkeypatch, tmp_path, header, stated):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_url", lambda *names, **options: storage.address)
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *names, **options: f"{storage.address}/file")
    content = CONTENT
    headers = {header.replace("-", "_"): f'"{stated}"'}
    storage.answer = lambda request, start, end: send(request, content, 0, status=200, **headers)
    assert download("someone/model", "tokenizer.model") == CONTENT
    content = CONTENT[:-1] + b"!"
    if stated == "not-a-hash":
        assert download("someone/model", "tokenizer.model") == content
    else:
        with pytest.raises(HubError, match=rf"damaged in transit: its hash does not match the hub's, {stated}"):
            download("someone/model", "tokenizer.model")


def test_damaged_file_in_hub_cache_is_refused(monkeypatch, tmp_path):
    (tmp_path / SHA256).write_bytes(CONTENT)
    (tmp_path / "tokenizer.model").symlink_to(tmp_path / SHA256)
    path = str(tmp_path / "tokenizer.model")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names, **options: path)
    assert download("someone/model", "tokenizer.model") == CONTENT
    (tmp_path / SHA256).write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(HubError, match=rf"tokenizer\.model in Hugging Face's cache is damaged; delete {tmp_path}/"):
        download("someone/model", "tokenizer.model")


def test_delays_double_up_to_a_minute(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    waits, notices = [], []
    retries = Retries(9, 5.0, sleep=waits.append, notify=notices.append)
    for failures in range(1, 6):
        retries.wait("hub", Failure("failed", retry_after=12.0), failures, 9)
    retries.wait("hub", Failure("failed", retry_after=600.0), 1, 9)
    assert waits == [12, 12, 20, 40, 60, 60]
    assert notices[0] == "hub failed; retrying in 12.0 s (attempt 2 of 9)"


def test_a_remote_file_is_read_in_cached_blocks(storage, monkeypatch):
    monkeypatch.setattr(downloads, "BLOCK_BYTES", 1000)
    file = RemoteFile(storage.reader(), "/file", len(CONTENT))
    assert file.readable()
    assert file.seekable()
    file.seek(-1, io.SEEK_END)
    assert (file.read(), file.tell(), file.read()) == (CONTENT[-1:], len(CONTENT), b"")
    file.seek(1500)
    assert file.read(1000) == CONTENT[1500:2500]
    assert file.seek(-10, io.SEEK_CUR) == 2490
    file.seek(999)
    assert file.read(1) == CONTENT[999:1000]
    blocks = [(10_000, 10_239), (1000, 1999), (2000, 2999), (0, 999)]
    assert storage.requests == [f"/file bytes={first}-{last}" for first, last in blocks]
    file.seek(0)
    assert file.read(3000) == CONTENT[:3000]  # the last three blocks are kept
    assert len(storage.requests) == 4
    file.seek(10_239)
    assert file.read(5) == CONTENT[-1:]
    assert len(storage.requests) == 5


def test_an_unreachable_server_is_given_up_sooner_at_first():
    for first, times in ((True, 3), (False, 5)):
        server = Server("http://127.0.0.1:1", Retries(5, 1.0, sleep=lambda seconds: None, notify=lambda line: None))
        with pytest.raises(ServerError, match=f"{times} times in a row"):
            server.json("/api", first=first)


def test_the_next_page_of_a_listing_is_named(storage):
    links = [None, '<http://hub/next?page=2>; rel="next"', '<http://hub/before>; rel="prev"']
    for link, expected in zip(links, [None, "http://hub/next?page=2", None], strict=True):
        headers = {"Link": link} if link else {}
        storage.answer = lambda request, start, end, headers=headers: send(request, b"[1]", 0, status=200, **headers)
        assert storage.reader().json("/api") == ([1], expected)


@pytest.mark.parametrize(("code", "told"), [(401, "set HF_TOKEN"), (403, "accept its terms"), (404, "is the name")])
def test_a_refusal_is_not_retried(storage, code, told):
    storage.answer = lambda request, start, end: send(request, b"", 0, status=code)
    with pytest.raises(PipelineError, match=f"/api returned {code} .*{told}"):
        storage.reader().json("/api")
    assert len(storage.requests) == 1


@pytest.mark.parametrize(("stated", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5)])
def test_a_busy_server_says_when_to_come_again(storage, monkeypatch, stated, seconds):
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    waits: list[float] = []

    def answer(request: BaseHTTPRequestHandler, start: int, end: int) -> None:
        headers = {} if waits else {"Retry_After": stated}
        send(request, b"[1]", 0, status=200 if waits else 429, **headers)

    storage.answer = answer
    Server(storage.address, Retries(3, 1.0, sleep=waits.append, notify=lambda line: None)).json("/api")
    assert waits == [seconds]
