"""A loaded model that continues a prompt, or answers a message, and what that took."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TextIO

from pipeline.formats import chat_template
from pipeline.generation.batch import Decoder
from pipeline.generation.compiled_decode import compiled_decoder
from pipeline.generation.generate import encode_prompt, stream_events, stream_tokens
from pipeline.generation.loading import LoadedModel
from pipeline.generation.settings import GenerationSettings, check_prompt, check_text
from utils.errors import Terminated
from utils.terminal import format_seconds, visible

_REASONS = {"stop": "the text came to its end", "length": "the maximum length", "interrupted": "Ctrl-C"}


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
        return (
            f"{self.new_tokens} tokens in {format_seconds(self.seconds)} · {self.tokens_per_second:.1f} tokens/s · "
            f"first token after {self.first_token_seconds * 1000:.0f} ms · {self.prompt_tokens} in the prompt · "
            f"ended by: {_REASONS.get(self.finish_reason, '')}"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tokens_per_second": round(self.tokens_per_second, 1)}


@dataclass(frozen=True)
class Writer:
    """A loaded model with its decode step. `compile` is the config's ``generation.compile``."""

    loaded: LoadedModel
    compile: str = "auto"

    @cached_property
    def decoder(self) -> Decoder | None:
        return compiled_decoder(self.loaded.model, self.compile)

    def warm_up(self) -> None:
        """Reads the weights from disk and starts the kernels, so that the first of several is not the slowest."""
        prompt = [self.loaded.tokenizer.bos_id]
        for _ in stream_tokens(self.loaded.model, prompt, GenerationSettings(max_length=3), decoder=self.decoder):
            pass

    def prompt_ids(self, prompt: str) -> list[int]:
        """A text as the model was taught to read it: a question of a chat_template, or the beginning of a document."""
        if self.loaded.is_chat:
            return self.chat_ids([{"role": "user", "content": prompt}])
        return encode_prompt(self.loaded.tokenizer, prompt)

    def chat_ids(self, messages: Sequence[chat_template.Message]) -> list[int]:
        check_text(messages[-1]["content"])
        return chat_template.encode_prompt(self.loaded.tokenizer, messages)

    def check(self, prompt_ids: Sequence[int], settings: GenerationSettings) -> None:
        """Says what is wrong with a prompt before anything is computed."""
        config = self.loaded.model.config
        check_prompt(prompt_ids, settings, context=config.context_length, vocab_size=config.vocab_size)

    def stream(self, prompt_ids: Sequence[int], settings: GenerationSettings, statistics: Statistics) -> Iterator[str]:
        """The new text as it is generated; `statistics` are filled meanwhile."""
        statistics.prompt_tokens = len(prompt_ids)
        model, tokenizer, decoder = self.loaded.model, self.loaded.tokenizer, self.decoder
        start, is_first = time.perf_counter(), True
        for event in stream_events(model, prompt_ids, settings, tokenizer=tokenizer, decoder=decoder):
            statistics.new_tokens += 1
            statistics.seconds = time.perf_counter() - start
            statistics.first_token_seconds = statistics.first_token_seconds or statistics.seconds
            statistics.finish_reason = event.finish_reason or ""
            # An answer's first word begins with the space that stood after "Assistant:".
            text = event.text.removeprefix(" ") if is_first and self.loaded.is_chat else event.text
            if text:
                yield text
            is_first = is_first and not event.text

    def write(
        self, prompt_ids: Sequence[int], settings: GenerationSettings, *, output: TextIO, may_stop: bool = False
    ) -> tuple[str, Statistics]:
        """Writes the new text piece by piece, its control characters made visible, and ends the line; returns the text
        unchanged.

        `may_stop`: Ctrl-C ends this text and not the program.
        """
        statistics, pieces = Statistics(), []
        try:
            for piece in self.stream(prompt_ids, settings, statistics):
                pieces.append(piece)
                output.write(visible(piece))
                output.flush()
        except KeyboardInterrupt as interrupt:
            if not may_stop or isinstance(interrupt, Terminated):
                raise
            statistics.finish_reason = "interrupted"
        output.write("\n")
        output.flush()
        return "".join(pieces), statistics
