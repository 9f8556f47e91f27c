"""Puts a fine-tuning run together: checkpoint, configuration, conversations, trainer, and the record of the command."""

import argparse
import json
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from model import TransformerLM, create_model, load_weights
from pipeline.configuration import Config, config_flags, load_config
from pipeline.formats.chat_template import TEMPLATE_NAME
from pipeline.formats.checkpoint import only_training_run, read_checkpoint, run_folder_of, versions
from pipeline.formats.checkpoint_tokenizer import describe_tokenizer, tokenizer_of
from pipeline.formats.run_folders import find_checkpoint, new_run_folder
from pipeline.formats.run_names import check_run_name
from pipeline.training.curves import LossCurve
from pipeline.training.log_place import LogPlace
from pipeline.training.prepare_model import prepare_for_training
from pipeline.training.run_info import RunInfo
from pipeline.training.starting_point import settings_to_resume
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import TrainingData
from pipeline.tuning.dataset import SftDataset
from pipeline.tuning.fit_to_checkpoint import FirstValidation, check_data, refuse_other_data, tuning_config
from pipeline.tuning.loader import ConversationLoader, split_examples
from pipeline.tuning.sample_answers import SampleAnswers
from tokenizer import WikipediaTokenizer, load_tokenizer
from utils.devices import current_world, peak_flops
from utils.errors import PipelineError, UsageError
from utils.files import write_json
from utils.logging_utils import DualLogger

RUN_PREFIX = "sft_lima"
CONFIG_NAME = "sft_config.json"


def build_trainer(
    config: Config,
    path: Path,
    content: Mapping[str, Any],
    *,
    device: torch.device,
    resume: bool = False,
    name: str | None = None,
) -> Trainer:
    """Data, model and trainer for tuning the checkpoint `content` at `path`, or for the run that it was saved by.

    Raises:
        PipelineError: no conversations, another tokenizer's, too long for the model; weights that do not fit.
    """
    data = SftDataset.open(config.paths.post_training_dir)
    check_data(data, content, config, origin=path)
    tokenizer = tokenizer_of(content, [config.paths.tokenizer_dir], load_tokenizer, origin=f"checkpoint {path}")
    loaders = _loaders(data, config, device)
    description = _description(config, data, loaders, tokenizer, device)
    if resume:
        refuse_other_data(content, description, origin=path)
        description |= {key: content.get(key) for key in ("base", "name", "before")}
        check_run_name(description["name"], origin=f"{path} names its run")
    else:
        description |= {"base": _origin(path, content), "name": name}
    folder = run_folder_of(path) if resume else new_run_folder(config.paths.checkpoint_dir, prefix=RUN_PREFIX)
    trainer = Trainer(
        _model(config, content, device, origin=path),
        TrainingData(*loaders, config.model.vocab_size),
        config=config.training,
        device=device,
        run=RunInfo(folder, description, epoch_checkpoints=True, peak_flops=peak_flops(device)),
        logger=_logger(config, folder, description, resume=LogPlace.of(content) if resume else None),
        callbacks=[
            FirstValidation(description),
            LossCurve(folder),
            SampleAnswers(tokenizer, config.sft.sample_prompts, max_length=config.sft.sample_length),
        ],
    )
    if resume:
        trainer.resume(content)
        print(f"resuming {folder} at step {trainer.step} of {trainer.total_steps}")
    return trainer


def chosen_checkpoint(args: argparse.Namespace, checkpoint_dir: Path, held: ExitStack) -> tuple[Path, dict[str, Any]]:
    """The checkpoint to tune, or the one to resume from (its run is then `held`), and its content."""
    if current_world().size > 1:
        raise UsageError("fine-tuning takes one process: start it without torchrun and without --nproc")
    prefix = f"{RUN_PREFIX}_" if args.resume else "run_"
    path = find_checkpoint(args.resume or args.checkpoint, checkpoint_dir, prefix=prefix)
    if args.resume:
        held.enter_context(only_training_run(run_folder_of(path)))
    content = read_checkpoint(path)
    if args.resume and not (content.get("chat_template") and "loader" in content):
        raise PipelineError(f"{path} was not saved by a fine-tuning run; tune it with: --checkpoint {path}")
    return path, content


