"""Where training begins: anew, with a checkpoint's weights (``--init-from``), or where a run stood (``--resume``)."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import load_weights
from utils.checkpoint import find_checkpoint, read_checkpoint
from utils.cli import load_config_from
from utils.config import load_config
from utils.config_sections import Config
from utils.errors import PipelineError
from utils.trainer import Trainer
from utils.training_state import refuse_other_run, refuse_other_tokenizer, setting_changes


class StartingPoint:
    """`path` and `content` are those of the checkpoint; without one None and an empty dict."""

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.path: Path | None = None
        self.content: dict[str, Any] = {}
        argument = args.resume or args.init_from
        if argument:
            directory = load_config_from(args).paths.checkpoint_dir
            self.path = find_checkpoint(argument, directory, prefix="run_" if args.resume else "")
            self.content = read_checkpoint(self.path)
        if self.resumes and "loader" not in self.content:
            raise PipelineError(f"{self.path} holds no training state; take its weights: --init-from {argument}")

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
    def step(self) -> int | None:
        """The step that a resumed run stood at."""
        return self.content["step"] if self.resumes else None

    def config(self) -> Config:
        """A resumed run's own configuration, or the present one with the weights' shape; ``--set`` and flags last."""
        flags = {"training.device": self.args.device} if self.args.device else {}
        flags |= {"training.num_epochs": 1} if self.args.test else {}
        stored = self.content.get("config", {})
        shape = [] if self.resumes else [_as_setting(f"model.{k}", v) for k, v in stored.get("model", {}).items()]
        settings = [*shape, *self.args.settings]
        return load_config(self.args.config, settings=settings, flags=flags, base=stored if self.resumes else None)

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

    def apply(self, trainer: Trainer) -> None:
        """Puts the checkpoint's weights, or its whole state, into the trainer, and forgets it."""
        if self.resumes:
            trainer.resume(self.content)
        elif self.path:
            load_weights(trainer.model, self.content["model"], origin=str(self.path))
        self.content = {key: self.content[key] for key in ("data", "name", "step") if key in self.content}


def _as_setting(name: str, value: Any) -> str:
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"
