"""Puts a pretraining run together: data, model, trainer, logs, and what people look at meanwhile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dataloader import open_dataset, open_loaders
from model import create_model
from pipeline.configuration import Config
from pipeline.dataloading.loaders import LoaderOptions, TrainingLoader, ValidationLoader
from pipeline.formats.checkpoint import run_folder_of, versions
from pipeline.formats.run_folders import new_run_folder
from pipeline.formats.token_dataset import TokenDataset
from pipeline.generation.settings import GenerationSettings
from pipeline.modeling.flops import training_flops_per_token
from pipeline.training.curves import LossCurve
from pipeline.training.distributed import from_main
from pipeline.training.prepare_model import prepare_for_training
from pipeline.training.samples import SampleWriter
from pipeline.training.starting_point import StartingPoint
from pipeline.training.trainer import Callback, RunInfo, Trainer
from utils.devices import current_world, describe_device, peak_flops
from utils.errors import PipelineError
from utils.logging_utils import DualLogger
from utils.terminal import format_count


def build_trainer(config: Config, device: torch.device, start: StartingPoint, *, writes: bool = True) -> Trainer:
    """A trainer that is ready to fit; with `writes` False it leaves nothing on disk and logs nothing."""
    train_loader, val_loader, dataset = load_data(config, device, test=start.test, num_parts=start.num_parts)
    description = describe_run(config, dataset, device, start)
    start.refuse_misfit(description)
    torch.manual_seed(config.training.seed)
    model = create_model(config).to(device)
    chosen = prepare_for_training(model, config.training, device)
    start.place(model, train_loader)
    is_main = current_world().is_main
    if is_main:
        print(f"{format_count(model.num_parameters())} parameters on {describe_device(device)}: {chosen}")
        for line in (*start.notes, *start.changes(description)):
            print(line)
    folder = run_folder(config, start, writes=writes)
    trainer = Trainer(
        model,
        train_loader,
        val_loader,
        config=config.training,
        device=device,
        run=RunInfo(
            folder,
            description,
            flops_per_token=training_flops_per_token(config.model, dataset.window),
            peak_flops=peak_flops(device),
        ),
        logger=run_logger(config, folder, start, enabled=is_main and writes),
        token_bytes=token_bytes(dataset),
        document_start=document_start(config, dataset),
        callbacks=callbacks(config, description) if is_main and writes else (),
    )
    start.apply(trainer)
    if start.resumes and is_main:
        print(f"resuming {folder} at step {trainer.step} of {trainer.total_steps}")
    return trainer


def load_data(
    config: Config, device: torch.device, *, test: bool, num_parts: int | None = None
) -> tuple[TrainingLoader, ValidationLoader, TokenDataset]:
    dataset = open_dataset(config.dataset, test=test, vocab_size=config.model.vocab_size)
    options = LoaderOptions(
        batch_size=config.training.batch_size,
        batches_per_step=config.training.gradient_accumulation_steps,
        order_seed=config.training.seed,
        min_parts=config.dataset.parts,
        num_parts=num_parts,
        val_tokens=config.training.val_tokens,
    )
    loaders = open_loaders(dataset, config.dataset, options, device)
    if current_world().is_main:
        print(loaders.summary())
    found = dataset.metadata.get("vocab_size", config.model.vocab_size)
    if found != config.model.vocab_size:
        raise PipelineError(
            f"token dataset {dataset.directory} was made with a vocabulary of {found}, model.vocab_size is "
            f"{config.model.vocab_size}; choose another dataset, or: --set model.vocab_size={found}"
        )
    return loaders.train, loaders.validation, dataset


def describe_run(config: Config, dataset: TokenDataset, device: torch.device, start: StartingPoint) -> dict[str, Any]:
    """What every checkpoint of the run says about it."""
    return {
        "config": config.to_dict(),
        "tokenizer": {**dataset.metadata.get("tokenizer", {}), "vocab_size": config.model.vocab_size},
        "data": {"fingerprint": dataset.fingerprint, "test": start.test, "directory": str(dataset.directory)},
        "versions": versions(device),
        "name": start.name,
        "init_from": str(start.path) if start.path and not start.resumes else start.content.get("init_from"),
    }


def run_folder(config: Config, start: StartingPoint, *, writes: bool) -> Path:
    """The resumed run's folder, or a new one; the processes agree on it."""
    if start.resumes:
        return run_folder_of(start.path)
    if not writes:
        return config.paths.checkpoint_dir / "dry_run"  # is never made
    return from_main(new_run_folder(config.paths.checkpoint_dir) if current_world().is_main else None)


def run_logger(config: Config, folder: Path, start: StartingPoint, *, enabled: bool) -> DualLogger:
    return DualLogger(
        config.paths.log_dir,
        f"{folder.name}_{start.name}" if start.name else folder.name,
        hyperparameters=config.to_dict(),
        resume=start.log_place,
        enabled=enabled,
    )


def token_bytes(dataset: TokenDataset) -> torch.Tensor | None:
    """The byte length of every token id; None for datasets of older tools, which do not say."""
    lengths = dataset.metadata.get("token_byte_lengths")
    return None if lengths is None else torch.tensor(lengths)


def document_start(config: Config, dataset: TokenDataset) -> int | None:
    """The id that begins a document, where documents are to be kept apart."""
    return dataset.metadata.get("tokenizer", {}).get("bos_id", 1) if config.dataset.isolate_documents else None


def callbacks(config: Config, description: Mapping[str, Any]) -> list[Callback]:
    """Samples and the loss curve; what cannot be made here is said."""
    found: list[Callback] = []
    try:
        import matplotlib  # noqa: F401

        found.append(LossCurve())
    except ImportError:
        print("no loss_curve.png: the package matplotlib is not installed")
    if config.training.sample_prompts:
        found += _sample_writer(config, description)
    return found


def _sample_writer(config: Config, description: Mapping[str, Any]) -> list[Callback]:
    directory = config.paths.tokenizer_dir
    try:
        from tokenizer import load_tokenizer

        tokenizer = load_tokenizer(directory)
    except (ImportError, PipelineError) as error:
        print(f"no samples: {str(error).partition(';')[0]}; name its folder: --set paths.tokenizer_dir=DIR")
        return []
    if tokenizer.fingerprint != description["tokenizer"].get("fingerprint"):
        print(
            f"no samples: the tokenizer in {directory} is not the one that made the dataset; name that one's folder: "
            "--set paths.tokenizer_dir=DIR"
        )
        return []
    settings = GenerationSettings.from_config(
        config.generation, max_length=config.training.sample_tokens, seed=config.training.seed
    )
    return [SampleWriter(tokenizer, config.training.sample_prompts, settings)]
