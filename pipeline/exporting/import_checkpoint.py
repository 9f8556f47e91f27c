"""Import another program's checkpoint as one of ours.

    import_checkpoint(path, config, ImportOptions(rotation="pairs"), tokenizer_dir=None, output=folder)

The weights must form a whole model: a weight that is missing, has another shape or is not recognised is an error.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import create_model
from pipeline.configuration import Config, config_from_dict
from pipeline.exporting.hf_names import from_hf_names, to_hf_names
from pipeline.exporting.import_config import ForeignConfig, foreign_config
from pipeline.exporting.import_file import ForeignFile, read_config_file, read_foreign_file
from pipeline.exporting.import_names import Mapped, halve_rows, map_names, split_fused
from pipeline.exporting.import_rotation import sample_losses
from pipeline.formats.checkpoint import write_checkpoint
from pipeline.formats.checkpoint_tokenizer import describe_tokenizer
from pipeline.formats.run_folders import LATEST_NAME, new_run_folder
from pipeline.modeling.config import ModelConfig
from pipeline.tokenization.wikipedia_tokenizer import WikipediaTokenizer, load_tokenizer
from utils.errors import PipelineError
from utils.terminal import say

_SHOWN = 8  # names in a message at most
_NOTABLE = 0.05  # nats per token; a smaller difference between two losses means nothing


@dataclass(frozen=True)
class ImportOptions:
    """What a file may not say of itself.

    Args:
        model_config: a JSON file with keys that the file does not state, or that replace its own.
        rotation: which values of a query RoPE rotates together: ``halves`` (ours), ``pairs`` of neighbours, or
            ``auto``, as the names of the weights suggest.
        ignore_unknown: leave out weights that are not recognised.
    """

    model_config: Path | None = None
    rotation: str = "auto"
    ignore_unknown: bool = False


@dataclass(frozen=True)
class Imported:
    """The `content` of a checkpoint, and a `report` of what was done, one line each."""

    content: dict[str, Any]
    report: tuple[str, ...]


def import_checkpoint(
    source: Path, config: Config, options: ImportOptions, *, tokenizer_dir: Path | None, output: Path | None
) -> Path:
    """Turn another program's file into a checkpoint, print what was done, and return the checkpoint's path.

    Args:
        tokenizer_dir: the folder of the tokenizer that the model was trained with, if it is known.
        output: the folder to write to; None: the folder of a new run.

    Raises:
        PipelineError: the file is not a whole model of our architecture, or its tokenizer has another size.
    """
    if output and (output / LATEST_NAME).exists():
        raise PipelineError(f"{output / LATEST_NAME} already exists; choose a different folder with --output")
    tokenizer = load_tokenizer(tokenizer_dir) if tokenizer_dir else None
    imported = import_foreign(source, config, options, tokenizer=tokenizer)
    say(*imported.report)
    path = (output or new_run_folder(config.paths.checkpoint_dir)) / LATEST_NAME
    write_checkpoint(path, imported.content)
    return path


def import_foreign(
    path: Path, base: Config, options: ImportOptions, *, tokenizer: WikipediaTokenizer | None
) -> Imported:
    """Read, map and check the file at `path`.

    Args:
        base: the configuration whose other sections the checkpoint gets.
        tokenizer: the one that the model was trained with; None: the checkpoint names none.

    Raises:
        PipelineError: the file is not a whole model of our architecture; names what is missing or left over.
    """
    file = read_foreign_file(path)
    mapped = map_names(file.weights)
    stated = file.config
    if options.model_config:
        stated = stated | read_config_file(options.model_config)
    found = foreign_config(stated, mapped.state, origin=str(path))
    config = _whole_config(found, base, tokenizer, origin=str(path))
    pairs = mapped.rotates_pairs if options.rotation == "auto" else options.rotation == "pairs"
    state = _hf_state(mapped, config.model, pairs=pairs)
    unknown = () if options.ignore_unknown else mapped.unknown
    expected = _expected_shapes(config.model)
    if not options.ignore_unknown:
        unknown += tuple(name for name in state if name not in expected)
    _check_weights(state, expected, unknown, origin=path)
    content: dict[str, Any] = {
        "model": {name: tensor.float() for name, tensor in from_hf_names(state, config.model).items()},
        "config": config.to_dict(),
        "name": path.stem,
        "imported_from": path.name,
    }
    if file.step is not None:
        content["step"] = file.step
    if tokenizer:
        content["tokenizer"] = describe_tokenizer(tokenizer)
    report = [*_report(file, mapped, found), *_rotation_report(mapped, config.model, tokenizer, pairs=pairs)]
    named = (
        f"{tokenizer.name} in {tokenizer.directory}" if tokenizer else "not recorded; pass --tokenizer DIR to record it"
    )
    return Imported(content, (*report, f"  tokenizer: {named}"))


def _whole_config(found: ForeignConfig, base: Config, tokenizer: WikipediaTokenizer | None, *, origin: str) -> Config:
    values = base.to_dict()
    values["model"] |= {"rope_scaling": "none", "rope_scaling_factor": 1.0, **found.values}
    context = values["model"]["max_position_embeddings"]
    values["dataset"] |= {"window": min(values["dataset"]["window"], context)}  # a window must fit into the context
    if tokenizer is not None:
        values["paths"] |= {"tokenizer_dir": str(tokenizer.directory)}
        if tokenizer.vocab_size != found.values["vocab_size"]:
            raise PipelineError(
                f"{origin}: the model has {found.values['vocab_size']} tokens, but the tokenizer in "
                f"{tokenizer.directory} has {tokenizer.vocab_size}; pass the model's own tokenizer with "
                "--tokenizer DIR"
            )
    return config_from_dict(values, origin=origin)


def _hf_state(mapped: Mapped, config: ModelConfig, *, pairs: bool) -> dict[str, Tensor]:
    """All weights under Hugging Face's names, none fused, with RoPE by halves."""
    state = split_fused(mapped.state, heads=config.num_attention_heads, key_value_heads=config.num_key_value_heads)
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return halve_rows(state, config.head_dim) if pairs else state


