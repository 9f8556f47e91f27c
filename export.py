"""A checkpoint for other programs, and back.

    python3 export.py --checkpoint latest --output exported/              # a folder for transformers, vLLM, …
    python3 export.py --checkpoint latest --gguf model.gguf               # a file for llama.cpp
    python3 export.py --import-hf DIR --output checkpoints/imported       # such a folder as a checkpoint
    python3 export.py --import-checkpoint 110MPre-Trained.pt              # another program's file as a run of ours

What was written is loaded again and compared with the original, logits and greedy tokens: a difference is an error.
"""

import argparse
import glob
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.configuration import config_flags, load_config_from
from utils.cli import run, stage_parser
from utils.errors import PipelineError, UsageError
from utils.files import make_folder, move_into_place, remove_stale_temporaries, temporary_path

if TYPE_CHECKING:
    import torch

    from pipeline.configuration import Config
    from pipeline.generation.loading import LoadedModel

CHECKPOINT_NAME = "checkpoint_latest.pt"
ROTATIONS = ("auto", "halves", "pairs")
DTYPES = ("float32", "bfloat16", "float16")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--checkpoint", metavar="[NAME=]PATH", help="a file, a run's folder, or: latest")
    parser.add_argument("--output", metavar="DIR", type=Path, help="the Hugging Face folder to write")
    parser.add_argument("--gguf", metavar="FILE", type=Path, help="the GGUF file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the weights there (%(default)s)")
    parser.add_argument(
        "--tokenizer", dest="paths.tokenizer_dir", metavar="DIR", help="folder of the checkpoint's tokenizer"
    )
    parser.add_argument("--scores", metavar="FILE.json", type=Path, help="benchmark results for the model card")
    parser.add_argument("--import-hf", metavar="DIR", type=Path, help="turn this folder into a checkpoint in --output")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote")
    foreign = parser.add_argument_group("another program's checkpoint")
    foreign.add_argument("--import-checkpoint", metavar="FILE", type=Path, help="turn this file into a run of ours")
    foreign.add_argument("--model-config", metavar="JSON", type=Path, help="what the file does not say of its model")
    foreign.add_argument("--rope", choices=ROTATIONS, default="auto", help="what its RoPE rotates (%(default)s)")
    foreign.add_argument("--ignore-unknown", action="store_true", help="leave out weights that are not recognised")
    args = parser.parse_args(argv)
    if sum(map(bool, (args.checkpoint, args.import_hf, args.import_checkpoint))) != 1:
        raise UsageError("expected one of --checkpoint PATH, --import-hf DIR and --import-checkpoint FILE")
    if args.import_hf and not args.output:
        raise UsageError("--import-hf needs --output DIR, the folder of the checkpoint")
    if args.checkpoint and not (args.output or args.gguf):
        raise UsageError(
            "--checkpoint needs --output DIR for a Hugging Face folder, --gguf FILE for llama.cpp, or both"
        )
    if not args.import_checkpoint and (args.model_config or args.ignore_unknown or args.rope != "auto"):
        raise UsageError("--model-config, --rope and --ignore-unknown go with --import-checkpoint FILE")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    if args.import_hf:
        print(f"{import_from_hf(args.import_hf, args.output, config)}: the logits are the folder's")
        return 0
    if args.import_checkpoint:
        path = import_checkpoint(args, config)
        print(f"wrote {path}; try it: python3 main.py inference --checkpoint {path.parent}")
        return 0
    from pipeline.generation.loading import load_for_inference

    loaded = load_for_inference(args.checkpoint, config, device="cpu", dtype="float32")
    if args.output:
        scores = _read_scores(args.scores) if args.scores else None
        measured = export_to_hf(loaded, args.output, dtype=args.dtype, scores=scores, overwrite=args.overwrite)
        print(f"{args.output}: loaded by transformers, {_compared(measured)}")
    if args.gguf:
        measured = export_to_gguf(loaded, args.gguf, dtype=args.dtype, overwrite=args.overwrite)
        print(f"{args.gguf}: {measured['tensors']} tensors read again and equal; {_compared(measured)}")
    return 0


