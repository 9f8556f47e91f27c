"""A checkpoint of another program → the content of one of ours, and what was done to it.

    imported = import_foreign(path, config, tokenizer=tokenizer)     # imported.content, imported.report

The weights must make a whole model: one that is missing, has another shape or is not recognised is an error.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model import create_model
from pipeline.configuration import Config, config_from_dict
from pipeline.exporting.foreign_config import ForeignConfig, foreign_config
from pipeline.exporting.foreign_file import ForeignFile, read_config_file, read_foreign_file
from pipeline.exporting.foreign_names import Mapped, halve_rows, map_names, split_fused
from pipeline.exporting.foreign_sample import sample_losses
from pipeline.exporting.hf_names import from_hf_names, to_hf_names
from pipeline.formats.checkpoint_tokenizer import describe_tokenizer
from pipeline.modeling.config import ModelConfig
from utils.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.tokenization.wikipedia_tokenizer import WikipediaTokenizer

_SHOWN = 8  # names in a message at most
_NOTABLE = 0.05  # nats a token: below that two losses say nothing


@dataclass(frozen=True)
class Imported:
    """`content` is what `write_checkpoint` writes; `report` says what was done, a line each."""

    content: dict[str, Any]
    report: tuple[str, ...]


def import_foreign(
    path: Path,
    base: Config,
    *,
    tokenizer: "WikipediaTokenizer | None",
    model_config: Path | None = None,
    rotation: str = "auto",
    ignore_unknown: bool = False,
) -> Imported:
    """Read, sort out and check the file at `path`.

    Args:
        base: the configuration whose other sections the checkpoint gets.
        tokenizer: the one that the model was trained with; None: the checkpoint names none.
        model_config: a JSON file with keys that the file does not state, or that replace its own.
        rotation: which values of a query RoPE rotates together: ``halves`` (ours), ``pairs`` of neighbours, or as the
            names have it (``auto``).
        ignore_unknown: leave out weights that are not recognised.

    Raises:
        PipelineError: the file is not a whole model of our architecture; names what is missing or left over.
    """
    file = read_foreign_file(path)
    mapped = map_names(file.weights)
    stated = file.config | (read_config_file(model_config) if model_config else {})
    found = foreign_config(stated, mapped.state, origin=str(path))
    config = _whole_config(found, base, tokenizer, origin=str(path))
    pairs = mapped.rotates_pairs if rotation == "auto" else rotation == "pairs"
    state = _hf_state(mapped, config.model, pairs=pairs)
    _check_weights(state, mapped.unknown, config.model, origin=path, ignore_unknown=ignore_unknown)
    content: dict[str, Any] = {
        "model": {name: tensor.float() for name, tensor in from_hf_names(state, config.model).items()},
        "config": config.to_dict(),
        "name": path.stem,
        "imported_from": path.name,
    }
    content |= {"step": file.step} if file.step is not None else {}
    content |= {"tokenizer": describe_tokenizer(tokenizer)} if tokenizer else {}
    report = [*_report(file, mapped, found), *_rotation_report(mapped, config.model, tokenizer, pairs=pairs)]
    named = f"{tokenizer.name} in {tokenizer.directory}" if tokenizer else "not recorded; --tokenizer DIR records it"
    return Imported(content, (*report, f"  tokenizer: {named}"))


def _whole_config(found: ForeignConfig, base: Config, tokenizer: "WikipediaTokenizer | None", *, origin: str) -> Config:
    values = base.to_dict()
    values["model"] |= {"rope_scaling": "none", "rope_scaling_factor": 1.0, **found.values}
    context = values["model"]["max_position_embeddings"]
    values["dataset"] |= {"window": min(values["dataset"]["window"], context)}  # a window must fit into the context
    if tokenizer is not None:
        values["paths"] |= {"tokenizer_dir": str(tokenizer.directory)}
        if tokenizer.vocab_size != found.values["vocab_size"]:
            raise PipelineError(
                f"{origin}: its model has {found.values['vocab_size']} tokens; the tokenizer in {tokenizer.directory} "
                f"has {tokenizer.vocab_size}; expected the model's own: --tokenizer DIR"
            )
    return config_from_dict(values, origin=origin)


def _hf_state(mapped: Mapped, config: ModelConfig, *, pairs: bool) -> dict[str, Tensor]:
    """All weights under Hugging Face's names, each by itself, RoPE by halves."""
    state = split_fused(mapped.state, heads=config.num_attention_heads, key_value_heads=config.num_key_value_heads)
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return halve_rows(state, config.head_dim) if pairs else state


def _check_weights(
    state: Mapping[str, Tensor], unknown: Iterable[str], config: ModelConfig, *, origin: Path, ignore_unknown: bool
) -> None:
    """Every weight of the model is there in its shape, and nothing else."""
    with torch.device("meta"):
        model = create_model(config)
    expected = {name: tuple(tensor.shape) for name, tensor in to_hf_names(model.state_dict(), config).items()}
    missing = [name for name in expected if name not in state]
    unknown = [] if ignore_unknown else [*unknown, *(name for name in state if name not in expected)]
    problems = [f"missing: {_listed(missing)}"] if missing else []
    problems += [f"not recognised: {_listed(unknown)} (leave them out with --ignore-unknown)"] if unknown else []
    if problems:
        raise PipelineError(f"{origin} is not a whole model of this architecture; {'; '.join(problems)}")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise PipelineError(
                f"{origin}: {name} has the shape {tuple(state[name].shape)}; expected {shape}, as the other weights "
                "and the configuration have it"
            )
        if not state[name].isfinite().all():
            raise PipelineError(f"{origin}: {name} holds NaN or infinity; expected numbers, so the file is damaged")


def _report(file: ForeignFile, mapped: Mapped, found: ForeignConfig) -> Iterable[str]:
    yield f"{file.path.name}: {len(mapped.state)} of {len(file.weights)} tensors recognised"
    yield f"  model: {json.dumps(found.values)}"
    if found.assumed:
        assumed = ", ".join(f"{key} {found.values[key]}" for key in found.assumed)
        yield f"  assumed, as neither file nor shapes say it: {assumed}; if that is wrong: --model-config FILE"
    if mapped.computed:
        yield f"  left out, as the configuration gives them: {_listed(mapped.computed)}"
    if mapped.unknown:
        yield f"  left out, as not recognised: {_listed(mapped.unknown)}"


def _rotation_report(
    mapped: Mapped, config: ModelConfig, tokenizer: "WikipediaTokenizer | None", *, pairs: bool
) -> Iterable[str]:
    """Which values RoPE is taken to rotate together, and with a tokenizer what a sample text says of that."""
    used, other = ("pairs", "halves") if pairs else ("halves", "pairs")
    yield f"  RoPE rotates {used}{', so rows were reordered' if pairs else ''}; if the text is nonsense: --rope {other}"
    if tokenizer is None:
        return
    states = {used: _hf_state(mapped, config, pairs=pairs), other: _hf_state(mapped, config, pairs=not pairs)}
    losses = sample_losses(states, config, tokenizer)
    yield f"  loss on a sample of English: {losses[used]:.2f} nats a token, {losses[other]:.2f} with --rope {other}"
    if losses[other] < losses[used] - _NOTABLE:
        yield f"  warning: the sample fits --rope {other} better; import the file again with it"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
