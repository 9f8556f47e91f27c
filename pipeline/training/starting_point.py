"""Where training begins: anew, with a checkpoint's weights (``--init-from``), or where a run stood (``--resume``)."""

from argparse import Namespace
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from model import TransformerLM, load_weights
from pipeline.configuration import Config, config_flags, folder_keys, load_config, load_config_from
from pipeline.dataloading.loaders import TrainingLoader
from pipeline.dataloading.prepared_window import with_prepared_window
from pipeline.formats.checkpoint import only_training_run, read_checkpoint, run_folder_of
from pipeline.formats.run_folders import find_checkpoint
from pipeline.formats.run_names import check_run_name
from pipeline.training.trainer import Trainer
from utils.errors import PipelineError
from utils.logging_utils import LogPlace


class StartingPoint:
    """`path` and `content` are those of the checkpoint; without one None and an empty dict.

    Args:
        held: takes the hold on a resumed run's folder, before the checkpoint is read; None where nothing is written.
    """

    def __init__(self, args: Namespace, held: ExitStack | None = None) -> None:
        self.args = args
        self.path: Path | None = None
        self.content: dict[str, Any] = {}
        argument = args.resume or args.init_from
        if argument:
            directory = load_config_from(args).paths.checkpoint_dir
            self.path = find_checkpoint(argument, directory, prefix="run_" if args.resume else "")
            if args.resume and held is not None:
                held.enter_context(only_training_run(run_folder_of(self.path)))
            self.content = read_checkpoint(self.path)
        if self.resumes and "loader" not in self.content:
            raise PipelineError(f"{self.path} holds no training state; take its weights: --init-from {argument}")
        if self.resumes and "test" not in self.content.get("data", {}):
            raise PipelineError(
                f"{self.path} is a fine-tuned run, not a pretraining one; go on with: python3 main.py sft --resume "
                f"{argument}, or pretrain on from its weights: --init-from {argument}"
            )
        if self.resumes and args.test and not self.content["data"]["test"]:
            raise PipelineError(f"--test: {self.path} is no test run, and a resumed run keeps its data; leave it out")
        if self.resumes:
            check_run_name(self.content["name"], origin=f"{self.path} names its run")
        self.notes: list[str] = []

    @property
    def resumes(self) -> bool:
        return bool(self.args.resume)

    @property
    def test(self) -> bool:
        return self.content["data"]["test"] if self.resumes else self.args.test

    @property
    def name(self) -> str | None:
        return self.content["name"] if self.resumes else self.args.name

    @property
    def num_parts(self) -> int | None:
        """The parts that a resumed run's data was cut into."""
        return self.content["loader"]["num_parts"] if self.resumes else None

    @property
    def log_place(self) -> LogPlace | None:
        """Where a resumed run's log continues."""
        return log_place(self.content) if self.resumes else None

    def config(self) -> Config:
        """A resumed run's own configuration, or the present one with the weights' model; over either are laid
        ``--config``, ``--set`` and flags."""
        flags = config_flags(self.args)
        if self.args.test:
            flags["training.num_epochs"] = 1
        stored = self.content.get("config", {})
        base: dict[str, dict[str, Any]] | None = None
        if self.resumes:
            base = settings_to_resume(self.content)
        elif stored:
            base = {**load_config().explicit_values(), "model": stored["model"]}
        config = load_config(self.args.config, settings=self.args.settings, flags=flags, base=base)
        if self.resumes:
            self._refuse_missing_data(config)
        else:
            config = with_prepared_window(config, test=self.test)
        return self._within_trained_context(config)

    def _within_trained_context(self, config: Config) -> Config:
        """The model takes no position that training never shows it: its context, scaling aside, is the window that it
        is trained on, or what the checkpoint's was."""
        asked, window = config.model.max_position_embeddings, config.dataset.window
        trained = self.content.get("config", {}).get("model", {}).get("max_position_embeddings")
        if trained is None and config.model.rope_scaling != "none":
            return config  # positions are scaled from the start
        limit = window if trained is None else trained
        if asked <= limit:
            return config
        model = replace(config.model, max_position_embeddings=limit)
        if model.context_length < window:
            raise PipelineError(
                f"{self.path} was trained with a context of {trained} tokens, dataset.window is {window}; stretch it: "
                f"--set model.rope_scaling=yarn --set model.rope_scaling_factor={-(-window // trained)}, or train "
                f"on its window: --set dataset.window={trained}"
            )
        reason = "dataset.window" if trained is None else f"the checkpoint's {limit}"
        self.notes.append(
            f"context: {model.context_length} tokens, from {reason}; model.max_position_embeddings {asked} is lowered "
            "to it, as later positions would never have been trained"
        )
        return replace(config, model=model)

    def _refuse_missing_data(self, config: Config) -> None:
        directory = config.dataset.directory(test=self.test)
        if not directory.exists():
            key = (
                "custom_dir"
                if config.dataset.source == "custom"
                else f"{config.dataset.source}_{'test' if self.test else 'full'}_dir"
            )
            raise PipelineError(
                f"token dataset {directory} does not exist, and {self.path} was trained with "
                f"{self.content['data'].get('directory')}; name it: --set dataset.{key}=DIR"
            )

    def refuse_misfit(self, description: Mapping[str, Any]) -> None:
        """Raises PipelineError where the checkpoint does not belong to the run that `description` describes."""
        if self.resumes:
            refuse_other_run(self.content, description, origin=str(self.path))
        elif self.path:
            refuse_other_tokenizer(self.content, description, origin=str(self.path))

    def changes(self, description: Mapping[str, Any]) -> list[str]:
        """Settings that a resumed run does not have as it was started, one line each."""
        if not self.resumes:
            return []
        changed = setting_changes(self.content["config"], description["config"])
        return [f"  {section}.{key}: {was} → {now}" for section, key, was, now in changed]

    def place(self, model: TransformerLM, loader: TrainingLoader) -> None:
        """The weights to begin with, or a resumed run's place in the data: what can still be refused, before anything
        is written."""
        if self.resumes:
            loader.load_state_dict(self.content["loader"])
        elif self.path:
            load_weights(model, self.content["model"], origin=str(self.path))

    def apply(self, trainer: Trainer) -> None:
        """Puts a resumed run's whole state into the trainer, and forgets the checkpoint."""
        if self.resumes:
            trainer.resume(self.content)
        self.content = {key: self.content[key] for key in ("data", "name") if key in self.content}


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
