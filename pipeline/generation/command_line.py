"""The options that load checkpoints and write with them, shared by the terminal and the server.

parser = stage_parser(__doc__)
add_model_options(parser)       # --checkpoint, --tokenizer, --device, --dtype, --quantize
add_sampling_options(parser)    # --max-length, --temperature, --top-k, …
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

DEVICES = ("auto", "cuda", "cpu", "mps")


class _SamplingOption(NamedTuple):
    key: str
    metavar: str
    type: Callable[[str], object]
    help: str


_SAMPLING_OPTIONS = (
    _SamplingOption("max_length", "N", int, "new tokens at most"),
    _SamplingOption("temperature", "T", float, "0: always the likeliest token"),
    _SamplingOption("top_k", "K", int, "draw from the K likeliest tokens; 0: from all"),
    _SamplingOption("top_p", "P", float, "draw from the likeliest tokens that add up to probability P; 1: from all"),
    _SamplingOption("min_p", "P", float, "draw from tokens at least P times as likely as the likeliest; 0: from all"),
    _SamplingOption("repetition_penalty", "R", float, "above 1: less repetition"),
    _SamplingOption("seed", "S", int, "the same seed gives the same text"),
)


def add_model_options(parser: argparse.ArgumentParser, *, checkpoint_help: str) -> None:
    """Add the choice of checkpoints and how they are loaded; `checkpoint_help` says what several of them are for."""
    parser.add_argument("--checkpoint", metavar="[NAME=]PATH", action="append", default=[], help=checkpoint_help)
    parser.add_argument(
        "--tokenizer", dest="paths.tokenizer_dir", metavar="DIR", help="folder of the checkpoints' tokenizer"
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default: %(default)s")
    parser.add_argument(
        "--dtype",
        dest="generation.dtype",
        choices=("auto", "float32", "bfloat16"),
        help="compute type; auto: bfloat16 on CUDA",
    )
    parser.add_argument(
        "--quantize",
        dest="generation.quantize",
        choices=("int8", "none"),
        help="int8: weights rounded to int8, a quarter of the memory and faster (CPU)",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each key of `generation` that decides which token is drawn."""
    for option in _SAMPLING_OPTIONS:
        parser.add_argument(
            f"--{option.key.replace('_', '-')}",
            dest=f"generation.{option.key}",
            metavar=option.metavar,
            type=option.type,
            help=option.help,
        )
