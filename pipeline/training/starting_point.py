"""Choose how a pretraining run starts: from scratch, with a checkpoint's weights (``--init-from``), or where a run
stopped (``--resume``)."""

from argparse import Namespace
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.configuration import Config, config_flags, folder_keys, load_config, load_config_from
from pipeline.dataloading.window_size import with_prepared_window
from pipeline.formats.checkpoint import only_training_run, read_checkpoint, run_folder_of
from pipeline.formats.run_folders import find_checkpoint
from pipeline.formats.run_names import check_run_name
from pipeline.training.log_position import LogPosition
from utils.arithmetic import ceil_div
from utils.errors import PipelineError

Content = Mapping[str, Any]  # a checkpoint's


@dataclass(frozen=True)
class Start:
    """All decisions made before data, model and trainer are built.

    Attributes:
        test: train on the test dataset.
        name: from ``--name``, or the resumed run's.
        checkpoint: the file that the run starts from, or None; `content` is its content.
        resumes: whether to continue from the state in `checkpoint`; otherwise only its weights are used.
        notes: lines to print about the configuration.
    """

    config: Config
    test: bool
    name: str | None
    checkpoint: Path | None = None
    content: Content = field(default_factory=dict, repr=False)
    resumes: bool = False
    notes: tuple[str, ...] = ()

    @property
    def num_parts(self) -> int | None:
        """The number of parts in a resumed run's data."""
        return self.content["loader"]["num_parts"] if self.resumes else None

    @property
    def log_position(self) -> LogPosition | None:
        """Where a resumed run's log continues."""
        return LogPosition.of(self.content) if self.resumes else None

    @property
    def init_from(self) -> str | None:
        """The checkpoint that the run's initial weights came from."""
        if self.resumes:
            return self.content.get("init_from")
        return None if self.checkpoint is None else str(self.checkpoint)

    def refuse_misfit(self, description: Content) -> None:
        """Raise PipelineError if the checkpoint does not match the run in `description`."""
        if self.resumes:
            refuse_other_run(self.content, description, origin=str(self.checkpoint))
        elif self.checkpoint:
            refuse_other_tokenizer(self.content, description, origin=str(self.checkpoint))


def choose_start(args: Namespace, held: ExitStack | None = None) -> Start:
    """The starting point for the arguments of ``train.py``.

    Args:
        held: keeps the lock on a resumed run's folder, taken before its checkpoint is read; None in a dry run.

    Raises:
        PipelineError: the checkpoint does not exist or cannot be resumed, or the configuration does not match it.
    """
    if args.resume:
        return _resumed(args, held)
    if args.init_from:
        checkpoint = find_checkpoint(args.init_from, load_config_from(args).paths.checkpoint_dir)
        content = read_checkpoint(checkpoint)
        stored = content.get("config")
        base = {**load_config().explicit_values(), "model": stored["model"]} if stored else None
    else:
        checkpoint, content, base = None, {}, None
    config = with_prepared_window(_configuration(args, base), test=args.test)
    config, notes = _within_trained_context(config, content, checkpoint)
    return Start(config, args.test, args.name, checkpoint, content, notes=notes)


def _resumed(args: Namespace, held: ExitStack | None) -> Start:
    checkpoint = find_checkpoint(args.resume, load_config_from(args).paths.checkpoint_dir, prefix="run_")
    if held is not None:
        held.enter_context(only_training_run(run_folder_of(checkpoint)))
    content = read_checkpoint(checkpoint)
    _refuse_unfit_to_resume(content, checkpoint, args)
    test: bool = content["data"]["test"]
    config = _configuration(args, settings_to_resume(content))
    _refuse_missing_data(config, content, checkpoint, test=test)
    config, notes = _within_trained_context(config, content, checkpoint)
    notes += tuple(
        f"  {section}.{key}: {was} → {now}"
        for section, key, was, now in setting_changes(content["config"], config.to_dict())
    )
    name = check_run_name(content["name"], origin=f"{checkpoint}: run name")
    return Start(config, test, name, checkpoint, content, resumes=True, notes=notes)


def _refuse_unfit_to_resume(content: Content, checkpoint: Path, args: Namespace) -> None:
    if "loader" not in content:
        raise PipelineError(
            f"{checkpoint} contains no training state; start from its weights instead: --init-from {args.resume}"
        )
    if "test" not in content.get("data", {}):
        raise PipelineError(
            f"{checkpoint} is a fine-tuning run, not a pretraining run; continue it with: python3 main.py sft --resume "
            f"{args.resume}, or start from its weights: --init-from {args.resume}"
        )
    if args.test and not content["data"]["test"]:
        raise PipelineError(f"--test: {checkpoint} is not a test run, and a resumed run keeps its data; remove --test")


def _configuration(args: Namespace, base: Mapping[str, Mapping[str, object]] | None) -> Config:
    """``--config``, ``--set`` and flags on top of `base`, a checkpoint's configuration (None: config.json)."""
    flags = config_flags(args)
    if args.test:
        flags["training.num_epochs"] = 1
    return load_config(args.config, settings=args.settings, flags=flags, base=base)


