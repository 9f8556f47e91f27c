"""Set up a pretraining run: data, model, trainer, log and callbacks.

with ExitStack() as held:
    trainer = set_up(args, held)
    trainer.fit()
"""

from argparse import Namespace
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from dataloader import open_dataset, open_loaders
from model import TransformerLM, create_model, load_weights
from pipeline.configuration import Config
from pipeline.dataloading.loaders import LoaderOptions
from pipeline.formats.checkpoint import only_training_run, run_folder_of
from pipeline.formats.logged_metrics import compared_settings
from pipeline.formats.run_folders import new_run_folder, removed_if_unused
from pipeline.formats.run_names import log_name
from pipeline.formats.token_dataset import TokenDataset
from pipeline.generation.settings import GenerationSettings
from pipeline.modeling.flops import training_flops_per_token
from pipeline.training.callbacks import Callback
from pipeline.training.curves import LossCurve
from pipeline.training.distributed import from_main, process_group
from pipeline.training.prepare_model import prepare_for_training
from pipeline.training.run_info import RunInfo, versions
from pipeline.training.samples import SampleWriter
from pipeline.training.starting_point import Start, choose_start
from pipeline.training.tracker import Link, link_to_tracker, require_tracker, start_tracker
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import TrainingData
from utils.devices import current_world, describe_device, peak_flops, resolve_device
from utils.errors import PipelineError
from utils.logging_utils import DualLogger
from utils.packages import is_installed
from utils.terminal import format_count, say


def set_up(args: Namespace, held: ExitStack) -> Trainer:
    """A trainer for the arguments of ``train.py``, ready to fit. With ``--dry-run`` it writes nothing.

    Args:
        held: keeps the process group and the lock on the run's folder open.
    """
    writes = not args.dry_run
    locks = writes and current_world().is_main
    start = choose_start(args, held if locks else None)
    device = resolve_device(start.config.training.device)
    held.enter_context(process_group(device))
    trainer = build_trainer(start, device, writes=writes)
    held.enter_context(trainer.logger)
    if locks and not start.resumes:
        held.enter_context(only_training_run(trainer.run.folder))
    return trainer


def build_trainer(start: Start, device: torch.device, *, writes: bool = True) -> Trainer:
    """Data, model and trainer. All checks happen before the run's folder and log are touched."""
    config = start.config
    is_main = current_world().is_main
    require_tracker(config.training.tracker)
    data, dataset = load_data(start, device)
    description = describe_run(start, dataset, device)
    start.refuse_misfit(description)
    model, execution = build_model(start, device)
    if start.resumes:
        data.training.load_state_dict(start.content["loader"])
    if is_main:
        parameters = format_count(model.num_parameters())
        say(f"{parameters} parameters on {describe_device(device)}: {execution}", *start.notes)
    folder = run_folder(start, writes=writes)
    with removed_if_unused(folder) if is_main else nullcontext():
        link = link_to_tracker(
            config.training, run_name=log_name(folder, start.name), earlier=start.content if start.resumes else {}
        )
        run = RunInfo(
            folder,
            {**description, "tracker": link},
            flops_per_token=training_flops_per_token(config.model, dataset.window),
            peak_flops=peak_flops(device),
        )
        trainer = Trainer(
            model,
            data,
            config=config.training,
            device=device,
            run=run,
            logger=run_logger(start, folder, link, enabled=is_main and writes),
            callbacks=callbacks(config, run) if is_main and writes else (),
        )
    if start.resumes:
        trainer.resume(start.content)
        if is_main:
            say(f"resuming {run.folder} at step {trainer.step} of {trainer.total_steps}")
    return trainer


def build_model(start: Start, device: torch.device) -> tuple[TransformerLM, str]:
    """The model with its initial weights (a resumed run's are loaded later), and a description of how it will run."""
    torch.manual_seed(start.config.training.seed)
    model = create_model(start.config).to(device)
    execution = prepare_for_training(model, start.config.training, device)
    if start.checkpoint and not start.resumes:
        load_weights(model, start.content["model"], origin=str(start.checkpoint))
    return model, execution


