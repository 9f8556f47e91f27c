"""Checkpoints on disk: written whole or not at all, read without running code.

    path = find_checkpoint("latest", config.paths.checkpoint_dir)
    content = read_checkpoint(path)                          # {"model": …, "config": …, "step": …, …}

A run's folder is ``run_YYYY_MM_DD_HH_MM[_n]`` (``sft_lima_…`` for fine-tuned ones) and holds checkpoint_latest.pt,
checkpoint_best.pt and checkpoint_step_N.pt. Files that older tools left flat in the checkpoint folder are found too.
"""

import contextlib
import random
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from pipeline.formats.run_folders import _PATTERN
from pipeline.formats.zip_checksums import zip_damage
from utils.errors import PipelineError
from utils.files import make_folder, remove_stale_temporaries, whole_file
from utils.locks import only_run
from utils.terminal import format_bytes

LOCK_SECONDS = 5.0  # the processes of a killed run may outlive it by a moment
_COMPILED_PREFIX = "_orig_mod."  # torch.compile puts it before every name of the module it wraps


def read_checkpoint(
    path: str | Path, map_location: str | torch.device = "cpu", *, verify: bool = True
) -> dict[str, Any]:
    """A checkpoint's content; names of weights lose the prefix that torch.compile adds.

    Read with ``weights_only=True``, so that a file from elsewhere cannot run code, and mapped into memory, so that
    parts nobody uses (the optimizer's state, for inference) cost nothing.

    Args:
        verify: read the whole file and compare it with its checksums; False for lists that only show a name.

    Raises:
        PipelineError: no such file, not a checkpoint, or one that is damaged or was cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise PipelineError(f"checkpoint {path} does not exist; pass a checkpoint file, a run's folder, or latest")
    if not zipfile.is_zipfile(path):
        raise PipelineError(
            f"{path} is not a PyTorch checkpoint, or it is truncated; choose a different one, or latest; if "
            f"another program wrote it, {import_command(path)}"
        )
    if verify:
        _refuse_damaged(path)
    try:
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … for the same trouble
        reason = str(error).strip().partition("\n")[0]
        if reason.startswith("Weights only load failed"):  # torch's own text explains how to run the code
            reason = (
                "it contains more than tensors and plain values, so loading it could execute code; if another program "
                f"wrote it, {import_command(path)}"
            )
        raise PipelineError(f"checkpoint {path} cannot be read: {reason}; choose a different one, or latest") from None
    if not _is_ours(content):
        found = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise PipelineError(
            f"{path} is not a checkpoint from this pipeline (expected 'model' and sections in 'config'; found: "
            f"{found}); {import_command(path)}"
        )
    content["model"] = strip_compiled_prefix(content["model"])
    return content


_sound_files: set[tuple[str, int, int, int]] = set()  # files that this process has already verified


def _refuse_damaged(path: Path) -> None:
    """Raise PipelineError if a bit of the file is not as it was written."""
    status = path.stat()
    identity = (str(path.resolve()), status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _sound_files:
        return
    damage = zip_damage(path)
    if damage:
        raise PipelineError(
            f"checkpoint {path} is damaged: {damage}; restore it from a backup, or use a different checkpoint "
            f"from {path.parent}"
        )
    _sound_files.add(identity)


def _is_ours(content: object) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("model"), Mapping):
        return False
    config = content.get("config", {})
    return isinstance(config, Mapping) and all(isinstance(section, Mapping) for section in config.values())


def import_command(path: Path) -> str:
    return f"import it: python3 main.py export --import-checkpoint {path}"


def refuse_without_config(content: Mapping[str, Any], path: Path) -> None:
    """Raise PipelineError if a checkpoint does not record its architecture."""
    if "config" not in content:
        raise PipelineError(
            f"checkpoint {path} contains no configuration, so its architecture is unknown; {import_command(path)} "
            "--model-config JSON"
        )


def strip_compiled_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` without the ``_orig_mod.`` that a compiled module's names carry, wherever in the name it is."""
    return {name.replace(_COMPILED_PREFIX, ""): value for name, value in state.items()}


def write_checkpoint(path: Path, content: Mapping[str, Any], *, other_names: Sequence[str] = ()) -> None:
    """Write `content` as a whole file: a reader sees the old checkpoint or the new one.

    The file gets its `other_names` (in the same folder) first and `path` last. If a process is killed in
    between, `path` is still the older state, so a run resumed from it writes them again.

    Raises:
        PipelineError: the disk has no room for it; an earlier checkpoint of that name stays as it is.
    """
    make_folder(path.parent)
    # A file is a little larger than its tensors; the next one of its name will be about as large.
    check_free_disk(path.parent, max(tensor_bytes(content), path.stat().st_size if path.exists() else 0))
    try:
        with whole_file(path, other_names=other_names) as file:
            torch.save(dict(content), file)
    except (OSError, RuntimeError) as error:
        # torch's writer reports a full disk as a RuntimeError about positions in the file
        full = "only part of it was written, so the disk may be full"
        reason = (error.strerror or error) if isinstance(error, OSError) else full
        free = format_bytes(shutil.disk_usage(path.parent).free)
        raise PipelineError(
            f"checkpoint {path} cannot be written: {reason} ({free} free); the previous checkpoint is intact; "
            "free some space, or pass --set paths.checkpoint_dir=DIR"
        ) from error


def tensor_bytes(content: Any) -> int:
    """Bytes of all tensors in nested dicts and lists, each storage once (tied weights are saved once)."""
    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, Mapping):
            visit_all(value.values())
        elif isinstance(value, (list, tuple)):
            visit_all(value)

    def visit_all(values: Iterable[Any]) -> None:
        for value in values:
            visit(value)

    visit(content)
    return sum(storages.values())


def check_free_disk(directory: Path, needed: int) -> None:
    """Raise PipelineError if `directory`'s disk does not have `needed` bytes, and a twentieth more, free."""
    free = shutil.disk_usage(directory).free
    if free < needed * 1.05:
        found = f"{format_bytes(free)} free, but a checkpoint takes {format_bytes(needed)}"
        raise PipelineError(
            f"not enough disk space in {directory}: {found}; free some space, or pass --set paths.checkpoint_dir=DIR"
        )


def run_folder_of(path: Path) -> Path:
    """The folder of the run that a checkpoint file belongs to: the one it is in, wherever that is."""
    return path.absolute().parent.resolve()


@contextlib.contextmanager
def only_training_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder against other runs, and remove files that a killed one left half-written.

    Raises:
        PipelineError: another run writes to it.
    """
    refusal = f"{folder} is in use by another training run; wait for it to finish, or stop it"
    with only_run(folder, refusal, patience=LOCK_SECONDS):
        remove_stale_temporaries(folder, _PATTERN, "*.png", "*.json")
        yield


def rng_state(device: torch.device) -> dict[str, Any]:
    """Every random generator of this process, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss),
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
    """Load the moments from `state`; rates, decay and the like stay as configured now."""
    configured = [
        {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(dict(state))
    for group, options in zip(optimizer.param_groups, configured, strict=True):
        group.update(options)
