"""Access control: check the host name and the API key of requests."""

import hmac
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Collection, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.web.errors import ApiError, error_response
from utils.errors import PipelineError

# For monitoring, and for browsers, which have no key until it is entered in the page.
OPEN_PATHS = ("/health", "/", "/docs", "/runs", "/pages")
OPEN_PREFIXES = ("/static/", "/runs/static/")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\[\]:@,/\s]+)(:\d+)?")
_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@,/\s]+))(:\d*)?")


class AllowedHosts:
    """Refuse requests whose `Host` is not this server's name.

    A web page can point its own domain at this machine (DNS rebinding) and read the server's answers, because the
    browser considers both to be the same site. Such requests still have the page's domain in `Host`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host")
            # Only HTTP/1.0 requests may omit it, and browsers never do.
            if host is not None and not is_allowed_host(host.decode("latin-1"), self.names):
                message = f"this server does not accept the host {host.decode('latin-1')!r}; add the name to "
                error = ApiError(403, message + "server.allowed_hosts, or use localhost", code="host_not_allowed")
                return await error_response(error)(scope, receive, send)
        return await self.app(scope, receive, send)


def is_allowed_host(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` header names this server. IP addresses always do, because they cannot be rebound."""
    if "*" in names:
        return True
    found = _HOST.fullmatch(host.lower())
    if not found:
        return False
    name = found["address"] or found["name"].removesuffix(".")
    return name in names or name.endswith(".localhost") or _is_address(name)


def host_names(host: str, allowed: Iterable[str] = ()) -> frozenset[str]:
    """The host names accepted by a server that listens on `host`; `allowed` are the additional ones."""
    names = {"localhost", host, *allowed}
    if not is_loopback(host):
        machine = socket.gethostname()
        names |= {machine, f"{machine}.local"}
    return frozenset(name.lower().removesuffix(".") for name in names)


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` is reachable only from this machine."""
    return ipaddress.ip_address(host).is_loopback if _is_address(host) else host.lower() == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check_origins(origins: Iterable[str]) -> list[str]:
    """The origins in `server.cors_origins`, in lower case.

    Raises:
        PipelineError: one of them is not an origin, so no browser would ever send it.
    """
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin.lower()):
            raise PipelineError(
                f"server.cors_origins contains {origin!r}; expected a scheme and a host without a path, like "
                'https://example.org or http://localhost:3000, or "*"'
            )
    return [origin.lower() for origin in origins]


class ApiKey:
    """Answer only requests with the key. The comparison takes constant time to prevent timing attacks."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self.key = os.fsencode(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]):
            scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.key):
                error = ApiError(
                    401, "missing or wrong API key; send Authorization: Bearer KEY", code="invalid_api_key"
                )
                return await error_response(error)(scope, receive, send)
        return await self.app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def read_api_key(host: str) -> str | None:
    """The key in LLM_API_KEY, or None. Warns if there is none and other machines can reach the server.

    Raises:
        PipelineError: the key is empty or has spaces around it.
    """
    key = os.environ.get("LLM_API_KEY")
    if key is not None and (not key or key != key.strip()):
        found = "empty" if not key.strip() else "surrounded by spaces or line breaks"
        raise PipelineError(f"LLM_API_KEY is {found}; set it to a valid key, or unset it to serve without one")
    if key is None and not is_loopback(host):
        print(
            f"warning: the server listens on {host} without an API key, so everyone on the network can use it; "
            "set LLM_API_KEY, or listen on this machine only with --host 127.0.0.1",
            file=sys.stderr,
        )
    return key
