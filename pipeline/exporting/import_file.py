"""Read another program's checkpoint without running code: its weights and what it says about the model.

file = read_foreign_file(Path("110MPre-Trained.pt"))     # file.weights, file.config, file.step
"""

import argparse
import json
import pathlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import PipelineError

WEIGHT_KEYS = ("model_state_dict", "state_dict", "model", "module", "weights", "net")
CONFIG_KEYS = ("model_config", "model_args", "config", "hyper_parameters", "hparams", "args")
STEP_KEYS = ("step", "global_step", "iter_num", "iteration")
_PLAIN_CLASSES = [argparse.Namespace, pathlib.PosixPath]  # hold values and no code; torch refuses them by default


@dataclass(frozen=True)
class ForeignFile:
    """The content of a file: `weights` under its own names; `config` is empty if the file holds none."""

    path: Path
    weights: dict[str, Tensor]
    config: dict[str, object]
    step: int | None


def read_foreign_file(path: Path) -> ForeignFile:
    """Read a ``.safetensors`` file, or a file of `torch.save`: a state dict, alone or inside a dict.

    Raises:
        PipelineError: the file does not exist, is damaged, could run code, or has no weights.
    """
    if path.is_dir():
        raise PipelineError(
            f"{path} is a folder; pass the checkpoint file inside it, or, for a Hugging Face folder, use "
            f"--import-hf {path}"
        )
    if not path.is_file():
        raise PipelineError(
            f"{path} does not exist; expected a .pt, .pth, .bin or .safetensors file containing weights"
        )
    if path.suffix == ".safetensors":
        return ForeignFile(path, _read_safetensors(path), {}, None)
    content = _read_pickle(path)
    if not isinstance(content, Mapping):
        raise PipelineError(f"{path} contains a {type(content).__name__}; expected a dict containing weights")
    key = next((key for key in WEIGHT_KEYS if _has_tensors(content.get(key))), None)
    weights = content if key is None else content[key]
    if not _has_tensors(weights):
        found = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise PipelineError(f"{path} contains no weights; expected one of {', '.join(WEIGHT_KEYS)}; found: {found}")
    tensors = {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
    step = next((content[key] for key in STEP_KEYS if type(content.get(key)) is int), None)
    return ForeignFile(path, tensors, _config_of(content), step)


def read_config_file(path: Path) -> dict[str, object]:
    """The JSON object of ``--model-config``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read: {error}; expected the model configuration as JSON") from None
    if not isinstance(content, dict):
        raise PipelineError(f"{path} contains a {type(content).__name__}; expected an object with the model's settings")
    return content


def _read_pickle(path: Path) -> object:
    try:
        with torch.serialization.safe_globals([*_PLAIN_CLASSES]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … for the same problem
        found = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
        if found:
            raise PipelineError(f"{path} contains {found[1]}, {_convert_hint(path)}") from None
        raise PipelineError(f"{path} cannot be read: it was not written by torch.save, or it is truncated") from None


def _convert_hint(path: Path) -> str:
    return (
        "which is not a tensor or a plain value, so loading it could execute code; if you trust the file, save its "
        f"weights to a new file in an isolated environment: import torch; torch.save(torch.load({path.name!r}, "
        "map_location='cpu', weights_only=False)['model_state_dict'], 'weights.pt'); then pass --import-checkpoint "
        "weights.pt (see docs/coming_from_an_older_pipeline.md)"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise PipelineError(f"{path} cannot be read: {error}") from None


def _has_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _config_of(content: Mapping[str, object]) -> dict[str, object]:
    """The file's configurations merged; the one about the model alone wins."""
    config: dict[str, object] = {}
    for key in reversed(CONFIG_KEYS):
        value = content.get(key)
        value = vars(value) if isinstance(value, argparse.Namespace) else value
        if isinstance(value, Mapping):
            config |= value
    return config
