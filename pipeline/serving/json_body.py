"""Parse request bodies as strict JSON. Ambiguous, oversized or non-text content is an error.

app.router.route_class = JsonRoute
"""

import json
import re
from collections.abc import Callable, Coroutine
from typing import NoReturn

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from pipeline.serving.request_limits import MAX_JSON_CONTAINERS, MAX_JSON_FIELDS

# Matches up to the closing quote or the end of the body, so that no byte is scanned twice.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonRoute(APIRoute):
    """A route whose requests parse their body with `parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[None, None, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            if request.method == "POST":
                _check_content_type(request.headers.get("content-type", ""))
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_strictly


def _check_content_type(given: str) -> None:
    """Refuse bodies that are not declared as JSON. Browsers send those to other sites without asking first."""
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json":
        found = f"is {kind!r}" if kind else "is missing"
        raise HTTPException(415, f"the Content-Type {found}; send the header Content-Type: application/json")


class _JsonRequest(Request):
    async def json(self) -> object:
        return parse_json(await self.body())


def parse_json(body: bytes) -> object:
    """Parse `body`.

    The standard library also accepts NaN, UTF-16, duplicate keys and lone surrogates. Lists, objects and fields are
    limited because a megabyte of them takes seconds, and validation would report every unknown field.

    Raises:
        HTTPException: 400, with the reason.
    """
    _check_num_containers(body)
    try:
        text = body.decode("utf-8")
        parsed = json.loads(text, object_pairs_hook=_FieldCounter(), parse_constant=_refuse_constant)
        if _ESCAPED_SURROGATE.search(text):
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
        return parsed
    except UnicodeDecodeError as error:
        _refuse(f"the body is not UTF-8 at byte {error.start + 1}")
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        _refuse(f"the body contains U+{half:04X}, a lone surrogate, which is not valid text")
    except RecursionError:
        _refuse("the body is nested too deeply")
    except json.JSONDecodeError as error:
        _refuse(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except ValueError:  # Python refuses to convert more than 4,300 digits
        _refuse("the body contains a number with too many digits")


def _check_num_containers(body: bytes) -> None:
    if _num_brackets(body) > MAX_JSON_CONTAINERS and _num_brackets(_STRING.sub(b"", body)) > MAX_JSON_CONTAINERS:
        _refuse(f"the body has more than {MAX_JSON_CONTAINERS:,} lists and objects, or is nested too deeply")


def _num_brackets(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


class _FieldCounter:
    """Convert JSON objects to dicts and count their fields."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        self.count += len(pairs)
        if self.count > MAX_JSON_FIELDS:
            _refuse(f"the body has more than {MAX_JSON_FIELDS:,} fields")
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            _refuse(f"the body has the key {twice!r} more than once")
        return fields


def _refuse_constant(name: str) -> NoReturn:
    _refuse(f"the body contains {name}, which is not a JSON number")


def _refuse(message: str) -> NoReturn:
    raise HTTPException(400, message)
