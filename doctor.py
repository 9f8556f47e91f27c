"""Check whether this machine can run the configured route, and print how to fix problems.

    python3 main.py doctor                      # three seconds; changes nothing
    python3 main.py doctor --config configs/110m.json --json
    python3 main.py doctor --gpu                # minutes on the GPU
    python3 main.py doctor --gpu --only speed --nanogpt ~/nanoGPT
    python3 main.py doctor --gpu --rehearse     # the same on the CPU, tiny

The exit code is 0 if the configured route, from text to a trained model, can run; with --gpu, if no step failed.
Otherwise it is 1, also without a GPU.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.configuration import Config, load_config_from
from pipeline.doctor.checkup import examine
from pipeline.doctor.findings import as_json, can_run, report
from pipeline.doctor.gpu.command import Request, check_gpu
from utils.cli import EXIT_ERROR, EXIT_OK, run, stage_parser
from utils.errors import UsageError
from utils.terminal import terminal_width


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    is_well = check_gpu(request_of(args), config) if args.gpu else check_machine(config, as_text=not args.json)
    return EXIT_OK if is_well else EXIT_ERROR


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--gpu", action="store_true", help="correctness, training, memory, speed of the GPU")
    gpu = parser.add_argument_group("with --gpu; of the configuration only paths.benchmark_dir counts")
    gpu.add_argument("--rehearse", action="store_true", help="the same steps on the CPU, with tiny models")
    gpu.add_argument("--only", metavar="NAME", nargs="+", default=[], help="these steps or groups")
    gpu.add_argument("--nanogpt", metavar="DIR", type=Path, help="compare the speed with this clone of nanoGPT")
    gpu.add_argument("--nanochat", metavar="DIR", type=Path, help="compare the speed with this clone of nanochat")
    gpu.add_argument("--output", metavar="FILE", type=Path, help="the report (default: in paths.benchmark_dir)")
    parser.keep_for_help_all("--nanogpt", "--nanochat", "--output")
    args = parser.parse_args(argv)
    for name in ("rehearse", "only", "nanogpt", "nanochat", "output"):
        if getattr(args, name) and not args.gpu:
            raise UsageError(f"--{name} belongs to --gpu; add it")
    for name in ("nanogpt", "nanochat"):
        folder = getattr(args, name)
        if folder and not folder.is_dir():
            raise UsageError(f"--{name} {folder}: expected the folder of a clone")
    return args


def request_of(args: argparse.Namespace) -> Request:
    return Request(
        rehearse=args.rehearse,
        only=args.only,
        nanogpt=args.nanogpt,
        nanochat=args.nanochat,
        output=args.output,
        as_json=args.json,
    )


def check_machine(config: Config, *, as_text: bool) -> bool:
    """Print the findings; whether the configured route can run."""
    findings = examine(config)
    if as_text:
        print(report(findings, width=terminal_width(80) if sys.stdout.isatty() else None))
    else:
        print(json.dumps(as_json(findings), indent=2))
    return can_run(findings)


if __name__ == "__main__":
    run(main)
