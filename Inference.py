"""Text from a trained model, in the terminal.

python3 Inference.py                                                     # menus: mode, run, checkpoint, prompt
python3 Inference.py --checkpoint latest --prompt "The future of AI is"  # text on stdout, statistics on stderr
"""

import argparse
import sys
from pathlib import Path

from utils.cli import load_config_from, run, stage_parser
from utils.errors import PipelineError


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(
        args,
        generation__max_length=args.max_length,
        generation__temperature=args.temperature,
        generation__top_k=args.top_k,
        generation__top_p=args.top_p,
        generation__min_p=args.min_p,
        generation__repetition_penalty=args.repetition_penalty,
        generation__seed=args.seed,
    )
    if args.prompt is not None:
        return answer(args, config)
    return converse(args, config)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--checkpoint", metavar="PATH", help="a file, a run's folder, or latest; without it: a menu")
    parser.add_argument("--prompt", metavar="TEXT", help="continue this and leave; - reads it from standard input")
    parser.add_argument("--tokenizer", metavar="DIR", type=Path, help="where the checkpoint's tokenizer lies")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu", "mps"), help="default: auto")
    parser.add_argument("--max-length", metavar="N", type=int, help="new tokens at most")
    parser.add_argument("--temperature", metavar="T", type=float, help="0: always the likeliest token")
    parser.add_argument("--top-k", metavar="K", type=int, help="draw among the K likeliest tokens; 0: all")
    parser.add_argument("--top-p", metavar="P", type=float, help="draw among those that hold this probability; 1: all")
    parser.add_argument("--min-p", metavar="P", type=float, help="draw among those with this share of the likeliest's")
    parser.add_argument("--repetition-penalty", metavar="R", type=float, help="above 1: less repetition")
    parser.add_argument("--seed", metavar="S", type=int, help="the same seed gives the same text")
    args = parser.parse_args(argv)
    if args.prompt is not None and args.checkpoint is None:
        parser.error("--prompt needs --checkpoint; --checkpoint latest takes the newest")
    return args


def answer(args: argparse.Namespace, config) -> int:
    """The plain form: one prompt, its continuation on standard output, what it took on standard error."""
    from console.single import write_continuation
    from utils.generation_settings import GenerationSettings, check_text

    prompt = check_text(_standard_input() if args.prompt == "-" else args.prompt)
    settings = GenerationSettings.from_config(config.generation)
    loaded = _load(args, config)
    statistics = write_continuation(loaded, prompt, settings, output=sys.stdout)
    print(statistics.line(), file=sys.stderr)
    return 0


def converse(args: argparse.Namespace, config) -> int:
    """The menus."""
    from console.menus import Quit, choose_checkpoint, choose_mode, choose_run
    from console.single import run_single
    from utils.generation_settings import GenerationSettings

    try:
        if args.checkpoint is None:
            choose_mode(["One model"])
            args.checkpoint = choose_checkpoint(choose_run(config.paths.checkpoint_dir))
        run_single(_load(args, config), GenerationSettings.from_config(config.generation))
    except Quit:
        pass
    return 0


def _load(args: argparse.Namespace, config):
    from console.loading import load_checkpoint
    from utils.checkpoint import find_checkpoint
    from utils.devices import choose_dtype, describe_device, resolve_device

    device = resolve_device(args.device)
    dtype = choose_dtype("auto", device)
    path = find_checkpoint(args.checkpoint, config.paths.checkpoint_dir)
    print(f"{path} on {describe_device(device)}, {str(dtype).removeprefix('torch.')}", file=sys.stderr)
    return load_checkpoint(path, config, device=device, dtype=dtype, tokenizer_dir=args.tokenizer)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PipelineError(f"the prompt is not valid UTF-8 at byte {error.start}; wanted: UTF-8 text") from None


if __name__ == "__main__":
    run(main)
