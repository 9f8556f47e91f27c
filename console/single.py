"""One model: a prompt, its continuation as it is generated, what it took."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from console.loading import LoadedModel
from console.menus import Quit, ask_or_quit, choose_settings
from utils.errors import PipelineError, UsageError
from utils.generation import encode_prompt, stream_events
from utils.generation_settings import GenerationSettings, check_prompt
from utils.terminal import format_seconds, styled


@dataclass
class Statistics:
    """What one continuation took; filled while it runs."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    finish_reason: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / self.seconds if self.seconds else 0.0

    def line(self) -> str:
        reason = {"stop": "the text came to its end", "length": "the maximum length"}.get(self.finish_reason, "")
        return (
            f"{self.new_tokens} tokens in {format_seconds(self.seconds)} · {self.tokens_per_second:.1f} tokens/s · "
            f"first token after {self.first_token_seconds * 1000:.0f} ms · {self.prompt_tokens} in the prompt · "
            f"ended by: {reason}"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tokens_per_second": round(self.tokens_per_second, 1)}


def continue_prompt(
    loaded: LoadedModel, prompt: str | list[int], settings: GenerationSettings, statistics: Statistics
) -> Iterator[str]:
    """The continuation's text as it is generated; `statistics` are filled meanwhile."""
    ids = encode_prompt(loaded.tokenizer, prompt) if isinstance(prompt, str) else prompt
    statistics.prompt_tokens = len(ids)
    start = time.perf_counter()
    for event in stream_events(loaded.model, ids, settings, tokenizer=loaded.tokenizer):
        statistics.new_tokens += 1
        statistics.seconds = time.perf_counter() - start
        statistics.first_token_seconds = statistics.first_token_seconds or statistics.seconds
        statistics.finish_reason = event.finish_reason or ""
        if event.text:
            yield event.text


def write_continuation(
    loaded: LoadedModel, prompt: str | list[int], settings: GenerationSettings, *, output: TextIO
) -> Statistics:
    """Writes the continuation piece by piece, and a line's end after it."""
    statistics = Statistics()
    for piece in continue_prompt(loaded, prompt, settings, statistics):
        output.write(piece)
        output.flush()
    output.write("\n")
    output.flush()
    return statistics


def read_prompt(question: str) -> str | None:
    """A prompt, or None when the user has none left: q, or the end of the input."""
    try:
        return ask_or_quit(styled(question, "bold"))
    except (Quit, UsageError):
        return None
    except UnicodeDecodeError:
        raise PipelineError("the prompt is not valid UTF-8; wanted: UTF-8 text") from None


def refuse_early(loaded: LoadedModel, prompt: str, settings: GenerationSettings) -> None:
    """Says what is wrong with a prompt before its parameters are asked for."""
    config = loaded.model.config
    ids = encode_prompt(loaded.tokenizer, prompt)
    check_prompt(ids, settings, context=config.context_length, vocab_size=config.vocab_size)


def run_single(loaded: LoadedModel, default: GenerationSettings) -> None:
    """Prompt after prompt, without loading again. What is wrong with a prompt is said, and the next one asked for."""
    print(f"{loaded.summary()}\nq or Ctrl-D at the prompt ends.")
    while True:
        try:
            prompt = read_prompt("\nPrompt: ")
            if prompt is None:
                return
            refuse_early(loaded, prompt, default)
            settings = choose_settings(default)
            print(styled(prompt, "bold"), end="", flush=True)
            print(styled(write_continuation(loaded, prompt, settings, output=sys.stdout).line(), "dim"))
        except PipelineError as error:
            if isinstance(error, UsageError):
                raise
            print(styled(str(error), "red"))
