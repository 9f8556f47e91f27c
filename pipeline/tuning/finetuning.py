"""Set up a fine-tuning run: checkpoint, configuration, conversations, trainer, and sft_config.json.

with ExitStack() as held:
    trainer = build_trainer(choose_start(args, held), device)
    trainer.fit(validate_first=True)
"""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model import TransformerLM, create_model, load_weights
from pipeline.configuration import Config, config_flags, load_config, load_config_from
from pipeline.formats.checkpoint import only_training_run, read_checkpoint, run_folder_of
from pipeline.formats.checkpoint_tokenizer import describe_tokenizer, tokenizer_of
from pipeline.formats.logged_metrics import QUESTIONS, compared_settings
from pipeline.formats.run_folders import find_checkpoint, new_run_folder, removed_if_unused
from pipeline.formats.run_names import check_run_name, log_name
from pipeline.tokenization.interface import Tokenizer
from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer
from pipeline.training.curves import LossCurve
from pipeline.training.log_position import LogPosition
from pipeline.training.prepare_model import prepare_for_training
from pipeline.training.run_info import RunInfo, versions
from pipeline.training.starting_point import settings_to_resume
from pipeline.training.tracker import Link, link_to_tracker, require_tracker, start_tracker
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import TrainingData
from pipeline.tuning.answer_gain import RECORD_KEY, AnswerGain
from pipeline.tuning.base_text import KEY, BaseText, KeptBaseText, kept_line
from pipeline.tuning.compatibility import FirstValidation, check_data, refuse_other_data, tuning_config
from pipeline.tuning.dataset import SftDataset
from pipeline.tuning.loader import ConversationLoader, split_examples
from pipeline.tuning.sample_answers import SampleAnswers
from utils.devices import current_world, peak_flops
from utils.errors import PipelineError, UsageError
from utils.files import write_json
from utils.logging_utils import DualLogger
from utils.terminal import say

RUN_PREFIX = "sft_lima"
CONFIG_NAME = "sft_config.json"


@dataclass(frozen=True)
class TuningStart:
    """All decisions made before data, model and trainer are built.

    Attributes:
        checkpoint: the file of the base model, or the one to resume from; `content` is its content.
        config: with the checkpoint's model and data, and `training` adapted for fine-tuning.
        name: from ``--name``, or the resumed run's.
    """

    checkpoint: Path
    content: Mapping[str, Any] = field(repr=False)
    config: Config
    resumes: bool
    name: str | None

    @property
    def origin(self) -> str:
        return f"checkpoint {self.checkpoint}"


def choose_start(args: argparse.Namespace, held: ExitStack) -> TuningStart:
    """The starting point for the arguments of ``post_training.py``.

    Args:
        held: keeps the lock on a resumed run's folder, taken before its checkpoint is read.

    Raises:
        UsageError: started with several processes.
        PipelineError: the checkpoint does not exist, or cannot be tuned or resumed with this configuration.
    """
    if current_world().size > 1:
        raise UsageError("fine-tuning runs in a single process; start it without torchrun and without --nproc")
    checkpoint_dir = load_config_from(args).paths.checkpoint_dir
    if args.resume:
        checkpoint = find_checkpoint(args.resume, checkpoint_dir, prefix=f"{RUN_PREFIX}_")
        held.enter_context(only_training_run(run_folder_of(checkpoint)))
        content = read_checkpoint(checkpoint)
        if not (content.get("chat_template") and "loader" in content):
            raise PipelineError(
                f"{checkpoint} is not from a fine-tuning run; to tune it, use --checkpoint {checkpoint}"
            )
        name = check_run_name(content.get("name"), origin=f"{checkpoint}: run name")
        base = settings_to_resume(content)
    else:
        checkpoint = find_checkpoint(args.checkpoint, checkpoint_dir, prefix="run_")
        content = read_checkpoint(checkpoint)
        name = args.name
        base = None
    config = load_config(args.config, settings=args.settings, flags=config_flags(args), base=base)
    return TuningStart(checkpoint, content, tuning_config(config, content, origin=checkpoint), bool(args.resume), name)


def build_trainer(start: TuningStart, device: torch.device, answers: AnswerGain | None = None) -> Trainer:
    """Conversations, model and trainer.

    Args:
        answers: counts the correct answers of the untuned model first; a resumed run has them.

    Raises:
        PipelineError: no conversations, made with another tokenizer, or too long for the model; weights that do not
            fit.
    """
    config = start.config
    require_tracker(config.training.tracker)
    conversations = SftDataset.open(config.paths.post_training_dir)
    check_data(conversations, start.content, config, origin=start.checkpoint)
    tokenizer = tokenizer_of(start.content, [config.paths.tokenizer_dir], load_tokenizer, origin=start.origin)
    train_loader, val_loader = _loaders(conversations, config, device)
    description = _description(start, conversations, (train_loader, val_loader), tokenizer, device)
    if start.resumes:
        refuse_other_data(start.content, description, origin=start.checkpoint)
        folder = run_folder_of(start.checkpoint)
    else:
        folder = new_run_folder(config.paths.checkpoint_dir, prefix=RUN_PREFIX)
    with removed_if_unused(folder):
        if answers:
            answers.measure(start.checkpoint, 0)
            description[RECORD_KEY] = answers.record
        earlier = start.content if start.resumes else {}
        link = link_to_tracker(config.training, run_name=log_name(folder, start.name), earlier=earlier)
        description["tracker"] = link
        base_text = _base_text(start, description, device)
        trainer = Trainer(
            _model(start, device),
            TrainingData(train_loader, val_loader, config.model.vocab_size),
            config=config.training,
            device=device,
            run=RunInfo(folder, description, epoch_checkpoints=True, peak_flops=peak_flops(device)),
            logger=_logger(start, folder, link),
            callbacks=[
                FirstValidation(description),
                *base_text,
                LossCurve(folder),
                SampleAnswers(tokenizer, config.sft.sample_prompts, max_length=config.sft.sample_length),
            ],
        )
    if answers and not start.resumes:
        trainer.logger.event(QUESTIONS, step=0, model_step=0, **answers.measure(start.checkpoint, 0))
    if start.resumes:
        trainer.resume(start.content)
        say(f"resuming {folder} at step {trainer.step} of {trainer.total_steps}")
    return trainer


