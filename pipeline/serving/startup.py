"""Start the server: bind the port, load the models, and answer until it is stopped.

serve_checkpoints(["base=checkpoints/run_2026_01_01_10_00", "tuned=latest"], config, device="auto")
"""

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.configuration import Config
from pipeline.serving.config import ServerConfig
from pipeline.web.listening import listen, url_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipeline.serving.engine import ServedModel
    from pipeline.web.extra_page import ExtraPage


def serve_checkpoints(
    arguments: Sequence[str], config: Config, *, device: str, pages: "Sequence[ExtraPage]" = ()
) -> None:
    """Serve the checkpoints ``[NAME=]PATH``, and other `pages`, until Ctrl-C or SIGTERM.

    Raises:
        PipelineError: the port is taken, the system allows too few open files, or a checkpoint cannot be loaded.
    """
    listener = listen(config.server.host, config.server.port)  # before the slow imports
    from pipeline.serving.api import create_app
    from pipeline.serving.connections import reserve_files
    from pipeline.serving.engine import Engine
    from pipeline.serving.log import configure_log
    from pipeline.web.access import read_api_key

    configure_log()
    reserve_files(config.server.max_connections)
    api_key = read_api_key(config.server.host)
    models = load_models(arguments, config, device=device)
    engine = Engine(models, max_waiting=config.server.max_waiting, timeout=config.server.request_timeout)
    app = create_app(engine, config.generation, config.server, api_key=api_key, pages=pages)
    run_server(app, listener, config.server, pages)


def load_models(arguments: Sequence[str], config: Config, *, device: str) -> "list[ServedModel]":
    """Load each ``[NAME=]PATH`` under its name, and print what was loaded."""
    from pipeline.generation.compiled_decode import compiled_decoder
    from pipeline.generation.loading import load_all
    from pipeline.generation.packed_weights import pack_weights
    from pipeline.serving.engine import ServedModel

    chosen = config.generation
    served = []
    for loaded in load_all(arguments, config, device=device, dtype=chosen.dtype, quantize=chosen.quantize):
        decoder = compiled_decoder(loaded.model, chosen.compile)
        pack_weights(loaded.model)
        kind = "fine-tuned, chat" if loaded.is_chat else "base, text completion"
        if not loaded.has_system_turn:
            kind += " (tuned without system turns: a system message is put in front of the first question)"
        print(f"{loaded.summary()}, {kind}, on {loaded.model.device}")
        served.append(
            ServedModel(
                loaded.name,
                loaded.model,
                loaded.tokenizer,
                is_chat=loaded.is_chat,
                template=loaded.template,
                max_rows=config.server.max_batch,
                prefix_cache_bytes=config.server.prefix_cache_mb * 1_000_000,
                decoder=decoder,
            )
        )
    return served


def run_server(
    app: "FastAPI", listener: socket.socket, server: ServerConfig, pages: "Sequence[ExtraPage]" = ()
) -> None:
    """Answer until a signal; uvicorn then lets running answers finish and raises the signal again."""
    from pipeline.serving.connections import make_uvicorn
    from pipeline.serving.request_limits import BACKLOG

    listener.listen(BACKLOG)
    address = url_of(listener)
    others = "".join(f"{page.name} page: {address}{page.path}  " for page in pages)
    pages_and_api = f"chat page: {address}/  {others}API: {address}/v1  description: {address}/docs"
    greeting = f"listening on {address}  ({pages_and_api})"
    make_uvicorn(app, server, greeting=greeting, on_exit=[page.stop for page in pages]).run(sockets=[listener])
