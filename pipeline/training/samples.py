"""Sample texts after each validation, to show the model's progress."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from pipeline.formats.logged_metrics import SAMPLE
from pipeline.generation.generate import stream_text
from pipeline.generation.settings import GenerationSettings
from pipeline.tokenization.interface import Tokenizer
from pipeline.training.callbacks import Validation
from utils.terminal import visible

if TYPE_CHECKING:
    from model import TransformerLM


class SampleWriter:
    """A callback that continues each of `prompts`, and prints and logs the text. Does not change the random state of
    training."""

    def __init__(self, tokenizer: Tokenizer, prompts: Sequence[str], settings: GenerationSettings) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.settings = settings

    def on_validation(self, validation: Validation) -> None:
        devices = [validation.device] if validation.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            texts = [self._continue(validation.model, prompt) for prompt in self.prompts]
        for text in texts:
            validation.say(f"  sample: {visible(' '.join(text.split()))}")
            validation.logger.event(SAMPLE, step=validation.step, text=text)

    def _continue(self, model: nn.Module, prompt: str) -> str:
        with torch.no_grad():
            return prompt + "".join(stream_text(cast("TransformerLM", model), self.tokenizer, prompt, self.settings))
