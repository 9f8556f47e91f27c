"""Pretraining: token dataset → model checkpoints.

python3 train.py --test --device cpu --name first     # one epoch over the test dataset
python3 train.py --resume latest                      # goes on exactly where the newest run stood
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dataloader import FourthLoader, ValidationLoader, create_simple_train_val_dataloaders
from model import TransformerLM, create_model
from utils.checkpoint import find_checkpoint, new_run_folder, read_checkpoint
from utils.cli import EXIT_OK, load_config_from, run, stage_parser
from utils.config import load_config
from utils.config_sections import Config
from utils.devices import choose_dtype, current_world, describe_device, peak_flops, resolve_device
from utils.distributed import from_main, process_group
from utils.errors import PipelineError
from utils.logging_utils import DualLogger
from utils.step_timing import seconds_per_step
from utils.terminal import format_count, format_seconds
from utils.token_store import TokenDataset
from utils.trainer import RunInfo, Trainer
from utils.training_state import refuse_other_run, setting_changes, versions


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    origin, content = _checkpoint_to_resume(args)
    config = _config_of(args, content)
    device = resolve_device(config.training.device)
    with process_group(device):
        trainer = build_trainer(config, args, device, origin=origin, content=content)
        best = trainer.fit()
    if trainer.world.is_main:
        _report(trainer, best)
    return EXIT_OK


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--test", action="store_true", help="one epoch over the test dataset")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="go on with a run: a file, a run's folder, or: latest")
    parser.add_argument("--name", help="a name for the run, shown in lists and in the logs")
    parser.add_argument("--device", choices=("cuda", "cpu", "mps"), help="overrides training.device")
    return parser.parse_args(argv)


def build_trainer(
    config: Config,
    args: argparse.Namespace,
    device: torch.device,
    *,
    origin: Path | None = None,
    content: Mapping[str, Any] | None = None,
) -> Trainer:
    """Data, model and trainer for a new run, or for the one that `content` was saved by."""
    test = content["data"]["test"] if content else args.test
    train_loader, val_loader, dataset = _load_data(config, device, test=test)
    torch.manual_seed(config.training.seed)
    model = create_model(config).to(device)
    dtype = choose_dtype(config.training.dtype, device)
    model.model.compute_dtype = None if dtype is torch.float32 else dtype
    description = _description(config, dataset, device, test=test, name=content["name"] if content else args.name)
    if content:
        refuse_other_run(content, description, origin=str(origin))
    trainer = _trainer(config, device, model, (train_loader, val_loader), dataset, description, origin, content)
    if content:
        trainer.resume(content)
        _tell_changes(content, description, trainer)
    elif args.test and trainer.world.is_main:
        _tell_expected_time(trainer)
    return trainer


def _checkpoint_to_resume(args: argparse.Namespace) -> tuple[Path | None, dict[str, Any] | None]:
    if not args.resume:
        return None, None
    path = find_checkpoint(args.resume, load_config_from(args).paths.checkpoint_dir, prefix="run_")
    content = read_checkpoint(path)
    if "loader" not in content:
        raise PipelineError(f"{path} holds weights only, no training state; name a checkpoint that training wrote")
    return path, content


def _config_of(args: argparse.Namespace, content: Mapping[str, Any] | None) -> Config:
    """A resumed run keeps its own configuration; a file, ``--set`` and flags are laid over it."""
    flags = {"training.device": args.device} if args.device else {}
    flags |= {"training.num_epochs": 1} if args.test else {}
    return load_config(args.config, settings=args.settings, flags=flags, base=content["config"] if content else None)


def _load_data(
    config: Config, device: torch.device, *, test: bool
) -> tuple[FourthLoader, ValidationLoader, TokenDataset]:
    train_loader, val_loader, info = create_simple_train_val_dataloaders(
        batch_size=config.training.batch_size,
        test_mode=test,
        verbose=current_world().is_main,
        device=device,
        config=config.dataset,
        order_seed=config.training.seed,
        val_tokens=config.training.val_tokens,
        batches_per_step=config.training.gradient_accumulation_steps,
    )
    dataset = info["dataset"]
    found = dataset.metadata.get("vocab_size", config.model.vocab_size)
    if found != config.model.vocab_size:
        raise PipelineError(
            f"token dataset {dataset.directory} was made with a vocabulary of {found}, model.vocab_size is "
            f"{config.model.vocab_size}; choose another dataset, or: --set model.vocab_size={found}"
        )
    return train_loader, val_loader, dataset


def _description(
    config: Config, dataset: TokenDataset, device: torch.device, *, test: bool, name: str | None
) -> dict[str, Any]:
    """What every checkpoint of the run says about it."""
    return {
        "config": config.to_dict(),
        "tokenizer": {**dataset.metadata.get("tokenizer", {}), "vocab_size": config.model.vocab_size},
        "data": {"fingerprint": dataset.fingerprint, "test": test, "directory": str(dataset.directory)},
        "versions": versions(device),
        "name": name,
    }


def _trainer(
    config: Config,
    device: torch.device,
    model: TransformerLM,
    loaders: tuple[FourthLoader, ValidationLoader],
    dataset: TokenDataset,
    description: Mapping[str, Any],
    origin: Path | None,
    content: Mapping[str, Any] | None,
) -> Trainer:
    is_main = current_world().is_main
    folder = origin.parent if origin else from_main(new_run_folder(config.paths.checkpoint_dir) if is_main else None)
    name = description["name"]
    logger = DualLogger(
        config.paths.log_dir,
        f"{folder.name}_{name}" if name else folder.name,
        hyperparameters=description["config"],
        resume_step=content["step"] if content else None,
        enabled=is_main,
    )
    lengths = dataset.metadata.get("token_byte_lengths")
    return Trainer(
        model,
        *loaders,
        config=config.training,
        device=device,
        run=RunInfo(folder, description, peak_flops=peak_flops(device)),
        logger=logger,
        token_bytes=None if lengths is None else torch.tensor(lengths),
    )


def _tell_changes(content: Mapping[str, Any], description: Mapping[str, Any], trainer: Trainer) -> None:
    if not trainer.world.is_main:
        return
    print(f"resuming {trainer.run.folder} at step {trainer.step} of {trainer.total_steps}")
    for section, key, was, now in setting_changes(content["config"], description["config"]):
        print(f"  {section}.{key}: {was} → {now}")


def _tell_expected_time(trainer: Trainer) -> None:
    seconds = seconds_per_step(trainer) * trainer.total_steps
    tokens = trainer.total_steps * trainer.tokens_per_step
    work = f"{trainer.total_steps} steps, {format_count(tokens)} tokens"
    print(f"one epoch: {work}, about {format_seconds(seconds)} on {describe_device(trainer.device)}", flush=True)


def _report(trainer: Trainer, best: Mapping[str, float]) -> None:
    work = f"{trainer.step} steps, {format_count(trainer.tokens_seen)} tokens"
    print(f"done: {work}; best validation loss {best['loss']:.4f}")
    print(f"checkpoints: {trainer.run.folder}\nmetrics: {trainer.logger.path}")
    print(f"next: python3 main.py inference --checkpoint {trainer.run.folder / 'checkpoint_best.pt'}")


if __name__ == "__main__":
    run(main)
