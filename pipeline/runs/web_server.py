"""The HTTP server of the runs page."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from pipeline.web.stoppable_server import StoppableServer

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SHUTDOWN_SECONDS = 2


def make_uvicorn(app: "ASGIApp", *, greeting: str, on_exit: Callable[[], None]) -> uvicorn.Server:
    """The server for `app`; see `StoppableServer`."""
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
    return StoppableServer(options, greeting=greeting, on_exit=[on_exit])
