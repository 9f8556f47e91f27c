"""Serve checkpoints over HTTP: OpenAI's API with streaming, and a chat page at /.

    python3 server.py                                      # the newest run
    python3 server.py --checkpoint base=checkpoints/run_2026_01_01_10_00 --checkpoint tuned=latest --port 8080

An API key comes from the environment (LLM_API_KEY), where other users of the machine cannot read it.
"""

import argparse
import socket
from typing import TYPE_CHECKING

from pipeline.configuration import load_config_from
from pipeline.generation.command_line import add_model_options
from utils.cli import run, stage_parser
from utils.errors import PipelineError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipeline.configuration import Config
    from pipeline.serving.config import ServerConfig
    from pipeline.serving.engine import ServedModel


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    add_model_options(
        parser,
        checkpoint_help="a file, a run's folder, or latest (the default); repeatable, each under its own name",
    )
    parser.add_argument("--host", dest="server.host", metavar="HOST", help="address to listen on (server.host)")
    parser.add_argument(
        "--port", dest="server.port", metavar="N", type=int, help="TCP port, 0: a free one (server.port)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    listener = listen(config.server)
    from pipeline.serving.access import read_api_key
    from pipeline.serving.api import create_app
    from pipeline.serving.connections import reserve_files
    from pipeline.serving.engine import Engine
    from pipeline.serving.log import configure_log

    configure_log()
    reserve_files(config.server.max_connections)
    api_key = read_api_key(config.server.host)
    models = load_models(args.checkpoint or ["latest"], config, device=args.device)
    engine = Engine(models, max_waiting=config.server.max_waiting, timeout=config.server.request_timeout)
    app = create_app(engine, config.generation, config.server, api_key=api_key)
    serve(app, listener, config.server)
    return 0


def listen(server: "ServerConfig") -> socket.socket:
    """The bound socket; binding before models are loaded reports a port in use at once."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((server.host, server.port))
    except OSError as error:
        listener.close()
        raise PipelineError(
            f"cannot listen on {server.host}:{server.port}: {error.strerror or error}; "
            f"choose another with --port or --host"
        ) from None
    return listener


def load_models(arguments: list[str], config: "Config", *, device: str) -> list["ServedModel"]:
    """Load each ``[NAME=]PATH`` under its name."""
    from pipeline.generation.compiled_decode import compiled_decoder
    from pipeline.generation.loading import load_all
    from pipeline.serving.engine import ServedModel

    chosen = config.generation
    served = []
    for loaded in load_all(arguments, config, device=device, dtype=chosen.dtype, quantize=chosen.quantize):
        kind = "fine-tuned, answers chats" if loaded.is_chat else "base, continues texts"
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


def serve(app: "FastAPI", listener: socket.socket, server: "ServerConfig") -> None:
    """Serve until Ctrl-C or SIGTERM; uvicorn then lets running answers finish and raises the signal again."""
    from pipeline.serving.connections import make_uvicorn
    from pipeline.serving.request_limits import BACKLOG

    listener.listen(BACKLOG)
    host, port = listener.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"listening on {where}  (chat page: {where}/  API: {where}/v1  description: {where}/docs)", flush=True)
    make_uvicorn(app, server).run(sockets=[listener])


if __name__ == "__main__":
    run(main)
