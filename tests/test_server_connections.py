"""Connections with a fake clock: deadlines, the connection limit, shutdown."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial

import pytest
import uvicorn
from uvicorn.server import ServerState

from pipeline.serving.config import ServerConfig
from pipeline.serving.connections import GuardedProtocol, make_uvicorn, reserve_files
from pipeline.serving.log import RECORDS, SECONDS, RepeatLimit
from pipeline.serving.request_limits import FILES_IN_RESERVE, HEAD_BYTES, SHUTDOWN_SECONDS
from utils.errors import PipelineError

LIMITS = ServerConfig(header_timeout=10, body_timeout=30, max_connections=3)
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Task:
    """An app that never answers."""

    def add_done_callback(self, call: Callable) -> None: ...


class Clock:
    """The part of an event loop used by connections, with a clock advanced by the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers = []
        self.tasks = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: object) -> Timer:
        self.timers.append(Timer(self.now + seconds, partial(call, *arguments)))
        return self.timers[-1]

    def create_task(self, coroutine: Coroutine) -> Task:
        self.tasks.append(coroutine)
        coroutine.close()
        return Task()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.when <= self.now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.when > self.now]
        for timer in due:
            timer.call()


class Wire:
    """A transport that records writes."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class LimitedProtocol(GuardedProtocol):
    limits = LIMITS


class Server:
    def __init__(self) -> None:
        self.clock = Clock()
        self.state = ServerState()
        self.config = uvicorn.Config(lambda scope, receive, send: None, ws="none", log_config=None)
        self.config.load()

    def connect(self) -> GuardedProtocol:
        connection = LimitedProtocol(self.config, self.state, app_state={}, _loop=self.clock)
        connection.connection_made(Wire())
        return connection


@pytest.fixture
def running():
    return Server()


def test_a_silent_connection_is_closed(running):
    connection = running.connect()
    running.clock.advance(9)
    assert not connection.transport.closed
    running.clock.advance(1)
    assert connection.transport.closed
    assert not connection.transport.written


def test_headers_that_drip_do_not_postpone_their_deadline(running):
    connection = running.connect()
    connection.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    for _ in range(10):
        running.clock.advance(1)
        connection.data_received(b"X-A: b\r\n")
    assert connection.transport.closed
    assert connection.transport.written.startswith(b"HTTP/1.1 408 ")
    assert b"send the request's headers" in connection.transport.written


def test_a_body_that_drips_ends_with_408(running):
    connection = running.connect()
    connection.data_received(HEAD)
    for _ in range(6):
        running.clock.advance(5)
        connection.data_received(b" ")
    assert connection.transport.written.startswith(b"HTTP/1.1 408 ")
    assert connection.transport.closed
    assert connection.cycle.disconnected


def test_running_answer_has_no_client_deadline(running):
    connection = running.connect()
    connection.data_received(HEAD + b" " * 10)
    running.clock.advance(1000)
    assert not connection.transport.closed


def test_a_client_that_does_not_read_is_dropped(running):
    connection = running.connect()
    connection.data_received(HEAD + b" " * 10)
    connection.pause_writing()
    running.clock.advance(29)
    assert not connection.transport.aborted
    running.clock.advance(1)
    assert connection.transport.aborted


def test_a_client_that_reads_on_is_kept(running):
    connection = running.connect()
    connection.data_received(HEAD + b" " * 10)
    connection.pause_writing()
    running.clock.advance(29)
    connection.resume_writing()
    running.clock.advance(1000)
    assert not connection.transport.closed


def test_beyond_the_limit_the_longest_idle_makes_room(running):
    busy = running.connect()
    busy.data_received(HEAD + b" " * 10)
    running.clock.advance(1)
    first = running.connect()
    running.clock.advance(1)
    second = running.connect()
    third = running.connect()
    assert [wire.transport.aborted for wire in (busy, first, second, third)] == [False, True, False, False]


def test_with_every_connection_busy_a_new_one_gets_503(running):
    for _ in range(3):
        running.connect().data_received(HEAD + b" " * 10)
    refused = running.connect()
    assert refused.transport.written.startswith(b"HTTP/1.1 503 ")
    assert refused.transport.closed


def test_shutdown_does_not_wait_for_unfinished_requests(running):
    body, head, answering = running.connect(), running.connect(), running.connect()
    body.data_received(HEAD)
    head.data_received(b"GET / HT")
    answering.data_received(HEAD + b" " * 10)
    for connection in (body, head, answering):
        connection.shutdown()
    assert body.transport.written.startswith(b"HTTP/1.1 503 ")
    assert (body.transport.closed, head.transport.closed, answering.transport.closed) == (True, True, False)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._select, self._selector.select = self._selector.select, self._jump

    def _jump(self, timeout: float | None) -> list:
        self.now += timeout or 0
        return self._select(0)

    def time(self) -> float:
        return self.now


class Lifespan:
    should_exit = False

    async def shutdown(self) -> None: ...


def test_shutdown_cuts_unread_answers_after_a_short_grace():
    async def stop() -> float:
        server = make_uvicorn(lambda: None, ServerConfig(request_timeout=600), greeting="")
        server.lifespan, server.servers = Lifespan(), []
        answer = asyncio.ensure_future(asyncio.Event().wait())
        server.server_state.tasks.add(answer)
        begun = loop.time()
        await server.shutdown()
        assert answer.cancelling()
        return loop.time() - begun

    loop = JumpingLoop()
    try:
        assert SHUTDOWN_SECONDS <= loop.run_until_complete(stop()) < SHUTDOWN_SECONDS + 1
    finally:
        loop.close()


def test_too_many_headers_are_refused_even_at_once(running):
    connection = running.connect()
    connection.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * HEAD_BYTES + b"\r\n")
    assert connection.transport.written.startswith(b"HTTP/1.1 400 ")
    assert b"invalid_request_error" in connection.transport.written
    assert connection.transport.closed


def test_a_websocket_upgrade_is_ignored_without_a_word(running, caplog):
    connection = running.connect()
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    connection.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n")
    assert len(running.clock.tasks) == 1
    assert not caplog.records


def test_the_log_says_the_same_ten_times_a_minute():
    now = [0.0]
    limit = RepeatLimit(clock=lambda: now[0])

    def passes(line: int) -> logging.LogRecord | None:
        record = logging.LogRecord("server", logging.WARNING, "file.py", line, "bad request %d", (line,), None)
        return record if limit.filter(record) else None

    assert sum(passes(1) is not None for _ in range(1000)) == RECORDS
    assert passes(2) is not None
    now[0] += SECONDS
    assert passes(1).getMessage() == "bad request 1 (990 more like this were not logged)"
    assert passes(1).getMessage() == "bad request 1"


@pytest.fixture
def file_limit(monkeypatch):
    """A fake limit on open files that records the value set."""
    resource = pytest.importorskip("resource")
    limit = {"now": (256, 1024)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limit["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limit.update(now=new))
    return limit


def test_file_limit_is_raised_for_connections(file_limit):
    reserve_files(512)
    assert file_limit["now"] == (512 + FILES_IN_RESERVE, 1024)


def test_more_connections_than_files_do_not_start(file_limit):
    with pytest.raises(PipelineError, match=f"--set server.max_connections={1024 - FILES_IN_RESERVE}"):
        reserve_files(1024)
