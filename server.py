"""Serve checkpoints over HTTP: OpenAI's API with streaming, a chat page at /, and the runs page at /runs.

    python3 server.py                                      # the newest run
    python3 server.py --checkpoint base=checkpoints/run_2026_01_01_10_00 --checkpoint tuned=latest --port 8080

An API key comes from the environment (LLM_API_KEY), where other users of the machine cannot read it.
"""

import argparse

from pipeline.configuration import load_config_from
from pipeline.generation.command_line import add_model_options
from utils.cli import EXIT_OK, run, stage_parser


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

    from pipeline.runs.routes import runs_page
    from pipeline.serving.startup import serve_checkpoints

    serve_checkpoints(
        args.checkpoint or ["latest"], config, device=args.device, pages=[runs_page(config, has_chat=True)]
    )
    return EXIT_OK


if __name__ == "__main__":
    run(main)