def load_data(start: Start, device: torch.device, *, quiet: bool = False) -> tuple[TrainingData, TokenDataset]:
    config = start.config
    dataset = open_dataset(config.dataset, test=start.test, vocab_size=config.model.vocab_size)
    options = LoaderOptions(
        batch_size=config.training.batch_size,
        batches_per_step=config.training.gradient_accumulation_steps,
        order_seed=config.training.seed,
        min_parts=config.dataset.parts,
        num_parts=start.num_parts,
        val_tokens=config.training.val_tokens,
    )
    loaders = open_loaders(dataset, config.dataset, options, device)
    if current_world().is_main and not quiet:
        say(loaders.summary())
    found = dataset.metadata.get("vocab_size", config.model.vocab_size)
    if found != config.model.vocab_size:
        raise PipelineError(
            f"token dataset {dataset.directory} has a vocabulary of {found} tokens, but model.vocab_size is "
            f"{config.model.vocab_size}; use a different dataset, or pass --set model.vocab_size={found}"
        )
    data = TrainingData(
        loaders.train,
        loaders.validation,
        config.model.vocab_size,
        token_bytes=token_bytes(dataset),
        document_start=document_start(dataset) if config.dataset.isolate_documents else None,
    )
    return data, dataset


def token_bytes(dataset: TokenDataset) -> torch.Tensor | None:
    """The byte length of every token id; None for datasets from older tools, which do not record it."""
    lengths = dataset.metadata.get("token_byte_lengths")
    return None if lengths is None else torch.tensor(lengths)


def document_start(dataset: TokenDataset) -> int:
    """The token id at the start of a document.

    Raises:
        PipelineError: the dataset does not record it.
    """
    bos_id: int | None = dataset.metadata.get("tokenizer", {}).get("bos_id")
    if bos_id is None:
        raise PipelineError(
            f"dataset.isolate_documents: token dataset {dataset.directory} does not record which token starts a "
            "document (expected tokenizer.bos_id in its metadata.json); prepare it again with python3 main.py "
            "prepare, or pass --set dataset.isolate_documents=false"
        )
    return bos_id


def describe_run(start: Start, dataset: TokenDataset, device: torch.device) -> dict[str, Any]:
    """The description of the run that is stored in every checkpoint."""
    return {
        "config": start.config.to_dict(),
        "tokenizer": {**dataset.metadata.get("tokenizer", {}), "vocab_size": start.config.model.vocab_size},
        "data": {"fingerprint": dataset.fingerprint, "test": start.test, "directory": str(dataset.directory)},
        "versions": versions(device),
        "name": start.name,
        "init_from": start.init_from,
    }


def run_folder(start: Start, *, writes: bool) -> Path:
    """The folder of the resumed run or a new one, the same in all processes."""
    if start.checkpoint and start.resumes:
        return run_folder_of(start.checkpoint)
    checkpoint_dir = start.config.paths.checkpoint_dir
    if not writes:
        return checkpoint_dir / "dry_run"  # never created
    return from_main(new_run_folder(checkpoint_dir) if current_world().is_main else checkpoint_dir)


def run_logger(start: Start, folder: Path, link: Link | None, *, enabled: bool) -> DualLogger:
    config, log_dir = start.config.to_dict(), start.config.paths.log_dir
    return DualLogger(
        log_dir,
        log_name(folder, start.name),
        hyperparameters=config,
        hparams=compared_settings(config, "model", "dataset", "training"),
        resume=start.log_position,
        tracker=start_tracker(link, config=config, directory=log_dir) if link and enabled else None,
        enabled=enabled,
    )


def callbacks(config: Config, run: RunInfo) -> list[Callback]:
    """Callbacks for the loss curve and the samples. Prints which of them are unavailable, and why."""
    found: list[Callback] = []
    if is_installed("matplotlib"):
        found.append(LossCurve(run.folder))
    else:
        say("no loss_curve.png: the package matplotlib is not installed")
    if config.training.sample_prompts:
        found += sample_writers(config, run)
    return found


def sample_writers(config: Config, run: RunInfo) -> list[Callback]:
    """A sample writer, or none if the dataset's tokenizer cannot be found."""
    directory = config.paths.tokenizer_dir
    try:
        from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer

        tokenizer = load_tokenizer(directory)
    except (ImportError, PipelineError) as error:
        say(f"no samples: {str(error).partition(';')[0]}; set its folder with --set paths.tokenizer_dir=DIR")
        return []
    if tokenizer.fingerprint != run.description["tokenizer"].get("fingerprint"):
        say(
            f"no samples: the dataset was not made with the tokenizer in {directory}; set the correct folder "
            "with --set paths.tokenizer_dir=DIR"
        )
        return []
    settings = GenerationSettings.from_config(
        config.generation, max_length=config.training.sample_tokens, seed=config.training.seed
    )
    return [SampleWriter(tokenizer, config.training.sample_prompts, settings)]
