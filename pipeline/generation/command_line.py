"""Options for loading checkpoints and sampling, shared by the terminal and the server.

parser = stage_parser(__doc__)
add_model_options(parser)       # --checkpoint, --tokenizer, --device, --dtype, --quantize
add_sampling_options(parser)    # --max-length, --temperature, --top-k, …
"""

from collections.abc import Callable
from typing import NamedTuple

from utils.stage_parser import StageParser

DEVICES = ("auto", "cuda", "cpu", "mps")


class _SamplingOption(NamedTuple):
    key: str
    metavar: str
    type: Callable[[str], object]
    help: str


_SAMPLING_OPTIONS = (
    _SamplingOption("max_length", "N", int, "maximum number of new tokens"),
    _SamplingOption("temperature", "T", float, "0: always the most likely token"),
    _SamplingOption("top_k", "K", int, "sample from the K most likely tokens; 0: from all"),
    _SamplingOption("top_p", "P", float, "from the top tokens with a total probability of P"),
    _SamplingOption("min_p", "P", float, "sample from tokens at least P times as likely as the top token; 0: from all"),
    _SamplingOption("repetition_penalty", "R", float, "above 1: less repetition"),
    _SamplingOption("seed", "S", int, "the same seed gives the same text"),
)


def add_model_options(parser: StageParser, *, checkpoint_help: str) -> None:
    """Add options for choosing and loading checkpoints; `checkpoint_help` explains what several are for."""
    parser.add_argument("--checkpoint", metavar="[NAME=]PATH", action="append", default=[], help=checkpoint_help)
    parser.add_argument(
        "--tokenizer", dest="paths.tokenizer_dir", metavar="DIR", help="folder containing the checkpoints' tokenizer"
    )
    parser.add_argument(
        "--device", default="auto", choices=DEVICES, metavar="NAME", help="cuda, cpu, mps or auto (the default)"
    )
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
        help="int8: int8 weights, a quarter of the memory and faster (CPU)",
    )
    parser.keep_for_help_all("--tokenizer", "--dtype", "--quantize")


def add_sampling_options(parser: StageParser) -> None:
    """Add an option for each key of `generation` that affects sampling."""
    for option in _SAMPLING_OPTIONS:
        parser.add_argument(
            f"--{option.key.replace('_', '-')}",
            dest=f"generation.{option.key}",
            metavar=option.metavar,
            type=option.type,
            help=option.help,
        )
    parser.keep_for_help_all("--min-p", "--repetition-penalty")
