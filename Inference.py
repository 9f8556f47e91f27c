"""Text from trained models, in the terminal.

python3 Inference.py                                                     # menus: mode, run, checkpoint, prompt
python3 Inference.py --checkpoint latest --prompt "The future of AI is"  # text on stdout, statistics on stderr
python3 Inference.py --checkpoint a=RUN --checkpoint b=FILE --prompt "…" # side by side
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.configuration import config_flags, load_config_from
from pipeline.generation.command_line import add_model_options, add_sampling_options
from utils.cli import run, stage_parser
from utils.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.configuration import Config
    from pipeline.console.streaming_output import Writer
    from pipeline.generation.settings import GenerationSettings

ROUTER = Path(__file__).resolve().with_name("main.py")
# JSON may hold DEL and C1 as they are, but some terminals obey them; escaped they mean the same.
_ESCAPED = {code: f"\\u{code:04x}" for code in range(127, 160)}
MODES = (
    "One model: a text, or a chat where it was fine-tuned",
    "Several models side by side",
    "Benchmark: scores of one or several models",
)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    from pipeline.generation.settings import GenerationSettings

    settings = GenerationSettings.from_config(config.generation, stop=tuple(args.stop) or None)
    return converse(args, config, settings) if args.prompt is None else answer(args, config, settings)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    add_model_options(
        parser,
        checkpoint_help="a file, a run's folder, or latest (repeatable: side by side); without it: a menu",
    )
    add_sampling_options(parser)
    parser.add_argument("--stop", metavar="TEXT", action="append", default=[], help="end before this (repeatable)")
    parser.add_argument("--prompt", metavar="TEXT", help="continue this and exit; - reads it from standard input")
    parser.add_argument("--json", action="store_true", help="texts and statistics as one JSON object (with --prompt)")
    args = parser.parse_args(argv)
    if args.prompt is not None and not args.checkpoint:
        parser.error("--prompt needs --checkpoint; --checkpoint latest takes the newest")
    if args.json and args.prompt is None:
        parser.error("--json needs --prompt and --checkpoint")
    return args


def answer(args: argparse.Namespace, config: "Config", settings: "GenerationSettings") -> int:
    """The plain form: one prompt, what the models make of it on standard output, what it took on standard error."""
    from pipeline.console.comparison import check_all, compare, show
    from pipeline.generation.settings import check_text

    prompt = check_text(_standard_input() if args.prompt == "-" else args.prompt)
    writers = _load(args, config)
    check_all(writers, prompt, settings)
    if args.json:
        results = [result.to_dict() for result in compare(writers, prompt, settings)]
        content = json.dumps({"prompt": prompt, "settings": asdict(settings), "results": results}, ensure_ascii=False)
        print(content.translate(_ESCAPED))
    elif len(writers) == 1:
        _, statistics = writers[0].write(writers[0].prompt_ids(prompt), settings, output=sys.stdout)
        print(statistics.line(), file=sys.stderr)
    else:
        show(compare(writers, prompt, settings))
    return 0


def converse(args: argparse.Namespace, config: "Config", settings: "GenerationSettings") -> int:
    """The menus, as far as flags have not answered them, then prompt after prompt."""
    from pipeline.console.comparison import run_comparison
    from pipeline.console.menus import Quit, choose_checkpoint, choose_checkpoints, choose_of, choose_run
    from pipeline.console.single_model import run_single

    try:
        if not args.checkpoint:
            mode = choose_of("Text generation", "Mode", MODES)
            chosen_run = choose_run(config.paths.checkpoint_dir)
            chosen = [choose_checkpoint(chosen_run)] if mode == 1 else choose_checkpoints(chosen_run)
            args.checkpoint = [str(path) for path in chosen]
            if mode == 3:
                return run_benchmark(args)
        writers = _load(args, config)
        if len(writers) == 1:
            run_single(writers[0], settings)
        else:
            run_comparison(writers, settings)
    except Quit:
        pass
    return 0


def run_benchmark(args: argparse.Namespace) -> int:
    """Run benchmark.py, as a stage of its own, with the size and the data that the user chooses."""
    from pipeline.console.menus import choose_of
    from pipeline.evaluation.presets import PRESETS, preset_summary
    from utils.processes import run_process

    size = choose_of("Items", "Size", [f"{name}: {preset_summary(name)}" for name in PRESETS])
    sources = [
        "WikiText, LAMBADA, HellaSwag (benchmark.data_dir, or the hub)",
        "the project's own samples: no download",
    ]
    is_offline = choose_of("Data", "Data", sources) == 2
    options = [f"--{list(PRESETS)[size - 1]}", "--device", args.device]
    if is_offline:
        options.append("--offline-samples")
    for path in args.checkpoint:
        options += ["--checkpoint", path]
    flags = [f"{key}={value}" for key, value in config_flags(args).items()]
    for setting in [*args.settings, *flags]:
        options += ["--set", setting]
    if args.config:
        options += ["--config", args.config]
    # The router finds the Python that has the benchmark's packages.
    return run_process([sys.executable, str(ROUTER), "benchmark", *options]).code


def _load(args: argparse.Namespace, config: "Config") -> "list[Writer]":
    """The checkpoints in memory. Several: what they need is compared with what there is first."""
    from pipeline.console.menus import confirm
    from pipeline.console.streaming_output import Writer
    from pipeline.generation.loading import find_named_checkpoint, load_all
    from utils.devices import describe_device, resolve_device
    from utils.terminal import styled

    chosen = config.generation
    print(f"device: {describe_device(resolve_device(args.device))}", file=sys.stderr)
    if len(args.checkpoint) > 1:
        from pipeline.console.comparison import memory_report

        paths = [find_named_checkpoint(argument, config.paths.checkpoint_dir)[1] for argument in args.checkpoint]
        line, fits = memory_report(paths, device=args.device, dtype=chosen.dtype, quantize=chosen.quantize)
        print(line if fits else styled(f"warning: {line}", "yellow", stream=sys.stderr), file=sys.stderr)
        if not fits and args.prompt is None:
            confirm("Load them all the same?")
    loaded = load_all(args.checkpoint, config, device=args.device, dtype=chosen.dtype, quantize=chosen.quantize)
    writers = [Writer(model, chosen.compile) for model in loaded]
    if len(writers) > 1:
        for writer in writers:
            writer.warm_up()
    return writers


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PipelineError(f"the prompt is not valid UTF-8 at byte {error.start}; expected UTF-8 text") from None


if __name__ == "__main__":
    run(main)