def _expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of the model, under Hugging Face's names."""
    with torch.device("meta"):
        model = create_model(config)
    return {name: tuple(tensor.shape) for name, tensor in to_hf_names(model.state_dict(), config).items()}


def _check_weights(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], unknown: Sequence[str], *, origin: Path
) -> None:
    """Refuse weights that are missing, not recognised, of another shape, or not finite."""
    missing = [name for name in expected if name not in state]
    problems = []
    if missing:
        problems.append(f"missing: {_listed(missing)}")
    if unknown:
        problems.append(f"unrecognized: {_listed(unknown)} (skip them with --ignore-unknown)")
    if problems:
        raise PipelineError(f"{origin} is not a complete model of this architecture; {'; '.join(problems)}")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise PipelineError(
                f"{origin}: {name} has shape {tuple(state[name].shape)}; expected {shape}, based on the other "
                "weights and the configuration"
            )
        if not state[name].isfinite().all():
            raise PipelineError(f"{origin}: {name} contains NaN or infinite values; the file may be damaged")


def _report(file: ForeignFile, mapped: Mapped, found: ForeignConfig) -> Iterable[str]:
    yield f"{file.path.name}: recognized {len(mapped.state)} of {len(file.weights)} tensors"
    yield f"  model: {json.dumps(found.values)}"
    if found.assumed:
        assumed = ", ".join(f"{key} {found.values[key]}" for key in found.assumed)
        yield f"  assumed, not specified by the file or the shapes: {assumed}; override with --model-config FILE"
    if mapped.computed:
        yield f"  skipped, computed from the configuration: {_listed(mapped.computed)}"
    if mapped.unknown:
        yield f"  skipped, unrecognized: {_listed(mapped.unknown)}"


def _rotation_report(
    mapped: Mapped, config: ModelConfig, tokenizer: WikipediaTokenizer | None, *, pairs: bool
) -> Iterable[str]:
    """Which values RoPE is assumed to rotate together and, given a tokenizer, how well a sample text fits that."""
    used, other = ("pairs", "halves") if pairs else ("halves", "pairs")
    reordered = ", so rows were reordered" if pairs else ""
    yield f"  RoPE rotates {used}{reordered}; if the generated text is nonsense, try --rope {other}"
    if tokenizer is None:
        return
    states = {used: _hf_state(mapped, config, pairs=pairs), other: _hf_state(mapped, config, pairs=not pairs)}
    losses = sample_losses(states, config, tokenizer)
    yield f"  loss on an English sample: {losses[used]:.2f} nats per token, {losses[other]:.2f} with --rope {other}"
    if losses[other] < losses[used] - _NOTABLE:
        yield f"  warning: --rope {other} fits the sample better; import the file again with that option"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
