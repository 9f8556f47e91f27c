"""A checkpoint made ready to write: model, tokenizer, and what there is to say about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model import TransformerLM, load_model
from tokenizer import WikipediaTokenizer, load_tokenizer
from utils.checkpoint import read_checkpoint
from utils.checkpoint_tokenizer import tokenizer_of
from utils.config import Config
from utils.terminal import format_count


@dataclass(frozen=True)
class LoadedModel:
    """One checkpoint in memory."""

    name: str
    path: Path
    model: TransformerLM
    tokenizer: WikipediaTokenizer
    content: Mapping[str, Any]

    def summary(self) -> str:
        """``run_2026_…/checkpoint_best: 24.9M parameters, step 1,200, context 1,024``"""
        step = f", step {self.content['step']:,}" if isinstance(self.content.get("step"), int) else ""
        parameters = format_count(self.model.num_parameters())
        return f"{self.name}: {parameters} parameters{step}, context {self.model.config.max_position_embeddings:,}"


def load_checkpoint(
    path: Path, config: Config, *, device: torch.device, dtype: torch.dtype, name: str = "", tokenizer_dir: Path | None
) -> LoadedModel:
    """Loads a checkpoint file and the tokenizer that it was trained with."""
    content = read_checkpoint(path)

    def load(directory: Path) -> WikipediaTokenizer:
        is_configured = directory == config.paths.tokenizer_dir
        return load_tokenizer(directory, name=config.tokenizer.name if is_configured else None)

    directories = [tokenizer_dir or config.paths.tokenizer_dir]
    tokenizer = tokenizer_of(content, directories, load, origin=f"checkpoint {path}")
    model = load_model(path, device=device, dtype=dtype)
    described = {key: value for key, value in content.items() if key not in ("model", "optimizer")}
    return LoadedModel(name or checkpoint_name(path, content), path, model, tokenizer, described)


def checkpoint_name(path: Path, content: Mapping[str, Any]) -> str:
    """``run/checkpoint``, with the run's own name where it was given one."""
    own = f" ({content['name']})" if content.get("name") else ""
    return f"{path.resolve().parent.name}/{path.stem}{own}"
