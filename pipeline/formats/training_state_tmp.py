"""What a training checkpoint holds beside the weights, and whether a run may go on from it."""

import platform
import random
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from pipeline.configuration import folder_keys, load_config
from utils.devices import describe_device
from utils.errors import PipelineError
from utils.logging_utils import LogPlace


def rng_state(device: torch.device) -> dict[str, Any]:
    """Every random generator of this process, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"].cpu())
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """The moments come from `state`; rates, decay and the like stay as they are configured now."""
    configured = [
        {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, options in zip(optimizer.param_groups, configured, strict=True):
        group.update(options)


def versions(device: torch.device) -> dict[str, str]:
    """Packages, git commit and hardware, for whoever asks later how a model came about."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {**packages, "python": platform.python_version(), "git": _git_commit(), "device": describe_device(device)}


def _git_commit() -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # a copy without git


def log_place(content: Mapping[str, Any]) -> LogPlace:
    """Where the log of a run continues that is resumed from the checkpoint with this `content`."""
    step = content["step"]
    return LogPlace(
        step,
        validated=content["validated_step"] == step and bool(content["last_validation"]),
        unwritten=tuple(content.get("unwritten_log", ())),
        rollbacks=content["guard"]["rollbacks"],
    )


def settings_to_resume(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A checkpoint's configuration with the local folders: a file from elsewhere must not say where to write."""
    local = load_config().explicit_values()
    result = {}
    for section, values in content["config"].items():
        folders = folder_keys(section)
        stored = {key: value for key, value in values.items() if key not in folders}
        result[section] = stored | {key: value for key, value in local.get(section, {}).items() if key in folders}
    return result


def refuse_other_run(content: Mapping[str, Any], description: Mapping[str, Any], *, origin: str) -> None:
    """Raises PipelineError where dataset, tokenizer or model shape are not the checkpoint's; names what differs."""
    old, new = content.get("config", {}), description["config"]
    refuse_other_tokenizer(content, description, origin=origin)
    was, now = content["data"].get("fingerprint"), description["data"].get("fingerprint")
    if was != now:
        place = f"its own was in {content['data'].get('directory')}"
        raise PipelineError(f"{origin} was trained with another dataset: {_pair(was, now)}; {place}; {_WAY_ON}")
    differing = [
        f"{section}.{key} {_pair(was, now)}"
        for section, key, was, now in setting_changes(old, new)
        if (section == "model" and key not in _SAME_WEIGHTS) or f"{section}.{key}" in _DATA_KEYS
    ]
    if differing:
        raise PipelineError(f"{origin} cannot go on, these differ: {', '.join(differing)}; {_WAY_ON}")


# Keys of the model that change no weight's shape or meaning; all others must stay.
_SAME_WEIGHTS = (
    "dropout",
    "depth_scaled_init",
    "activation_checkpointing",
)
_DATA_KEYS = (
    "dataset.window",
    "dataset.overlap",
    "dataset.val_split",
    "dataset.seed",
    "dataset.parts",
    "training.seed",
    "training.optimizer",
)
_WAY_ON = "use what it was trained with, or start a new run from its weights: --init-from"


def refuse_other_tokenizer(content: Mapping[str, Any], description: Mapping[str, Any], *, origin: str) -> None:
    """Raises PipelineError where the checkpoint's tokenizer did not make this dataset."""
    was, now = content.get("tokenizer", {}).get("fingerprint"), description["tokenizer"].get("fingerprint")
    if was != now:
        raise PipelineError(
            f"{origin} was trained with another tokenizer: {_pair(was, now)}; every id would mean another word; "
            "choose the dataset that its tokenizer made"
        )


def setting_changes(
    old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str, Any, Any]]:
    """Section, key, earlier and present value of every setting that differs; keys that one side lacks are left out."""
    return [
        (section, key, old[section][key], value)
        for section, values in new.items()
        for key, value in values.items()
        if key in old.get(section, {}) and old[section][key] != value
    ]


def _pair(was: Any, now: Any) -> str:
    def short(value: Any) -> str:
        return value[:12] if isinstance(value, str) and len(value) > 40 else str(value)

    return f"{short(was)} there, {short(now)} here"
