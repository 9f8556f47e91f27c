"""Export a checkpoint for other programs, or import one of theirs.

    python3 export.py --checkpoint latest --output exported/   # for transformers
    python3 export.py --checkpoint latest --gguf model.gguf    # for llama.cpp
    python3 export.py --output exported/ --push USER/NAME      # to the hub
    python3 export.py --import-hf DIR --output checkpoints/imported
    python3 export.py --import-checkpoint 110MPre-Trained.pt   # as a new run

What is written is loaded again and compared with the original, logits and greedy tokens: a difference is an error.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.configuration import config_flags, load_config_from
from pipeline.exporting.gguf_export import export_to_gguf
from pipeline.exporting.hf_export import export_to_hf
from pipeline.exporting.weight_types import DTYPES
from utils.cli import EXIT_OK, run, stage_parser
from utils.errors import PipelineError, UsageError
from utils.terminal import say

if TYPE_CHECKING:
    from pipeline.configuration import Config
    from pipeline.exporting.comparison import Comparison

__all__ = ["export_to_gguf", "export_to_hf"]

ROTATIONS = ("auto", "halves", "pairs")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--checkpoint", metavar="[NAME=]PATH", help="a file, a run's folder, or latest")
    parser.add_argument("--output", metavar="DIR", type=Path, help="the Hugging Face folder to write")
    parser.add_argument("--gguf", metavar="FILE", type=Path, help="the GGUF file to write")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", metavar="TYPE", help=f"{', '.join(DTYPES)} (default: %(default)s)"
    )
    parser.add_argument(
        "--tokenizer", dest="paths.tokenizer_dir", metavar="DIR", help="folder containing the checkpoint's tokenizer"
    )
    parser.add_argument("--scores", metavar="FILE.json", type=Path, help="benchmark results for the model card")
    parser.add_argument("--import-hf", metavar="DIR", type=Path, help="convert this folder to a checkpoint in --output")
    parser.add_argument(
        "--push",
        metavar="USER/NAME",
        help="upload the folder in --output to the hub",
    )
    parser.add_argument("--private", action="store_true", help="with --push: create a private repository")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    foreign = parser.add_argument_group("another program's checkpoint")
    foreign.add_argument("--import-checkpoint", metavar="FILE", type=Path, help="convert this file to a training run")
    foreign.add_argument("--model-config", metavar="JSON", type=Path, help="model settings missing from the file")
    foreign.add_argument("--rope", choices=ROTATIONS, default="auto", help="RoPE layout of the weights (%(default)s)")
    foreign.add_argument("--ignore-unknown", action="store_true", help="skip unrecognized weights")
    parser.keep_for_help_all(
        *(
            "--dtype",
            "--tokenizer",
            "--scores",
            "--private",
            "--overwrite",
            "--model-config",
            "--rope",
            "--ignore-unknown",
        )
    )
    args = parser.parse_args(argv)
    if args.push and (not args.output or args.import_hf or args.import_checkpoint):
        raise UsageError(
            "--push requires --output DIR, the exported folder to upload, and cannot be used with an import"
        )
    if args.private and not args.push:
        raise UsageError("--private is only valid with --push USER/NAME")
    sources = sum(map(bool, (args.checkpoint, args.import_hf, args.import_checkpoint)))
    if sources != 1 and not (args.push and sources == 0 and not args.gguf):
        raise UsageError("exactly one of --checkpoint PATH, --import-hf DIR or --import-checkpoint FILE is required")
    if args.import_hf and not args.output:
        raise UsageError("--import-hf requires --output DIR, the folder for the new checkpoint")
    if args.checkpoint and not (args.output or args.gguf):
        raise UsageError(
            "--checkpoint requires --output DIR (a Hugging Face folder), --gguf FILE (for llama.cpp), or both"
        )
    if not args.import_checkpoint and (args.model_config or args.ignore_unknown or args.rope != "auto"):
        raise UsageError("--model-config, --rope and --ignore-unknown are only valid with --import-checkpoint FILE")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    if args.import_hf:
        from pipeline.exporting.hf_import import import_from_hf

        say(f"{import_from_hf(args.import_hf, args.output, config)}: the logits match the original folder's")
    elif args.import_checkpoint:
        path = _import_checkpoint(args, config)
        say(f"wrote {path}; try it: python3 main.py inference --checkpoint {path.parent}")
    else:
        _export_and_push(args, config)
    return EXIT_OK


def _import_checkpoint(args: argparse.Namespace, config: "Config") -> Path:
    from pipeline.exporting.import_checkpoint import ImportOptions, import_checkpoint

    options = ImportOptions(args.model_config, args.rope, args.ignore_unknown)
    tokenizer_dir = config.paths.tokenizer_dir if "paths.tokenizer_dir" in config_flags(args) else None
    return import_checkpoint(args.import_checkpoint, config, options, tokenizer_dir=tokenizer_dir, output=args.output)


def _export_and_push(args: argparse.Namespace, config: "Config") -> None:
    from pipeline.exporting.hub_push import check_push, push_folder

    if args.push:
        check_push(args.push)
    if args.checkpoint:
        _export(args, config)
    if args.push:
        pushed = push_folder(args.output, args.push, private=args.private)
        say(f"{pushed.url}: {'uploaded' if pushed.is_new else 'already up to date'}")


def _export(args: argparse.Namespace, config: "Config") -> None:
    """Write the folder, the file or both, and print how each one was compared with the checkpoint."""
    from pipeline.generation.loading import load_for_inference

    loaded = load_for_inference(args.checkpoint, config, device="cpu", dtype="float32")
    if args.output:
        scores = _read_scores(args.scores) if args.scores else None
        compared = export_to_hf(loaded, args.output, dtype=args.dtype, scores=scores, overwrite=args.overwrite)
        say(f"{args.output}: loaded by transformers, {_format(compared)}")
    if args.gguf:
        compared = export_to_gguf(loaded, args.gguf, dtype=args.dtype, overwrite=args.overwrite)
        say(f"{args.gguf}: {compared['tensors']} tensors verified; {_format(compared)}")


def _format(compared: "Comparison") -> str:
    if "logit_difference" not in compared:
        return "install llama-cpp-python to compare llama.cpp's logits too"
    tokens = f"{compared['greedy_tokens']} greedy tokens match, " if compared["greedy_tokens"] else ""
    return f"{tokens}largest logit difference {compared['logit_difference']:.1e} (relative)"


def _read_scores(path: Path) -> dict[str, object]:
    try:
        scores: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        return scores
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read: {error}; expected benchmark results as JSON") from None


if __name__ == "__main__":
    run(main)
