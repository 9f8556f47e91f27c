"""Check whether this machine can run the configured route, and print how to fix problems.

    python3 main.py doctor                                # under three seconds; changes nothing
    python3 main.py doctor --config configs/110m.json --json
    python3 main.py doctor --gpu                          # also runs computations on the GPU; takes minutes
    python3 main.py doctor --gpu --rehearse               # the same steps on the CPU with tiny models

The exit code is 0 if the configured route, from text to a trained model, can run, and 1 otherwise.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from pipeline.configuration import load_config_from
from pipeline.doctor.checkup import examine
from pipeline.doctor.findings import as_json, can_run, report
from utils.cli import EXIT_ERROR, EXIT_OK, run, stage_parser
from utils.terminal import terminal_width


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    findings = examine(load_config_from(args))
    if args.json:
        print(json.dumps(as_json(findings), indent=2))
    else:
        print(report(findings, width=terminal_width(80) if sys.stdout.isatty() else None))
    return EXIT_OK if can_run(findings) else EXIT_ERROR


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
