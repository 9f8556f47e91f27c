"""Token dataset → batches of token ids for training and validation.

    train_loader, val_loader, info = create_simple_train_val_dataloaders(batch_size=64, test_mode=True, device="cpu")
    for batch in train_loader:      # one epoch of (B, T) ids, already on the device

Training tokens lie on the device a part (by default a fourth) at a time, and the next part is loaded while the model
works on this one. Validation windows stay in main memory, pinned where there is a GPU.
"""

from typing import Any

import torch

from pipeline.configuration import load_config
from pipeline.dataloading.dataset_check import BackgroundCheck
from pipeline.dataloading.loaders import FourthLoader, ValidationLoader, _check_arguments
from pipeline.dataloading.prepared_window import with_prepared_window
from pipeline.dataloading.split import split_windows
from pipeline.formats.token_dataset import TokenDataset
from pipeline.preparation.config import DatasetConfig
from utils.devices import World, current_world, resolve_device
from utils.terminal import format_bytes


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
    order_seed: int = 0,
    val_tokens: int | None = None,
    batches_per_step: int = 1,
    num_parts: int | None = None,
    world: World | None = None,
    vocab_size: int | None = None,
) -> tuple[FourthLoader, ValidationLoader, dict[str, Any]]:
    """Loaders of bare ``(B, T)`` id tensors, and `info` about them.

    Args:
        val_split: share of the stream held out (`config`'s where None); `seed` draws it.
        test_mode: the small dataset that the preparation's ``--test`` makes.
        dataset_source: ``wikipedia``, ``fineweb`` or ``custom`` (`config`'s where None).
        device: where the training tokens lie (None: the configured device).
        order_seed: draws the order of the training windows; the validation windows do not depend on it.
        val_tokens: validation tokens at most.
        num_parts: exactly so many parts, as a resumed run had; None: as many as fit in the device's memory.
        vocab_size: the model's; ids that it does not have are refused (None: the dataset's own).

    The files' sha256 are verified in the background; the validation loader waits for that, so no result is reported
    on damaged data.

    Returns:
        The two loaders; ``train_size`` and ``val_size`` (windows), ``train_device``, ``val_device``, ``dataset``.

    Raises:
        PipelineError: an argument is out of range; the dataset is not complete, damaged or too small.
    """
    _check_arguments(batch_size, val_split, seed, dataset_source)
    whole = load_config() if config is None or device is None else None
    config = config or with_prepared_window(whole, test=test_mode, source=dataset_source).dataset
    device = device if isinstance(device, torch.device) else resolve_device(device or whole.training.device)
    dataset = open_dataset(config, test=test_mode, source=dataset_source, vocab_size=vocab_size)
    split = split_windows(
        dataset,
        val_split=config.val_split if val_split is None else val_split,
        seed=config.seed if seed is None else seed,
    )
    check = BackgroundCheck(dataset) if (world or current_world()).local_rank == 0 else None
    train = FourthLoader(
        dataset,
        split,
        batch_size=batch_size,
        seed=order_seed,
        device=device,
        shuffle=shuffle_train,
        num_parts=config.parts,
        batches_per_step=batches_per_step,
        world=world,
        check=check,
    )
    if num_parts is not None:
        train.use_parts(num_parts)
    pin = device.type == "cuda"
    val = ValidationLoader(
        dataset, split, batch_size=batch_size, max_tokens=val_tokens, pin=pin, world=world, check=check
    )
    info = {
        "train_size": split.train_size,
        "val_size": val.num_windows,
        "train_device": str(device),
        "val_device": "cpu (pinned)" if pin else "cpu",
        "num_parts": train.num_parts,
        "dataset": dataset,
    }
    if verbose:
        print(_summary(info, train))
    return train, val, info


def open_dataset(
    config: DatasetConfig, *, test: bool, source: str | None = None, vocab_size: int | None = None
) -> TokenDataset:
    """The configured token dataset with the configured window. An error names the command that makes it."""
    source = source or config.source
    stage = "fineweb" if source == "fineweb" else "prepare"
    command = f"python3 main.py {stage}{' --test' if test and source != 'custom' else ''}"
    directory = config.directory(test=test, source=source)
    return TokenDataset.open(
        directory, window=config.window, stride=config.stride, vocab_size=vocab_size, command=command
    )


def _summary(info: dict[str, Any], train: FourthLoader) -> str:
    dataset = info["dataset"]
    note = "; its metadata.json is another tool's and is not used" if dataset.is_foreign else ""
    tokens = f"{dataset.num_tokens:,} tokens ({format_bytes(2 * dataset.num_tokens)})"
    parts = "one part" if train.num_parts == 1 else f"{train.num_parts} parts"
    return (
        f"{dataset.directory.name}: {tokens}, windows of {dataset.window}; "
        f"{info['train_size']:,} to train on {info['train_device']} in {parts}, "
        f"{info['val_size']:,} to validate on {info['val_device']}{note}"
    )
