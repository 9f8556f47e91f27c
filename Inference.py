"""Generate text with trained models in the terminal.

python3 Inference.py                                               # menus
python3 Inference.py --checkpoint latest --prompt "The future is"  # one text
python3 Inference.py --checkpoint a=RUN --checkpoint b=FILE        # side by side
"""

import argparse

from pipeline.configuration import config_flags, load_config_from
from pipeline.generation.command_line import add_model_options, add_sampling_options
from utils.cli import run, stage_parser


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    from pipeline.console.load_models import ModelRequest
    from pipeline.generation.settings import GenerationSettings

    settings = GenerationSettings.from_config(config.generation, stop=tuple(args.stop) or None)
    request = ModelRequest(args.checkpoint, config, args.device, args.system)
    if args.prompt is not None:
        from pipeline.console.one_prompt import answer

        return answer(request, args.prompt, settings, as_json=args.json)
    from pipeline.console.benchmark_menu import BenchmarkStage
    from pipeline.console.session import converse
    from pipeline.evaluation.presets import PRESETS, preset_summary

    sizes = {name: preset_summary(name) for name in PRESETS}
    return converse(request, settings, BenchmarkStage(sizes, benchmark_options(args)))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    add_model_options(
        parser,
        checkpoint_help="a file, a run's folder, or latest; repeatable",
    )
    add_sampling_options(parser)
    parser.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="stop before this text (repeatable)"
    )
    parser.add_argument("--system", metavar="TEXT", default="", help="a system message for fine-tuned models")
    parser.add_argument("--prompt", metavar="TEXT", help="continue this text and exit; -: standard input")
    parser.add_argument("--json", action="store_true", help="with --prompt: texts and statistics as JSON")
    parser.keep_for_help_all("--stop")
    args = parser.parse_args(argv)
    if args.prompt is not None and not args.checkpoint:
        parser.error("--prompt requires --checkpoint; use --checkpoint latest for the newest")
    if args.json and args.prompt is None:
        parser.error("--json requires --prompt and --checkpoint")
    return args


def benchmark_options(args: argparse.Namespace) -> list[str]:
    """The options of this command line that benchmark.py accepts too."""
    options = ["--device", args.device]
    flags = [f"{key}={value}" for key, value in config_flags(args).items()]
    for setting in [*args.settings, *flags]:
        options += ["--set", setting]
    if args.config:
        options += ["--config", args.config]
    return options


if __name__ == "__main__":
    run(main)
