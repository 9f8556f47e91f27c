"""A uvicorn server that first ends the answers that have no end of their own, such as streams of events."""

import socket
from collections.abc import Callable, Sequence

import uvicorn


class StoppableServer(uvicorn.Server):
    """`on_exit` is called at shutdown, before the server waits for running answers."""

    def __init__(self, config: uvicorn.Config, *, on_exit: Sequence[Callable[[], None]] = ()) -> None:
        super().__init__(config)
        self._on_exit = on_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for stop in self._on_exit:
            stop()
        await super().shutdown(sockets=sockets)
