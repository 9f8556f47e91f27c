"""Generation settings: a frozen value that is validated on creation.

settings = GenerationSettings.from_config(config.generation, temperature=0, seed=7)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pipeline.generation.config import GenerationConfig
from pipeline.generation.token_rules import Constraint
from utils.errors import PipelineError


class ContextLengthError(PipelineError):
    """The prompt, or the prompt and its answer, do not fit in the model's context."""


@dataclass(frozen=True)
class GenerationSettings:
    """How to sample tokens, and when to stop.

    The order is: repetition penalty, the other penalties with bias and constraint, temperature, top-k, top-p, min-p.
    0 (1.0 for top-p and the repetition penalty) disables.
    """

    max_length: int = 200  # maximum number of new tokens
    temperature: float = 0.8  # 0: always the most likely token
    top_k: int = 50
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()  # stop before the first of these
    on_overflow: str = "slide"  # when the context is full: drop the oldest half, or refuse the request
    ignore_eos: bool = False  # continue past the end of the text, up to max_length
    logprobs: int | None = None  # report the token's log-probability and this many alternatives
    prompt_logprobs: int | None = None  # the same for the tokens of the prompt, with the first event
    frequency_penalty: float = 0.0  # subtracted from a token's logit for every time it has been generated
    presence_penalty: float = 0.0  # subtracted if it has been generated at all
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, number to add to its logit)
    constraint: Constraint | None = None  # what the answer must look like

    @classmethod
    def from_config(cls, config: GenerationConfig, **changes: Any) -> "GenerationSettings":
        """The configured settings with `changes`; None keeps the configured value."""
        names = {field.name for field in fields(cls)} & {field.name for field in fields(config)}
        values = {name: getattr(config, name) for name in names}
        return cls(**values | {name: value for name, value in changes.items() if value is not None})

    def __post_init__(self) -> None:
        _check("max_length", self.max_length, lambda x: x >= 1, "an integer, at least 1", integer=True)
        _check("temperature", self.temperature, lambda x: x >= 0, "a number, at least 0")
        _check("top_k", self.top_k, lambda x: x >= 0, "an integer, at least 0 (0: all tokens)", integer=True)
        _check("top_p", self.top_p, lambda x: 0 < x <= 1, "a number above 0, at most 1 (1: all tokens)")
        _check("min_p", self.min_p, lambda x: 0 <= x < 1, "a number from 0 to below 1 (0: all tokens)")
        _check("repetition_penalty", self.repetition_penalty, lambda x: x > 0, "a number above 0 (1: none)")
        _check("frequency_penalty", self.frequency_penalty, lambda x: -2 <= x <= 2, "a number from -2 to 2 (0: none)")
        _check("presence_penalty", self.presence_penalty, lambda x: -2 <= x <= 2, "a number from -2 to 2 (0: none)")
        if self.seed is not None:
            _check("seed", self.seed, lambda x: 0 <= x < 2**63, "an integer from 0 to 2**63 - 1", integer=True)
        if self.on_overflow not in ("slide", "refuse"):
            raise PipelineError(f"on_overflow is {self.on_overflow!r}; expected slide or refuse")
        if isinstance(self.stop, str):
            raise PipelineError(f"stop is {self.stop!r}; expected a tuple of strings: ({self.stop!r},)")
        if "" in self.stop:
            raise PipelineError("a stop string is empty; expected at least one character")

    @property
    def changes_logits(self) -> bool:
        """Whether rows with these settings need `TokenRules`."""
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias or self.constraint)

    @property
    def is_greedy(self) -> bool:
        # Below 1e-5 the top token has all the probability, and dividing by less overflows float32.
        return self.temperature < 1e-5


def _check(name: str, value: object, fits: Callable[[float], bool], expected: str, *, integer: bool = False) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        has_type = isinstance(value, int) or not integer
        if has_type and math.isfinite(value) and fits(value):
            return
    raise PipelineError(f"{name} is {value!r}; expected {expected}")


def prompt_room(max_length: int, *, context: int) -> int:
    """The tokens of a context that earlier turns may take, so that the answer has room: at least half of them."""
    return context - min(max_length, context // 2)


@dataclass(frozen=True)
class OverflowWords:
    """How a message about a full context calls the number of new tokens, and what it advises."""

    new_tokens: str = "max_length"
    if_no_room: str = "set generation.on_overflow=slide"
    if_too_long: str = "shorten it"


def check_prompt(
    prompt_ids: Sequence[int],
    settings: GenerationSettings,
    *,
    context: int,
    vocab_size: int,
    words: OverflowWords = OverflowWords(),
) -> None:
    """Refuse a prompt that the model cannot continue.

    Raises:
        PipelineError: it is empty, has an id that the model does not know, or does not fit in the context.
    """
    length = len(prompt_ids)
    if not length:
        raise PipelineError("the prompt is empty; expected at least one token")
    low = min(prompt_ids)
    high = max(prompt_ids)
    if low < 0 or high >= vocab_size:
        unknown = low if low < 0 else high
        raise PipelineError(
            f"the prompt contains token id {unknown}; expected ids from 0 to {vocab_size - 1} (the model's vocabulary)"
        )
    if length > context:
        raise ContextLengthError(
            f"the prompt is too long: {length:,} tokens, but the model's context is {context:,}; {words.if_too_long}"
        )
    if settings.on_overflow == "refuse" and length + settings.max_length > context:
        raise ContextLengthError(
            f"{length:,} prompt tokens plus {settings.max_length:,} new tokens ({words.new_tokens}) exceed the model's "
            f"context of {context:,}; request fewer, or {words.if_no_room}"
        )


def check_text(prompt: str) -> str:
    """Check that `prompt` is not empty and is valid Unicode, and return it.

    Raises:
        PipelineError: it is empty or has lone surrogates (from bytes that are not UTF-8).
    """
    if not prompt.strip():
        raise PipelineError("the prompt is empty; enter some text to continue")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PipelineError(f"the prompt is not valid UTF-8 (at character {error.start + 1})") from None
    return prompt
