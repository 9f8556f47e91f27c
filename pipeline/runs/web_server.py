"""The HTTP server of the runs page."""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SHUTDOWN_SECONDS = 2


class _Server(uvicorn.Server):
    on_exit: Callable[[], None]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.on_exit()  # the streams of events have no end of their own
        await super().shutdown(sockets=sockets)


def make_uvicorn(app: "ASGIApp", *, on_exit: Callable[[], None]) -> uvicorn.Server:
    """The server for `app`; `on_exit` is called before it waits for running answers."""
    options = uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=256,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    server = _Server(options)
    server.on_exit = on_exit
    return server
