"""The runs page: follow training in a browser, and compare runs.

    python3 runs.py                                    # the runs in checkpoints/ and logs/
    python3 runs.py --config configs/quickstart.json   # the quickstart's
    python3 runs.py --port 8080

It reads logs, the names of checkpoints and benchmark results; it writes nothing and needs no GPU. `serve` shows the
same page at /runs.
"""

import argparse

from pipeline.configuration import load_config_from
from utils.cli import EXIT_OK, run, stage_parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--host", dest="runs.host", metavar="HOST", help="address to listen on (runs.host)")
    parser.add_argument("--port", dest="runs.port", metavar="N", type=int, help="TCP port, 0: a free one (runs.port)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    from pipeline.runs.startup import serve_runs

    serve_runs(load_config_from(parse_args(argv)))
    return EXIT_OK


if __name__ == "__main__":
    run(main)
