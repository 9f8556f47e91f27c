"""Sample answers to fixed prompts, after every validation, so that one sees what the numbers mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.formats.chat_template import encode_prompt
from pipeline.generation.generate import GenerationSettings, generate_batch
from utils.terminal import visible


class SampleAnswers:
    """A callback of `pipeline.training.trainer`: shows the likeliest answers and writes them into the log.

    Args:
        prompts: one question each.
        max_length: tokens of an answer at most.
    """

    def __init__(self, tokenizer: Any, prompts: Sequence[str], *, max_length: int) -> None:
        self.tokenizer, self.questions, self.max_length = tokenizer, prompts, max_length

    def on_validation(self, trainer: Any, metrics: Mapping[str, float]) -> None:
        shown = [f"  {question}\n    → {answer}" for question, answer in self.answers(trainer.model)]
        if shown:
            text = "\n".join(shown)
            trainer.progress.say(visible(text))
            trainer.logger.event("samples", step=trainer.step, text=text)

    def answers(self, model: Any) -> list[tuple[str, str]]:
        """Each question with the answer that the model finds likeliest, in one line."""
        model.eval()
        prompts = [encode_prompt(self.tokenizer, [{"role": "user", "content": each}]) for each in self.questions]
        settings = GenerationSettings(max_length=self.max_length, temperature=0.0)
        answers = generate_batch(model, prompts, settings, tokenizer=self.tokenizer)
        return [(q, self._in_one_line(ids)) for q, ids in zip(self.questions, answers, strict=True)]

    def _in_one_line(self, ids: Sequence[int]) -> str:
        text = " ".join(self.tokenizer.decode(ids).split())
        # A model that has read little begins with line breaks and stays there; that is not an empty answer.
        return text or (f"({len(ids)} tokens of white space)" if len(ids) > 1 else "(it ends at once)")
