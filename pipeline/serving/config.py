"""The `server` section of the configuration: the HTTP server."""

from dataclasses import dataclass

from utils.options import option


@dataclass(frozen=True)
class ServerConfig:
    """The HTTP server."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 opens it to the network")
    port: int = option(8000, "TCP port; 0: a free one", minimum=0, maximum=65_535)
    max_batch: int = option(16, "answers that a model generates at the same time", minimum=1)
    max_waiting: int = option(64, "answers that may wait for a slot; further requests are refused (429)", minimum=1)
    prefix_cache_mb: int = option(
        256,
        "memory, in MB for each model, for the keys and values of earlier prompts and answers; a prompt that begins "
        "like one of them is not read again; 0: off",
        minimum=0,
    )
    max_tokens: int = option(1024, "maximum number of new tokens in a request", minimum=1)
    max_body_bytes: int = option(1_000_000, "maximum size of a request body", minimum=1)
    request_timeout: float = option(120.0, "maximum seconds for an answer, including waiting", above=0.0)
    max_connections: int = option(
        512,
        "open connections; one more replaces the one that has kept the server waiting the longest",
        minimum=1,
    )
    header_timeout: float = option(10.0, "maximum seconds to receive the headers of a request", above=0.0)
    body_timeout: float = option(
        30.0, "maximum seconds to receive the body of a request, or for a client to read the answer", above=0.0
    )
    cors_origins: tuple[str, ...] = option(
        (),
        'origins of web pages that may use the API, like `https://example.org`; `"*"`: all pages; empty: only the '
        "server's own",
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "additional host names that requests may use, besides localhost, IP addresses, `host` and, unless that is "
        'a loopback address, the name of this machine; `"*"`: any name',
    )
