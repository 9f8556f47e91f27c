"""Bind a server's port before the slow imports, so that a port in use is reported immediately."""

import socket

from utils.errors import PipelineError


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port`.

    Raises:
        PipelineError: the port is in use, or there is no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PipelineError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose a different address "
            "with --host or --port"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """``http://127.0.0.1:8000``; an IPv6 address gets brackets."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
