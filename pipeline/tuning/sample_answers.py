"""Sample answers to fixed questions after each validation, to show what the numbers mean."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from torch import nn

from pipeline.formats.chat_template import encode_prompt
from pipeline.formats.logged_metrics import SAMPLES
from pipeline.generation.generate import GenerationSettings, generate_batch
from pipeline.tokenization.interface import Tokenizer
from pipeline.training.callbacks import Validation
from utils.terminal import visible

if TYPE_CHECKING:
    from model import TransformerLM


class SampleAnswers:
    """A callback that prints and logs the greedy answer to each of `questions`.

    Args:
        max_length: maximum number of tokens in an answer.
    """

    def __init__(self, tokenizer: Tokenizer, questions: Sequence[str], *, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.questions = questions
        self.max_length = max_length

    def on_validation(self, validation: Validation) -> None:
        answers = self.answers(validation.model)
        if not answers:
            return
        text = "\n".join(f"  {question}\n    → {answer}" for question, answer in answers)
        validation.say(visible(text))
        validation.logger.event(SAMPLES, step=validation.step, text=text)

    def answers(self, model: nn.Module) -> list[tuple[str, str]]:
        """Each question with the model's greedy answer, on one line."""
        model.eval()
        prompts = [
            encode_prompt(self.tokenizer, [{"role": "user", "content": question}]) for question in self.questions
        ]
        settings = GenerationSettings(max_length=self.max_length, temperature=0.0)
        answers = generate_batch(cast("TransformerLM", model), prompts, settings, tokenizer=self.tokenizer)
        return [(question, self._on_one_line(ids)) for question, ids in zip(self.questions, answers, strict=True)]

    def _on_one_line(self, ids: Sequence[int]) -> str:
        text = " ".join(self.tokenizer.decode(ids).split())
        if text:
            return text
        # An undertrained model may write only line breaks, which is not an empty answer.
        return f"({len(ids)} tokens of white space)" if len(ids) > 1 else "(no text)"
