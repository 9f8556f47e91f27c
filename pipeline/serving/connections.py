"""How many connections there may be, and how long each may keep the server waiting.

uvicorn has a timeout for idle connections but none for a request that has begun, and its `limit_concurrency` refuses
new requests instead of making room for them: a client that opens sockets and sends nothing could shut out all others.

    make_uvicorn(app, config.server).run(sockets=[listener])
"""

import asyncio
import json
import socket
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from pipeline.serving.config import ServerConfig
from pipeline.serving.errors import ApiError, error_body
from pipeline.serving.request_limits import ACCEPTED_AT_ONCE, BACKLOG, FILES_IN_RESERVE, HEAD_BYTES, SHUTDOWN_SECONDS
from utils.errors import PipelineError

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class Wait(Enum):
    """What the server waits for a client to do."""

    HEAD = "send the request's headers"
    BODY = "send the request's body"
    READ = "read the answer"


class GuardedProtocol(H11Protocol):
    """A connection with a deadline for everything that the client has to do, counted from the beginning of each."""

    def __init__(self, limits: ServerConfig, **options: object) -> None:
        super().__init__(**options)
        self._max_connections = limits.max_connections
        self._seconds = {
            Wait.HEAD: limits.header_timeout,
            Wait.BODY: limits.body_timeout,
            Wait.READ: limits.body_timeout,
        }
        self._wait: Wait | None = None
        self._waiting_since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._is_dropped = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._update_deadline()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_dropped = True
        super().connection_lost(exc)
        self._update_deadline()

    def data_received(self, data: bytes) -> None:
        # h11 limits headers only while they are incomplete, so it is given no more than may be complete at once.
        for start in range(0, len(data), HEAD_BYTES):
            if not self.transport.is_closing():
                super().data_received(data[start : start + HEAD_BYTES])
        self._update_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_deadline()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._update_deadline()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._update_deadline()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "the request is not valid HTTP, or its headers are too long", code="invalid_http"))

    def shutdown(self) -> None:
        """Running answers end; a request that is still arriving is not waited for."""
        if self.conn.their_state is h11.SEND_BODY:
            self._refuse(ApiError(503, "the server is shutting down", code="shutting_down"))
        elif not self.transport.is_closing():
            super().shutdown()
        self._update_deadline()

    def _should_upgrade(self) -> bool:
        """Never: a request for a WebSocket is answered as if it asked for none, as HTTP allows."""
        return False

    def _update_deadline(self) -> None:
        """Starts a deadline when it becomes the client's turn; what it sends meanwhile does not postpone it."""
        wait = self._waits_for()
        if wait is self._wait:
            return
        if self._deadline:
            self._deadline.cancel()
        self._wait, self._waiting_since = wait, self.loop.time()
        self._deadline = self.loop.call_later(self._seconds[wait], self._client_is_late) if wait else None

    def _waits_for(self) -> Wait | None:
        if self._is_dropped:
            return None
        if self.flow.write_paused or self.transport.is_closing():
            return Wait.READ
        if self.conn.their_state is h11.SEND_BODY:
            return Wait.BODY
        return Wait.HEAD if self.conn.their_state is h11.IDLE else None

    def _client_is_late(self) -> None:
        has_begun = self._wait is Wait.BODY or self.conn.trailing_data[0]
        if self._wait is Wait.READ:
            self._drop()
        elif has_begun:
            message = f"the client took longer than {self._seconds[self._wait]:g} s to {self._wait.value}"
            self._refuse(ApiError(408, message, code="client_timeout"))
        else:
            self.transport.close()
            self._update_deadline()

    def _make_room(self) -> None:
        """Beyond the limit, the connection goes that has kept the server waiting longest; who asks is answered."""
        connections = [connection for connection in self.connections if not connection._is_dropped]
        if len(connections) <= self._max_connections:
            return
        idle = [connection for connection in connections if connection._wait and connection is not self]
        if idle:
            min(idle, key=lambda connection: connection._waiting_since)._drop()
        else:
            self._refuse(ApiError(503, "all connections are in use; try again in a moment", code="connections_full"))

    def _drop(self) -> None:
        self._is_dropped = True
        self.transport.abort()
        self._update_deadline()

    def _refuse(self, error: ApiError) -> None:
        """Answers in the app's place, if no answer has begun, and closes."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error_body(error)).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            head = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True  # what the app still sends goes nowhere
            self.cycle.message_event.set()
        self.transport.close()
        self._update_deadline()


class _Server(uvicorn.Server):
    """Lets more connections wait than it accepts at once; asyncio has one number for both."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)


def make_uvicorn(app: "ASGIApp", server: ServerConfig) -> uvicorn.Server:
    """The HTTP server for `app`; when it is stopped, running answers have `SHUTDOWN_SECONDS` to finish."""
    options = uvicorn.Config(
        app,
        http=partial(GuardedProtocol, server),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return _Server(options)


def reserve_files(max_connections: int) -> None:
    """Raises this process's limit of open files to what the connections need.

    Where that many cannot be had, accepting would fail over and over, for whoever asks.
    """
    import resource  # not on Windows, which nothing else here needs to know

    needed = max_connections + FILES_IN_RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise PipelineError(
            f"server.max_connections {max_connections} needs {needed} open files, this process may have {hard}; "
            f"--set server.max_connections={max(1, hard - FILES_IN_RESERVE)}, or raise the limit (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
