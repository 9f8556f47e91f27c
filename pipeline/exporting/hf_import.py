"""Import a Hugging Face folder (Llama or Qwen3, as `pipeline.exporting.hf_folder` writes it) as a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model import create_model, load_weights
from pipeline.configuration import Config, config_from_dict
from pipeline.exporting.hf_check import compare_logits, load_hf_model
from pipeline.exporting.hf_config import model_config
from pipeline.exporting.hf_names import from_hf_names
from pipeline.formats.chat_template import TEMPLATES, chat_template
from pipeline.formats.checkpoint import write_checkpoint
from pipeline.formats.checkpoint_tokenizer import describe_tokenizer
from pipeline.formats.run_folders import LATEST_NAME
from pipeline.tokenization.interface import Tokenizer
from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer
from utils.errors import PipelineError
from utils.files import remove_stale_temporaries


def import_from_hf(directory: Path, output: Path, config: Config) -> Path:
    """Turn a Hugging Face folder into a checkpoint in `output` and return the checkpoint's path.

    Raises:
        PipelineError: an architecture that is not ours, a tokenizer of another kind, or logits that differ.
    """
    path = output / LATEST_NAME
    if path.exists():
        raise PipelineError(f"{path} already exists; choose a different folder with --output")
    remove_stale_temporaries(output, path.name)
    content = read_hf_folder(directory, load_tokenizer(directory), config)
    model = create_model(config_from_dict(content["config"], origin=str(directory)))
    load_weights(model, content["model"], origin=str(directory))
    theirs = load_hf_model(directory)
    compare_logits(model.eval(), lambda ids: theirs(ids).logits, directory)
    write_checkpoint(path, content)
    return path


def read_hf_folder(directory: Path, tokenizer: Tokenizer, base: Config) -> dict[str, Any]:
    """The content of a checkpoint: weights in float32, configuration, tokenizer.

    Args:
        base: the configuration whose other sections the checkpoint gets.

    Raises:
        PipelineError: no such folder, another architecture, or a tokenizer of another size than the model's.
    """
    values = base.to_dict()
    values["model"] |= model_config(_read_config(directory), origin=str(directory / "config.json"))
    context = values["model"]["max_position_embeddings"]
    values["dataset"] |= {"window": min(values["dataset"]["window"], context)}  # a window must fit into the context
    values["paths"] |= {"tokenizer_dir": str(directory.resolve())}
    config = config_from_dict(values, origin=str(directory))
    if tokenizer.vocab_size != config.model.vocab_size:
        raise PipelineError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, but the model has {config.model.vocab_size}"
        )
    content: dict[str, Any] = {
        "model": from_hf_names(_read_weights(directory), config.model),
        "config": config.to_dict(),
        "tokenizer": describe_tokenizer(tokenizer),
        "name": directory.resolve().name,
    }
    template = _our_template(directory / "chat_template.jinja")
    if template:
        content["chat_template"] = template
    return content


def _our_template(path: Path) -> str | None:
    """Which of our chat templates (`formats/chat_template.py`) a folder has; with another one it is a base model."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return next((name for name in TEMPLATES if text == chat_template(template=name)), None)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    except FileNotFoundError:
        raise PipelineError(f"{directory} contains no config.json; expected a folder saved by transformers") from None
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read: {error}") from None


def _read_weights(directory: Path) -> Mapping[str, torch.Tensor]:
    """All tensors of the folder's safetensors files, in float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise PipelineError(
            f"{directory} contains no *.safetensors files; weights must be in that format, which cannot contain code"
        )
    state: dict[str, torch.Tensor] = {}
    for path in paths:
        try:
            state |= {name: tensor.float() for name, tensor in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise PipelineError(f"{path} cannot be read: {error}") from None
    return state
