"""Close a connection whose answer was sent before the request's body had arrived, such as a 413 or a 401.

app.add_middleware(CloseAfterEarlyAnswer)

Closing at once would reset the connection if the client is still sending, and the client would see the reset instead
of the answer. So the rest of the body is read and discarded first, up to a limit (nginx calls this a lingering close).
"""

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_BYTES = 16_000_000
LINGER_SECONDS = 5.0


class CloseAfterEarlyAnswer:
    """Must be the outermost middleware, so that it sees the answers of all others."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = _Exchange(scope, receive, send)
        return await self.app(scope, exchange.receive, exchange.send)


class _Exchange:
    """A request and its answer. Records how much of the body has been read."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_unread = has_body(scope)
        self._is_early = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_unread = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._is_unread:
            self._is_early = True
            MutableHeaders(scope=message)["connection"] = "close"
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not (is_last and self._is_early):
            return await self._send(message)
        await self._send({**message, "more_body": True})
        await self._discard_body()
        return await self._send({"type": "http.response.body", "body": b""})

    async def _discard_body(self) -> None:
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while self._is_unread and left > 0:
                    message = await self.receive()
                    left -= len(message.get("body", b""))
        except TimeoutError:
            pass


def has_body(scope: Scope) -> bool:
    """Whether the headers announce a body."""
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or int(headers.get(b"content-length", b"0")) > 0
