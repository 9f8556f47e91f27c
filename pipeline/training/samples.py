"""Texts that the model writes at each validation, for people to read how it comes along."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pipeline.generation.generate import stream_text
from pipeline.generation.settings import GenerationSettings
from utils.terminal import visible

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


class SampleWriter:
    """Continues each of `prompts` after a validation, prints it and logs it. Training's random numbers stay as they
    are."""

    def __init__(self, tokenizer: Any, prompts: Sequence[str], settings: GenerationSettings) -> None:
        self.tokenizer, self.prompts, self.settings = tokenizer, prompts, settings

    def on_validation(self, trainer: "Trainer", metrics: Mapping[str, float]) -> None:
        devices = [trainer.device] if trainer.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            texts = [self._continue(trainer.model, prompt) for prompt in self.prompts]
        for text in texts:
            trainer.progress.say(f"  sample: {visible(' '.join(text.split()))}")
            trainer.logger.event("sample", step=trainer.step, text=text)

    def _continue(self, model: Any, prompt: str) -> str:
        with torch.no_grad():
            return prompt + "".join(stream_text(model, self.tokenizer, prompt, self.settings))