def _within_trained_context(
    config: Config, content: Content, checkpoint: Path | None
) -> tuple[Config, tuple[str, ...]]:
    """`config` without positions that training would never reach, and a note if there were any.

    The model's unscaled context is its training window, or the checkpoint's context.
    """
    asked = config.model.max_position_embeddings
    window = config.dataset.window
    trained = content.get("config", {}).get("model", {}).get("max_position_embeddings")
    if trained is None and config.model.rope_scaling != "none":
        return config, ()  # positions are scaled from the start
    limit = window if trained is None else trained
    if asked <= limit:
        return config, ()
    model = replace(config.model, max_position_embeddings=limit)
    if model.context_length < window:
        raise PipelineError(
            f"{checkpoint} was trained with a context of {trained} tokens, but dataset.window is {window}; extend it: "
            f"--set model.rope_scaling=yarn --set model.rope_scaling_factor={ceil_div(window, limit)}, or use "
            f"its window: --set dataset.window={trained}"
        )
    reason = "dataset.window" if trained is None else f"the checkpoint's {limit}"
    note = (
        f"context: {model.context_length} tokens, from {reason}; model.max_position_embeddings {asked} is "
        "reduced to match, because later positions would not be trained"
    )
    return replace(config, model=model), (note,)


def _refuse_missing_data(config: Config, content: Content, checkpoint: Path, *, test: bool) -> None:
    directory = config.dataset.directory(test=test)
    if directory.exists():
        return
    source = config.dataset.source
    key = f"{source}_test_dir" if test else f"{source}_full_dir"
    if source == "custom":
        key = "custom_dir"
    raise PipelineError(
        f"token dataset {directory} does not exist; {checkpoint} was trained on "
        f"{content['data'].get('directory')}; set the dataset's folder with --set dataset.{key}=DIR"
    )


def settings_to_resume(content: Content) -> dict[str, dict[str, Any]]:
    """A checkpoint's configuration with the local folders, because a foreign file must not decide where we write."""
    local = load_config().explicit_values()
    result = {}
    for section, values in content["config"].items():
        folders = folder_keys(section)
        stored = {key: value for key, value in values.items() if key not in folders}
        result[section] = stored | {key: value for key, value in local.get(section, {}).items() if key in folders}
    return result


def refuse_other_run(content: Content, description: Content, *, origin: str) -> None:
    """Raise PipelineError, with the differences, if dataset, tokenizer or model shape are not the checkpoint's."""
    old, new = content.get("config", {}), description["config"]
    refuse_other_tokenizer(content, description, origin=origin)
    was, now = content["data"].get("fingerprint"), description["data"].get("fingerprint")
    if was != now:
        place = f"its dataset was in {content['data'].get('directory')}"
        raise PipelineError(f"{origin} was trained on a different dataset: {_pair(was, now)}; {place}; {_REMEDY}")
    differing = [
        f"{section}.{key} {_pair(was, now)}"
        for section, key, was, now in setting_changes(old, new)
        if (section == "model" and key not in _SAME_WEIGHTS) or f"{section}.{key}" in _DATA_KEYS
    ]
    if differing:
        raise PipelineError(
            f"cannot resume {origin}: it no longer matches the current settings: {', '.join(differing)}; {_REMEDY}"
        )


# Keys of `model` that do not change the shape or meaning of weights; the others must stay the same.
_SAME_WEIGHTS = ("dropout", "depth_scaled_init", "activation_checkpointing")

_DATA_KEYS = (
    "dataset.window",
    "dataset.overlap",
    "dataset.val_split",
    "dataset.seed",
    "dataset.parts",
    "training.seed",
    "training.optimizer",
)

_REMEDY = "restore the originals, or start a new run from its weights with --init-from"


def refuse_other_tokenizer(content: Content, description: Content, *, origin: str) -> None:
    """Raise PipelineError if this dataset was not made with the checkpoint's tokenizer."""
    was, now = content.get("tokenizer", {}).get("fingerprint"), description["tokenizer"].get("fingerprint")
    if was != now:
        raise PipelineError(
            f"{origin} was trained with a different tokenizer, so its token ids do not match: {_pair(was, now)}; "
            "use a dataset prepared with the checkpoint's tokenizer"
        )


def setting_changes(
    old: Mapping[str, Mapping[str, object]], new: Mapping[str, Mapping[str, object]]
) -> list[tuple[str, str, object, object]]:
    """Section, key, old and new value of every setting that differs; keys missing on one side are skipped."""
    return [
        (section, key, old[section][key], value)
        for section, values in new.items()
        for key, value in values.items()
        if key in old.get(section, {}) and old[section][key] != value
    ]


def _pair(was: object, now: object) -> str:
    def short(value: object) -> str:
        return value[:12] if isinstance(value, str) and len(value) > 40 else str(value)

    return f"{short(was)} in the checkpoint, {short(now)} now"