def run_config(args: argparse.Namespace, path: Path, content: Mapping[str, Any]) -> Config:
    """A resumed run keeps its own configuration; ``--config``, ``--set`` and flags are laid over it."""
    base = settings_to_resume(content) if args.resume else None
    config = load_config(args.config, settings=args.settings, flags=config_flags(args), base=base)
    return tuning_config(config, content, origin=path)


def _model(config: Config, content: Mapping[str, Any], device: torch.device, *, origin: Path) -> TransformerLM:
    torch.manual_seed(config.training.seed)
    model = create_model(config)
    load_weights(model, content["model"], origin=f"checkpoint {origin}")
    model = model.to(device)
    print(prepare_for_training(model, config.training, device, varying_lengths=True))
    return model


def _loaders(data: SftDataset, config: Config, device: torch.device) -> tuple[ConversationLoader, ConversationLoader]:
    sft = config.sft
    training, validation = split_examples(len(data.ids), val_split=sft.val_split, seed=sft.seed)
    train_loader = ConversationLoader(
        data,
        training,
        batch_size=sft.batch_size,
        device=device,
        seed=sft.seed,
        batches_per_step=sft.gradient_accumulation_steps,
        packing=sft.packing,
    )
    return train_loader, ConversationLoader(data, validation, batch_size=sft.batch_size, device=device)


def _description(
    config: Config,
    data: SftDataset,
    loaders: tuple[ConversationLoader, ConversationLoader],
    tokenizer: WikipediaTokenizer,
    device: torch.device,
) -> dict[str, Any]:
    """What every checkpoint of the run says about it."""
    return {
        "config": config.to_dict(),
        "chat_template": TEMPLATE_NAME,
        "tokenizer": describe_tokenizer(tokenizer),
        "data": {
            "fingerprint": data.fingerprint,
            "directory": str(data.directory),
            "training_conversations": len(loaders[0].lengths),
            "validation_conversations": len(loaders[1].lengths),
        },
        "versions": versions(device),
    }


def _origin(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Which checkpoint was tuned."""
    facts = {key: content.get(key) for key in ("name", "step", "tokens_seen", "best", "data", "init_from")}
    return {"checkpoint": str(path.resolve()), **facts}


def _logger(config: Config, folder: Path, description: Mapping[str, Any], *, resume: LogPlace | None) -> DualLogger:
    name = f"{folder.name}_{description['name']}" if description["name"] else folder.name
    return DualLogger(config.paths.log_dir, name, hyperparameters=description["config"], resume=resume)


def write_record(trainer: Trainer, arguments: list[str]) -> None:
    """sft_config.json: the command, and all that it takes to run it again; a resumed run keeps the first command."""
    path = trainer.run.folder / CONFIG_NAME
    commands = _recorded_commands(path)
    commands.append(shlex.join(["python3", "post_training.py", *arguments]))
    write_json(path, {"commands": commands, **trainer.run.description})


def _recorded_commands(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["commands"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PipelineError(f"{path} is damaged: expected JSON with 'commands'; remove it to continue") from None


def print_outcome(trainer: Trainer, best: Mapping[str, float]) -> None:
    before = trainer.run.description.get("before")
    change = f"{before['loss']:.4f} before tuning, " if before else ""
    if trainer.stopped_early:
        print(trainer.stopped_early)
    best_loss = f"{best['loss']:.4f} at its best (step {trainer.metrics.best_step})"
    print(f"done: {trainer.step} steps; validation loss {change}{best_loss}")
    if before and trainer.metrics.best_step == 0:
        print("no validation was better than the untuned model's: try a lower --lr, or more conversations")
    print(f"checkpoints: {trainer.run.folder}\nmetrics: {trainer.logger.path}")
    print(f"next: python3 main.py inference --checkpoint {trainer.run.folder / 'checkpoint_best.pt'}")