def _base_text(start: TuningStart, description: dict[str, Any], device: torch.device) -> list[KeptBaseText]:
    """The callback that scores the base model's validation text, or none if that is not possible; says why."""
    if not start.config.sft.base_val_tokens:
        return []
    base = start.content.get("base") or {} if start.resumes else start.content
    try:
        text = BaseText.open(base, start.config, device)
    except PipelineError as error:
        say(f"what tuning keeps of the base model is not measured: {error}")
        return []
    return [KeptBaseText(text, description)]


def _model(start: TuningStart, device: torch.device) -> TransformerLM:
    config = start.config
    torch.manual_seed(config.training.seed)
    model = create_model(config)
    load_weights(model, start.content["model"], origin=start.origin)
    model = model.to(device)
    say(prepare_for_training(model, config.training, device, varying_lengths=True))
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
    start: TuningStart,
    conversations: SftDataset,
    loaders: tuple[ConversationLoader, ConversationLoader],
    tokenizer: Tokenizer,
    device: torch.device,
) -> dict[str, Any]:
    """The description of the run that is stored in every checkpoint."""
    description: dict[str, Any] = {
        "config": start.config.to_dict(),
        "chat_template": start.content["chat_template"] if start.resumes else conversations.metadata["template"],
        "tokenizer": describe_tokenizer(tokenizer),
        "data": {
            "fingerprint": conversations.fingerprint,
            "directory": str(conversations.directory),
            "decontamination": conversations.metadata.get("decontamination"),
            "training_conversations": len(loaders[0].lengths),
            "validation_conversations": len(loaders[1].lengths),
        },
        "versions": versions(device),
        "base": start.content.get("base") if start.resumes else _base(start),
        "name": start.name,
    }
    if start.resumes:
        description["before"] = start.content.get("before")
        description[KEY] = dict(start.content.get(KEY) or {})
        if start.content.get(RECORD_KEY):
            description[RECORD_KEY] = start.content[RECORD_KEY]
    return description


def _base(start: TuningStart) -> dict[str, Any]:
    """The description of the base checkpoint."""
    facts = {key: start.content.get(key) for key in ("name", "step", "tokens_seen", "best", "data", "init_from")}
    return {"checkpoint": str(start.checkpoint.resolve()), **facts}


def _logger(start: TuningStart, folder: Path, link: Link | None) -> DualLogger:
    config, log_dir = start.config.to_dict(), start.config.paths.log_dir
    return DualLogger(
        log_dir,
        log_name(folder, start.name),
        hyperparameters=config,
        hparams=compared_settings(config, "model", "sft", "training"),
        resume=LogPosition.of(start.content) if start.resumes else None,
        tracker=start_tracker(link, config=config, directory=log_dir) if link else None,
    )


def write_record(trainer: Trainer, arguments: Sequence[str]) -> None:
    """Write sft_config.json with everything needed to reproduce the run. A resumed run adds its command."""
    _add_to_record(trainer, [shlex.join(["python3", "post_training.py", *arguments])])


def _add_to_record(trainer: Trainer, commands: list[str]) -> None:
    path = trainer.run.folder / CONFIG_NAME
    write_json(path, {"commands": _recorded_commands(path) + commands, **trainer.run.description})


def _recorded_commands(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["commands"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PipelineError(f"{path} is damaged: expected JSON with 'commands'; delete it to continue") from None


def print_outcome(trainer: Trainer, best: Mapping[str, float], answers: AnswerGain | None = None) -> None:
    """The summary; counts the correct answers of the best checkpoint."""
    before = trainer.run.description.get("before")
    change = f"{before['loss']:.4f} before tuning, " if before else ""
    if trainer.stopped_early:
        say(trainer.stopped_early)
    best_loss = f"{best['loss']:.4f} at its best (step {trainer.metrics.best_step})"
    say(f"done: {trainer.step} steps; validation loss {change}{best_loss}")
    kept = kept_line(trainer.run.description.get(KEY) or {}, trainer.metrics.best_step or 0)
    if kept:
        say(kept)
    if answers:
        say(*_gained_lines(trainer, answers))
    if before and trainer.metrics.best_step == 0:
        say("no validation was better than the untuned model; try a lower --lr or more conversations")
    say(f"checkpoints: {trainer.run.folder}\nmetrics: {trainer.logger.path}")
    say(f"next: python3 main.py inference --checkpoint {trainer.run.folder / 'checkpoint_best.pt'}")


def _gained_lines(trainer: Trainer, answers: AnswerGain) -> list[str]:
    """Count the correct answers of the best checkpoint, log them, and add them to sft_config.json."""
    folder, best_step = trainer.run.folder, trainer.metrics.best_step or 0
    counts = answers.measure(folder / "checkpoint_best.pt", best_step)
    trainer.logger.event(QUESTIONS, step=trainer.step, model_step=best_step, **counts)
    _add_to_record(trainer, [])
    return answers.lines(best_step)
