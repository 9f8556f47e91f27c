"""Token dataset → batches of token ids for training and validation.

    train_loader, val_loader, info = create_simple_train_val_dataloaders(batch_size=64, test_mode=True, device="cpu")
    for batch in train_loader:      # one epoch of (B, T) ids, already on the device

Training tokens are kept on the device one part (by default a quarter) at a time, and the next part is loaded while the
model trains on the current one. Validation windows stay in main memory, page-locked if there is a GPU.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.configuration import load_config
from pipeline.dataloading.dataset_check import BackgroundCheck
from pipeline.dataloading.loaders import LoaderOptions, TrainingLoader, ValidationLoader
from pipeline.dataloading.split import split_windows
from pipeline.dataloading.window_size import with_prepared_window
from pipeline.formats.token_dataset import TokenDataset
from pipeline.preparation.config import DatasetConfig
from pipeline.training.config import TrainingConfig
from utils.devices import current_world, resolve_device
from utils.options import read_section
from utils.terminal import format_bytes, say


@dataclass(frozen=True)
class Loaders:
    """The loaders of one dataset."""

    dataset: TokenDataset
    train: TrainingLoader
    validation: ValidationLoader

    def info(self) -> dict[str, Any]:
        """``train_size`` and ``val_size`` (windows), ``train_device``, ``val_device``, ``num_parts``, ``dataset``."""
        return {
            "train_size": self.train.split.train_size,
            "val_size": self.validation.num_windows,
            "train_device": str(self.train.device),
            "val_device": "cpu (pinned)" if self.validation.pin else "cpu",
            "num_parts": self.train.num_parts,
            "dataset": self.dataset,
        }

    def summary(self) -> str:
        dataset = self.dataset
        info = self.info()
        tokens = f"{dataset.num_tokens:,} tokens ({format_bytes(2 * dataset.num_tokens)})"
        parts = "one part" if self.train.num_parts == 1 else f"{self.train.num_parts} parts"
        note = "; its metadata.json is from another tool and is ignored" if dataset.is_foreign else ""
        return (
            f"{dataset.directory.name}: {tokens}, windows of {dataset.window}; "
            f"{info['train_size']:,} to train on {info['train_device']} in {parts}, "
            f"{info['val_size']:,} to validate on {info['val_device']}{note}"
        )


def create_simple_train_val_dataloaders(
    batch_size: int = 32,
    val_split: float | None = None,
    shuffle_train: bool = True,
    test_mode: bool = False,
    verbose: bool = False,
    seed: int | None = None,
    dataset_source: str | None = None,
    device: str | torch.device | None = None,
    *,
    config: DatasetConfig | None = None,
    vocab_size: int | None = None,
) -> tuple[TrainingLoader, ValidationLoader, dict[str, Any]]:
    """Loaders that yield plain ``(B, T)`` id tensors, and `info` about them.

    Args:
        val_split: share of the stream held out, chosen with `seed` (None: from `config`).
        test_mode: use the small dataset that ``--test`` of the preparation stages creates.
        dataset_source: ``wikipedia``, ``fineweb`` or ``custom`` (None: from `config`).
        device: where to keep the training tokens (None: the configured device).
        config: None: `config.json`, with the window that the dataset was prepared with.
        vocab_size: the model's; larger ids are an error (None: the dataset's own).

    Returns:
        The two loaders; ``train_size`` and ``val_size`` (windows), ``train_device``, ``val_device``, ``dataset``.

    Raises:
        PipelineError: an argument is out of range, or the dataset is incomplete, damaged or too small.
    """
    _check_arguments(batch_size, {"source": dataset_source, "val_split": val_split, "seed": seed})
    if config is None:
        config = with_prepared_window(load_config(), test=test_mode, source=dataset_source).dataset
    if not isinstance(device, torch.device):
        device = resolve_device(device or load_config().training.device)
    config = replace(
        config,
        source=dataset_source or config.source,
        val_split=config.val_split if val_split is None else val_split,
        seed=config.seed if seed is None else seed,
    )
    dataset = open_dataset(config, test=test_mode, vocab_size=vocab_size)
    options = LoaderOptions(batch_size=batch_size, shuffle=shuffle_train, min_parts=config.parts)
    loaders = open_loaders(dataset, config, options, device)
    if verbose:
        say(loaders.summary())
    return loaders.train, loaders.validation, loaders.info()


def open_loaders(dataset: TokenDataset, config: DatasetConfig, options: LoaderOptions, device: torch.device) -> Loaders:
    """The loaders of `dataset`, split according to `config`.

        File hashes are verified in the background. The validation loader waits for that, so no result is ever reported
    on damaged data.

        Raises:
            PipelineError: the dataset is too small.
    """
    split = split_windows(dataset, val_split=config.val_split, seed=config.seed)
    world = options.world or current_world()
    check = BackgroundCheck(dataset) if world.local_rank == 0 else None
    train = TrainingLoader(dataset, split, options, device=device, check=check)
    validation = ValidationLoader(dataset, split, options, pin=device.type == "cuda", check=check)
    return Loaders(dataset, train, validation)


def open_dataset(
    config: DatasetConfig, *, test: bool, source: str | None = None, vocab_size: int | None = None
) -> TokenDataset:
    """The configured token dataset with the configured window.

    Raises:
        PipelineError: it is incomplete or damaged; the message names the command that creates it.
    """
    source = source or config.source
    stage = "fineweb" if source == "fineweb" else "prepare"
    option = " --test" if test and source != "custom" else ""
    return TokenDataset.open(
        config.directory(test=test, source=source),
        window=config.window,
        stride=config.stride,
        vocab_size=vocab_size,
        command=f"python3 main.py {stage}{option}",
    )


def _check_arguments(batch_size: int, dataset: dict[str, object]) -> None:
    """Check the arguments against the bounds of the configuration keys that they override; None overrides nothing."""
    origin = "create_simple_train_val_dataloaders"
    given = {key: value for key, value in dataset.items() if value is not None}
    read_section(DatasetConfig, given, name="dataset", origin=origin, base=Path.cwd())
    read_section(TrainingConfig, {"batch_size": batch_size}, name="training", origin=origin, base=Path.cwd())
