"""The fixed limits of the server, and the checks on a request. Configurable limits are in config.py."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serving.errors import ApiError, error_response

if TYPE_CHECKING:
    from pipeline.serving.engine import ServedModel

# One request.
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 4
MAX_BIASES = 1000  # entries of logit_bias
MAX_STOP_CHARACTERS = 1000  # every new piece of text is compared with all prefixes
MAX_MESSAGES = 1000
MAX_JSON_CONTAINERS = 5_000  # lists and objects in a body; a thousand messages are a thousand
MAX_JSON_FIELDS = 10_000  # members of all objects; a message has two or three

# Connections.
HEAD_BYTES = 16_384  # request line and headers; up to twice this may be read before they are refused
BACKLOG = 2048  # connections waiting to be accepted; beyond that, clients retry after a second
ACCEPTED_AT_ONCE = 128  # before the first of them is handled
FILES_IN_RESERVE = ACCEPTED_AT_ONCE + 64  # besides open connections: newly accepted ones and the libraries' files

# Docker kills a container 10 s after SIGTERM, Kubernetes and systemd after 30 s and 90 s. Connections are closed and
# the log is written before that. Otherwise a client that never reads could block the shutdown for minutes.
SHUTDOWN_SECONDS = 8


def check_num_answers(num_prompts: int, num_choices: int, *, most: int) -> None:
    """Refuse a request for too many answers before any of its prompts is encoded."""
    num_answers = num_prompts * num_choices
    if not 1 <= num_answers <= most:
        message = f"the request asks for {num_answers:,} answers; expected 1 to {most:,} (server.max_waiting)"
        raise ApiError(400, message, param="prompt")


def check_num_characters(texts: Sequence[str], served: "ServedModel", *, advice: str = "shorten it") -> None:
    """Refuse texts that cannot possibly fit the context, before spending time on encoding them."""
    num_characters = sum(map(len, texts))
    if num_characters > served.max_characters:
        message = (
            f"the prompt is too long: {num_characters:,} characters, but the model's context of {served.context:,} "
        )
        message += f"tokens can hold at most {served.max_characters:,}; {advice}"
        raise ApiError(400, message, code="context_length_exceeded")


def check_max_tokens(max_tokens: int | None, *, field: str, most: int) -> None:
    if max_tokens and max_tokens > most:
        message = f"{field} is {max_tokens:,}; expected at most {most:,} (server.max_tokens)"
        raise ApiError(400, message, param=field)


def check_ids(field: str, ids: Sequence[int], served: "ServedModel") -> None:
    """Refuse token ids beyond the model's vocabulary."""
    if ids and max(ids) >= served.vocab_size:
        message = f"{field} contains token id {max(ids)}; expected ids from 0 to {served.vocab_size - 1}"
        raise ApiError(400, message, param=field)


class BodyLimit:
    """Read each body before the app does, and answer 413 as soon as it turns out to be too large."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if declared_length(scope) > self.max_bytes:
            return await self._refuse(scope, receive, send)
        body = bytearray()
        has_more = True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
            if len(body) > self.max_bytes:
                return await self._refuse(scope, receive, send)
        read: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return read.pop() if read else await receive()

        return await self.app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the body is larger than {self.max_bytes:,} bytes (server.max_body_bytes)"
        await error_response(ApiError(413, message, code="body_too_large"))(scope, receive, send)


def declared_length(scope: Scope) -> int:
    """The length of the body in the headers; 0 if they have none."""
    return int(dict(scope["headers"]).get(b"content-length", b"0"))
