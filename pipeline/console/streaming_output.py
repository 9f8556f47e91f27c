"""Continue a prompt or answer a message with a loaded model, and measure statistics."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from pipeline.formats import chat_template
from pipeline.generation.batch_generator import Decoder
from pipeline.generation.compiled_decode import compiled_decoder
from pipeline.generation.generate import encode_prompt, stream_events, stream_tokens
from pipeline.generation.loading import LoadedModel
from pipeline.generation.settings import GenerationSettings, check_prompt, check_text
from utils.errors import Terminated
from utils.terminal import format_seconds, visible
from utils.text_layout import Output

_REASONS = {"stop": "the end of the text", "length": "the maximum length", "interrupted": "Ctrl-C"}


@dataclass
class Statistics:
    """Counts and times of one continuation; updated while it is generated."""

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

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"tokens_per_second": round(self.tokens_per_second, 1)}


@dataclass
class Writer:
    """A loaded model with its decode step. `compile` is the config's ``generation.compile``.

    `system` is the system message of every conversation, or empty.
    """

    loaded: LoadedModel
    compile: str = "auto"
    system: str = ""

    @cached_property
    def decoder(self) -> Decoder | None:
        return compiled_decoder(self.loaded.model, self.compile)

    def warm_up(self) -> None:
        """Read the weights from disk and start the kernels, so that the first of several is not the slowest."""
        prompt = [self.loaded.tokenizer.bos_id]
        for _ in stream_tokens(self.loaded.model, prompt, GenerationSettings(max_length=3), decoder=self.decoder):
            pass

    def prompt_ids(self, prompt: str) -> list[int]:
        """`prompt` as the model was trained to read it: in its chat template, or as the start of a document."""
        if self.loaded.is_chat:
            return self.chat_ids([*self.system_messages, {"role": "user", "content": prompt}])
        return encode_prompt(self.loaded.tokenizer, prompt)

    def chat_ids(self, messages: Sequence[chat_template.Message]) -> list[int]:
        check_text(messages[-1]["content"])
        return chat_template.encode_prompt(self.loaded.tokenizer, messages, template=self.loaded.template)

    @property
    def system_messages(self) -> list[chat_template.Message]:
        """The system message as a list of at most one message."""
        return [{"role": "system", "content": self.system}] if self.system else []

    def check(self, prompt_ids: Sequence[int], settings: GenerationSettings) -> None:
        """Check a prompt before anything is computed.

        Raises:
            PipelineError: it is empty, too long for the context, or has ids outside the vocabulary.
        """
        config = self.loaded.model.config
        check_prompt(prompt_ids, settings, context=config.context_length, vocab_size=config.vocab_size)

    def stream(self, prompt_ids: Sequence[int], settings: GenerationSettings, statistics: Statistics) -> Iterator[str]:
        """The new text as it is generated; updates `statistics` along the way."""
        statistics.prompt_tokens = len(prompt_ids)
        model, tokenizer, decoder = self.loaded.model, self.loaded.tokenizer, self.decoder
        start = time.perf_counter()
        is_first = True
        for event in stream_events(model, prompt_ids, settings, tokenizer=tokenizer, decoder=decoder):
            statistics.new_tokens += 1
            statistics.seconds = time.perf_counter() - start
            statistics.first_token_seconds = statistics.first_token_seconds or statistics.seconds
            statistics.finish_reason = event.finish_reason or ""
            # The first word of an answer starts with the space after "Assistant:".
            text = event.text.removeprefix(" ") if is_first and self.loaded.is_chat else event.text
            if text:
                yield text
            is_first = is_first and not event.text

    def write(
        self, prompt_ids: Sequence[int], settings: GenerationSettings, *, output: Output, may_stop: bool = False
    ) -> tuple[str, Statistics]:
        """Write the new text to `output` as it is generated, with control characters made visible.

        Args:
            may_stop: Ctrl-C ends this text instead of the program.

        Returns:
            The text as the model wrote it, and its statistics.
        """

        def show(piece: str) -> None:
            output.write(visible(piece))
            output.flush()

        pieces, statistics = self.collect(prompt_ids, settings, may_stop=may_stop, on_piece=show)
        output.write("\n")
        output.flush()
        return "".join(pieces), statistics

    def collect(
        self,
        prompt_ids: Sequence[int],
        settings: GenerationSettings,
        *,
        may_stop: bool,
        on_piece: Callable[[str], None] | None = None,
    ) -> tuple[list[str], Statistics]:
        """The pieces of the new text and its statistics; up to Ctrl-C, if `may_stop`."""
        statistics = Statistics()
        pieces: list[str] = []
        try:
            for piece in self.stream(prompt_ids, settings, statistics):
                pieces.append(piece)
                if on_piece:
                    on_piece(piece)
        except KeyboardInterrupt as interrupt:
            if not may_stop or isinstance(interrupt, Terminated):
                raise
            statistics.finish_reason = "interrupted"
        return pieces, statistics