def export_to_hf(
    loaded: "LoadedModel",
    directory: Path,
    *,
    dtype: str = "float32",
    scores: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes `loaded` as a folder that transformers loads, compares the two, and only then gives it its name.

    Returns:
        ``logit_difference`` (of the largest logit) and ``greedy_tokens`` compared.

    Raises:
        PipelineError: something has no equal there, the folder is taken, or what was written differs.
    """
    from pipeline.exporting.earlier_export import refuse_to_replace, replace_folder
    from pipeline.exporting.hf_check import check_hf_folder
    from pipeline.exporting.hf_folder import write_hf_folder

    weights_dtype = _torch_dtype(dtype)
    refuse_to_replace(directory, overwrite=overwrite)
    remove_stale_temporaries(directory.parent, glob.escape(directory.name))
    temporary = temporary_path(directory)
    try:
        write_hf_folder(loaded, temporary, dtype=weights_dtype, name=directory.name, scores=scores)
        measured = check_hf_folder(temporary, loaded, dtype=weights_dtype)
        replace_folder(directory, by=temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return measured


def export_to_gguf(
    loaded: "LoadedModel", path: Path, *, dtype: str = "float32", overwrite: bool = False
) -> dict[str, Any]:
    """Writes `loaded` as a file for llama.cpp, compares the two, and only then gives it its name.

    Returns:
        ``tensors`` compared; where llama-cpp-python is installed also ``logit_difference`` and ``greedy_tokens``.

    Raises:
        PipelineError: something has no equal there, the file is there already, or what was written differs.
    """
    from pipeline.exporting.earlier_export import refuse_to_replace_file
    from pipeline.exporting.gguf_check import check_gguf_file
    from pipeline.exporting.gguf_file import write_gguf_file

    weights_dtype = _torch_dtype(dtype)
    refuse_to_replace_file(path, overwrite=overwrite)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp.gguf")
    try:
        write_gguf_file(loaded, temporary, dtype=weights_dtype)
        measured = check_gguf_file(temporary, loaded, dtype=weights_dtype)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return measured


def _torch_dtype(name: str) -> "torch.dtype":
    import torch

    if name not in DTYPES:
        raise PipelineError(f"dtype is {name!r}; expected one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _compared(measured: dict[str, Any]) -> str:
    if "logit_difference" not in measured:
        return "llama.cpp was not asked, install llama-cpp-python and it is"
    tokens = f"{measured['greedy_tokens']} greedy tokens equal, " if measured["greedy_tokens"] else ""
    return f"{tokens}logits to {measured['logit_difference']:.1e} of the largest"


def import_from_hf(directory: Path, output: Path, config: "Config") -> Path:
    """Turns a folder of Hugging Face's into a checkpoint in `output` and returns its path.

    Raises:
        PipelineError: an architecture that is not ours, a tokenizer of another kind, logits that differ.
    """
    from model import create_model, load_weights
    from pipeline.configuration import config_from_dict
    from pipeline.exporting.hf_check import compare_logits, load_hf_model
    from pipeline.exporting.hf_import import read_hf_folder
    from pipeline.formats.checkpoint import write_checkpoint
    from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer

    path = output / CHECKPOINT_NAME
    if path.exists():
        raise PipelineError(f"{path} exists; name another folder with --output")
    remove_stale_temporaries(output, path.name)
    content = read_hf_folder(directory, load_tokenizer(directory), config)
    model = create_model(config_from_dict(content["config"], origin=str(directory)))
    load_weights(model, content["model"], origin=str(directory))
    theirs = load_hf_model(directory)
    compare_logits(model.eval(), lambda ids: theirs(ids).logits, directory)
    write_checkpoint(path, content)
    return path


def import_checkpoint(args: argparse.Namespace, config: "Config") -> Path:
    """Turns another program's file into a checkpoint, in a new run's folder or in ``--output``; returns its path.

    Raises:
        PipelineError: the file is not a whole model of our architecture, or the tokenizer is another one.
    """
    from pipeline.exporting.foreign_import import import_foreign
    from pipeline.formats.checkpoint import write_checkpoint
    from pipeline.formats.run_folders import new_run_folder
    from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer

    if args.output and (args.output / CHECKPOINT_NAME).exists():
        raise PipelineError(f"{args.output / CHECKPOINT_NAME} exists; name another folder with --output")
    imported = import_foreign(
        args.import_checkpoint,
        config,
        tokenizer=load_tokenizer(config.paths.tokenizer_dir) if "paths.tokenizer_dir" in config_flags(args) else None,
        model_config=args.model_config,
        rotation=args.rope,
        ignore_unknown=args.ignore_unknown,
    )
    print("\n".join(imported.report))
    path = (args.output or new_run_folder(config.paths.checkpoint_dir)) / CHECKPOINT_NAME
    write_checkpoint(path, imported.content)
    return path


def _read_scores(path: Path) -> dict[str, Any]:
    try:
        scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return scores
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read: {error}; expected a benchmark's results as JSON") from None


if __name__ == "__main__":
    run(main)
