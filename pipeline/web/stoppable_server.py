"""A uvicorn server that says when it is ready, and stops in spite of answers without an end, such as event streams."""

import socket
from collections.abc import Callable, Sequence

import uvicorn


class StoppableServer(uvicorn.Server):
    """Prints `greeting` once it answers and Ctrl-C ends it in good order. At shutdown, `on_exit` is called before the
    server waits for running answers."""

    def __init__(self, config: uvicorn.Config, *, greeting: str, on_exit: Sequence[Callable[[], None]] = ()) -> None:
        super().__init__(config)
        self._greeting = greeting
        self._on_exit = on_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            print(self._greeting, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for stop in self._on_exit:
            stop()
        await super().shutdown(sockets=sockets)
