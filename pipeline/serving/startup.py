"""Start the server: bind the port, load the models, and answer until it is stopped.

serve_checkpoints(["base=checkpoints/run_2026_01_01_10_00", "tuned=latest"], config, device="auto")
"""

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.configuration import Config
from pipeline.serving.config import ServerConfig
from utils.errors import PipelineError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipeline.serving.engine import ServedModel


def serve_checkpoints(arguments: Sequence[str], config: Config, *, device: str) -> None:
    """Serve the checkpoints ``[NAME=]PATH`` until Ctrl-C or SIGTERM.

    Raises:
        PipelineError: the port is taken, the system allows too few open files, or a checkpoint cannot be loaded.
    """
    listener = listen(config.server)  # before the slow imports, so that a port in use is reported immediately
    from pipeline.serving.access import read_api_key
    from pipeline.serving.api import create_app
    from pipeline.serving.connections import reserve_files
    from pipeline.serving.engine import Engine
    from pipeline.serving.log import configure_log

    configure_log()
    reserve_files(config.server.max_connections)
    api_key = read_api_key(config.server.host)
    models = load_models(arguments, config, device=device)
    engine = Engine(models, max_waiting=config.server.max_waiting, timeout=config.server.request_timeout)
    run_server(create_app(engine, config.generation, config.server, api_key=api_key), listener, config.server)


def listen(server: ServerConfig) -> socket.socket:
    """A socket bound to the server's host and port."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((server.host, server.port))
    except OSError as error:
        listener.close()
        raise PipelineError(
            f"cannot listen on {server.host}:{server.port}: {error.strerror or error}; choose a different address "
            "with --host or --port"
        ) from None
    return listener


def load_models(arguments: Sequence[str], config: Config, *, device: str) -> "list[ServedModel]":
    """Load each ``[NAME=]PATH`` under its name, and print what was loaded."""
    from pipeline.generation.compiled_decode import compiled_decoder
    from pipeline.generation.loading import load_all
    from pipeline.serving.engine import ServedModel

    chosen = config.generation
    served = []
    for loaded in load_all(arguments, config, device=device, dtype=chosen.dtype, quantize=chosen.quantize):
        kind = "fine-tuned, chat" if loaded.is_chat else "base, text completion"
        print(f"{loaded.summary()}, {kind}, on {loaded.model.device}")
        served.append(
            ServedModel(
                loaded.name,
                loaded.model,
                loaded.tokenizer,
                is_chat=loaded.is_chat,
                max_rows=config.server.max_batch,
                decoder=compiled_decoder(loaded.model, chosen.compile),
            )
        )
    return served


def run_server(app: "FastAPI", listener: socket.socket, server: ServerConfig) -> None:
    """Answer until a signal; uvicorn then lets running answers finish and raises the signal again."""
    from pipeline.serving.connections import make_uvicorn
    from pipeline.serving.request_limits import BACKLOG

    listener.listen(BACKLOG)
    address = url_of(listener)
    print(
        f"listening on {address}  (chat page: {address}/  API: {address}/v1  description: {address}/docs)", flush=True
    )
    make_uvicorn(app, server).run(sockets=[listener])


def url_of(listener: socket.socket) -> str:
    """``http://127.0.0.1:8000``; an IPv6 address gets brackets."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
