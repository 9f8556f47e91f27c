"""Bind a server's port before the slow imports, so that a port in use is reported immediately."""

import socket

from utils.errors import PipelineError


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port`.

    Raises:
        PipelineError: the port is in use, or there is no such address.
    """
    try:
        return bound_socket(host, port)
    except OSError as error:
        raise PipelineError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose a different address "
            "with --host or --port"
        ) from None


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to the first IPv4 address of `host`, or to its first IPv6 address if it has no other.

    Raises:
        OSError: as in `listen`.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """``http://127.0.0.1:8000``; an IPv6 address gets brackets."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
