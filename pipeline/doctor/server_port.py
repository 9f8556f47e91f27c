"""Check whether the server can listen on its configured address."""

import errno

from pipeline.configuration import Config
from pipeline.doctor.findings import Finding, note, ok
from pipeline.web.listening import bound_socket


def check_port(config: Config) -> list[Finding]:
    host, port = config.server.host, config.server.port
    try:
        bound_socket(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return [note("port", f"{host}:{port} is in use", f"use another port: --set server.port={port + 1}")]
        reason = error.strerror or error
        return [note("port", f"cannot listen on {host}:{port} ({reason})", "--set server.host=127.0.0.1")]
    return [ok("port", f"{host}:{port} is free for the server")]
