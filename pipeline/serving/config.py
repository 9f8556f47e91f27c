"""The section `server` of the configuration: the HTTP server."""

from dataclasses import dataclass

from utils.options import option


@dataclass(frozen=True)
class ServerConfig:
    """The REST server."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 opens it to the network")
    port: int = option(8000, "TCP port; 0: a free one", minimum=0, maximum=65_535)
    max_batch: int = option(16, "answers that a model writes at once", minimum=1)
    max_waiting: int = option(64, "answers that may wait for a place; further requests are refused (429)", minimum=1)
    max_tokens: int = option(1024, "new tokens that a request may ask for", minimum=1)
    max_body_bytes: int = option(1_000_000, "largest body of a request, in bytes", minimum=1)
    request_timeout: float = option(120.0, "seconds that an answer may take, including waiting", above=0.0)
    max_connections: int = option(
        512, "open connections; one more replaces the one that has kept the server waiting longest", minimum=1
    )
    header_timeout: float = option(10.0, "seconds that a client may take to send a request's headers", above=0.0)
    body_timeout: float = option(
        30.0, "seconds that a client may take to send a request's body, or to read the answer", above=0.0
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "host names that requests may use, besides localhost, addresses, `host` and, unless it is a loopback "
        'address, the name of this machine; `"*"`: any name',
    )
