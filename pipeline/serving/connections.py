"""Limit the number of connections, and how long each may keep the server waiting.

uvicorn times out idle connections but not requests in progress, and its `limit_concurrency` refuses new requests
instead of making room for them: a client that opens sockets and sends nothing could lock out all others.

    make_uvicorn(app, config.server, greeting="ready").run(sockets=[listener])
"""

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from pipeline.serving.config import ServerConfig
from pipeline.serving.errors import ApiError, error_body
from pipeline.serving.request_limits import ACCEPTED_AT_ONCE, BACKLOG, FILES_IN_RESERVE, HEAD_BYTES, SHUTDOWN_SECONDS
from pipeline.web.stoppable_server import StoppableServer
from utils.errors import PipelineError

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class Wait(Enum):
    """What the server waits for a client to do."""

    HEAD = "send the request's headers"
    BODY = "send the request's body"
    READ = "read the answer"


class GuardedProtocol(H11Protocol):
    """A connection with a deadline for everything that the client has to do.

    uvicorn creates the connections, so `make_uvicorn` sets `limits` on a subclass.
    """

    limits: ServerConfig

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._seconds = {
            Wait.HEAD: self.limits.header_timeout,
            Wait.BODY: self.limits.body_timeout,
            Wait.READ: self.limits.body_timeout,
        }
        self._wait: Wait | None = None
        self._waiting_since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._is_dropped = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in H11Protocol
        super().connection_made(transport)
        self._update_deadline()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_dropped = True
        super().connection_lost(exc)
        self._update_deadline()

    def data_received(self, data: bytes) -> None:
        # h11 limits headers only while they are incomplete, so never feed it more than the limit at a time.
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
        """Let running answers finish, but do not wait for requests that are still arriving."""
        if self.conn.their_state is h11.SEND_BODY:
            self._refuse(ApiError(503, "the server is shutting down", code="shutting_down"))
        elif not self.transport.is_closing():
            super().shutdown()
        self._update_deadline()

    def _should_upgrade(self) -> bool:
        """Never upgrade: answer WebSocket requests as plain ones, which HTTP allows."""
        return False

    def _update_deadline(self) -> None:
        """Start a deadline when it is the client's turn; data that arrives later does not extend it."""
        wait = self._waits_for()
        if wait is self._wait:
            return
        if self._deadline:
            self._deadline.cancel()
        self._wait = wait
        self._waiting_since = self.loop.time()
        self._deadline = self.loop.call_later(self._seconds[wait], self._client_is_late, wait) if wait else None

    def _waits_for(self) -> Wait | None:
        if self._is_dropped:
            return None
        if self.flow.write_paused or self.transport.is_closing():
            return Wait.READ
        if self.conn.their_state is h11.SEND_BODY:
            return Wait.BODY
        return Wait.HEAD if self.conn.their_state is h11.IDLE else None

    def _client_is_late(self, wait: Wait) -> None:
        has_begun = wait is Wait.BODY or self.conn.trailing_data[0]
        if wait is Wait.READ:
            self._drop()
        elif has_begun:
            message = f"the client took longer than {self._seconds[wait]:g} s to {wait.value}"
            self._refuse(ApiError(408, message, code="client_timeout"))
        else:
            self.transport.close()
            self._update_deadline()

    def _make_room(self) -> None:
        """At the limit, drop the connection that has kept the server waiting longest; if there is none, refuse this
        one."""
        connections = [
            connection
            for connection in self.connections
            if isinstance(connection, GuardedProtocol) and not connection._is_dropped
        ]
        if len(connections) <= self.limits.max_connections:
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
        """Answer instead of the app, unless a response has started, and close the connection."""
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
            self.cycle.disconnected = True  # discard anything the app still sends
            self.cycle.message_event.set()
        self.transport.close()
        self._update_deadline()


class _Server(StoppableServer):
    """Allow a longer backlog than the number of connections accepted at a time; asyncio uses one number for both."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)


def make_uvicorn(
    app: "ASGIApp", server: ServerConfig, *, greeting: str, on_exit: Sequence[Callable[[], None]] = ()
) -> uvicorn.Server:
    """The HTTP server for `app` (see `StoppableServer`). On shutdown, running answers have `SHUTDOWN_SECONDS`."""

    class Connection(GuardedProtocol):
        limits = server

    options = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return _Server(options, greeting=greeting, on_exit=on_exit)


def reserve_files(max_connections: int) -> None:
    """Raise this process's limit on open files to the number that the connections need; Windows has no such limit.

    Raises:
        PipelineError: the system allows fewer, so accepting connections would keep failing.
    """
    if sys.platform == "win32":
        return
    import resource  # which Windows does not have

    needed = max_connections + FILES_IN_RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise PipelineError(
            f"server.max_connections {max_connections} needs {needed} open files, but this process is limited to "
            f"{hard}; pass --set server.max_connections={max(1, hard - FILES_IN_RESERVE)}, or raise the limit "
            "(ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
