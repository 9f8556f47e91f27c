"""What keeps strangers and accidents out: the size of a body, and the API key."""

import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ApiError, error_response


class BodyLimit:
    """Reads each body before the app does, and answers 413 where it is too large, whatever its headers say."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body, has_more = bytearray(), True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
            if len(body) > self.max_bytes:
                error = ApiError(413, f"the body is larger than {self.max_bytes} bytes", code="body_too_large")
                return await error_response(error)(scope, receive, send)
        read: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return read.pop() if read else await receive()

        return await self.app(scope, replay, send)


class ApiKey:
    """Lets only bearers of the key at /v1; compared in constant time, so that its length of agreement does not leak."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                error = ApiError(401, "wrong or no API key; send Authorization: Bearer KEY", code="invalid_api_key")
                return await error_response(error)(scope, receive, send)
        return await self.app(scope, receive, send)
