"""What tuning keeps of the base model: its bits per byte on the text that pretraining held out.

text = BaseText.open(base_checkpoint, config, device)
before = text.bits_per_byte(model)                          # and again after each validation
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.configuration import Config
from pipeline.dataloading.dataset_check import BackgroundCheck
from pipeline.dataloading.loaders import LoaderOptions, ValidationLoader
from pipeline.dataloading.split import split_windows
from pipeline.formats.logged_metrics import VAL_BASE_BITS_PER_BYTE
from pipeline.formats.token_dataset import TokenDataset
from pipeline.training.callbacks import Validation
from pipeline.training.pretraining import document_start, token_bytes
from pipeline.training.validation import score
from utils.errors import PipelineError

KEY = "base_text"  # in the run's description: step → bits per byte


class BaseText:
    """The validation windows of the base model's dataset, at most `sft.base_val_tokens` tokens."""

    def __init__(self, dataset: TokenDataset, config: Config, device: torch.device) -> None:
        split = split_windows(dataset, val_split=config.dataset.val_split, seed=config.dataset.seed)
        rows = max(1, config.sft.batch_size * config.sft.max_length // dataset.window)
        options = LoaderOptions(batch_size=rows, val_tokens=config.sft.base_val_tokens)
        self._loader = ValidationLoader(dataset, split, options, check=BackgroundCheck(dataset))
        self._device = device
        self._token_bytes = token_bytes(dataset)
        self._document_start = document_start(dataset) if config.dataset.isolate_documents else None

    @classmethod
    def open(cls, base: Mapping[str, Any], config: Config, device: torch.device) -> "BaseText":
        """The text of `base`, the base checkpoint's content or what a tuned checkpoint records of it.

        Raises:
            PipelineError: the dataset is not recorded, is gone, was changed or is damaged.
        """
        data = base.get("data") or {}
        if not data.get("directory") or "training_conversations" in data:
            raise PipelineError("the checkpoint does not record the dataset that it was pretrained on")
        window, stride = config.dataset.window, config.dataset.stride
        dataset = TokenDataset.open(Path(data["directory"]), window=window, stride=stride)
        if dataset.fingerprint != data.get("fingerprint"):
            raise PipelineError(f"{dataset.directory} is not the dataset that the model was pretrained on")
        if token_bytes(dataset) is None:
            raise PipelineError(f"{dataset.directory} does not record how many bytes each token has")
        return cls(dataset, config, device)

    def bits_per_byte(self, model: nn.Module) -> float:
        model.eval()
        metrics = score(
            model,
            self._loader,
            self._device,
            token_bytes=self._token_bytes,
            document_start=self._document_start,
        )
        assert metrics is not None, "without `stopped`, scoring is never interrupted"
        return metrics["bits_per_byte"]


class KeptBaseText:
    """A callback that scores the base text, and logs and stores the result in `description`."""

    def __init__(self, text: BaseText, description: dict[str, Any]) -> None:
        self._text = text
        self._scores: dict[str, float] = description.setdefault(KEY, {})

    def on_validation(self, validation: Validation) -> None:
        value = self._text.bits_per_byte(validation.model)
        self._scores[str(validation.step)] = value
        validation.logger.log(step=validation.step, **{VAL_BASE_BITS_PER_BYTE: value})
        validation.say(f"  base text: {value:.4f} bits per byte{_change(self._scores.get('0'), value)}")


def kept_line(scores: Mapping[str, float], step: int) -> str:
    """What the model at `step` kept, or an empty string if it was not scored."""
    before, after = scores.get("0"), scores.get(str(step))
    if before is None or after is None:
        return ""
    return f"base text: {before:.4f} bits per byte before tuning, {after:.4f} at step {step}{_change(before, after)}"


def _change(before: float | None, after: float) -> str:
    return f" ({after / before - 1:+.1%})" if before and before != after else ""
