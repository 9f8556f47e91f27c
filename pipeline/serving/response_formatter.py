"""Format answers like OpenAI's API, complete or in chunks: one class for completions, one for chat."""

import itertools
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from pipeline.generation.row import TokenEvent, TopLogprobs


class PromptTokensDetails(BaseModel):
    cached_tokens: int  # not read again, because the prefix cache had them


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class DefaultSettings(BaseModel):
    """What the server uses for fields that a request omits."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "local"
    context_window: int
    context_length: int  # the same, by the name that earlier versions used
    supports_chat: bool
    defaults: DefaultSettings


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class CompletionResponse(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class ChatCompletionResponse(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class TokenizeResponse(BaseModel):
    """vLLM's fields."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeResponse(BaseModel):
    prompt: str


@dataclass(frozen=True)
class Echo:
    """The prompt of each choice, which comes before its answer; without the answer it is only scored."""

    ids: Sequence[Sequence[int]]
    with_answer: bool


@dataclass
class Choice:
    """An answer collected from its events."""

    texts: list[str] = field(default_factory=list)
    events: list[TokenEvent] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, event: TokenEvent) -> None:
        self.texts.append(event.text)
        self.events.append(event)
        self.finish_reason = event.finish_reason


class ResponseFormatter(ABC):
    """The envelope and the usage, common to completions and chat."""

    prefix: str
    whole_object: str
    chunk_object: str
    ends_with_done = True  # a stream ends with the line ``data: [DONE]``

    def __init__(
        self, model: str, token_bytes: Sequence[bytes], *, with_logprobs: bool, with_token_ids: bool = False
    ) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.token_bytes = token_bytes
        self.with_logprobs = with_logprobs
        self.with_token_ids = with_token_ids
        self.report: dict[str, Any] = {}  # additional fields of a whole answer and of the first chunk

    def whole(self, choices: Sequence[Choice], num_prompt_tokens: int, num_cached: int) -> dict[str, Any]:
        num_tokens = sum(len(choice.events) for choice in choices)
        body = [
            self.whole_choice(index, choice) | self._token_ids(choice.events) for index, choice in enumerate(choices)
        ]
        envelope = self._envelope(self.whole_object, body)
        return {**envelope, **self.report, "usage": self.usage(num_prompt_tokens, num_tokens, num_cached)}

    def chunk(self, index: int, event: TokenEvent) -> dict[str, Any]:
        return self._envelope(self.chunk_object, [self.chunk_choice(index, event) | self._token_ids([event])])

    def chunks(self, index: int, event: TokenEvent) -> list[dict[str, Any]]:
        """What a stream sends for one event of an answer."""
        return [self.chunk(index, event)]

    def last_chunks(
        self, num_prompt_tokens: int, num_tokens: int, num_cached: int, *, with_usage: bool
    ) -> list[dict[str, Any]]:
        """Chunks sent after all text."""
        return [self.usage_chunk(num_prompt_tokens, num_tokens, num_cached)] if with_usage else []

    def error_chunk(self, error: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk that ends a stream because of `error`, the body of an error response."""
        return dict(error)

    def first_chunks(self, num_choices: int) -> list[dict[str, Any]]:
        """Chunks sent before any text; the first carries `report`."""
        chunks = self.opening(num_choices)
        if chunks:
            chunks[0] |= self.report
        return chunks

    def usage_chunk(self, num_prompt_tokens: int, num_tokens: int, num_cached: int) -> dict[str, Any]:
        """The last chunk, sent if ``stream_options.include_usage`` is true."""
        return {**self._envelope(self.chunk_object, []), "usage": self.usage(num_prompt_tokens, num_tokens, num_cached)}

    def usage(self, num_prompt_tokens: int, num_tokens: int, num_cached: int) -> dict[str, Any]:
        return usage(num_prompt_tokens, num_tokens, num_cached)

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        """Chunks sent before any text."""
        return []

    def _token_ids(self, events: Sequence[TokenEvent]) -> dict[str, Any]:
        return {"token_ids": [event.token_id for event in events]} if self.with_token_ids else {}

    def _detailed_logprobs(self, events: Sequence[TokenEvent]) -> list[dict[str, Any]]:
        """An entry for every token, also the end of the text; `id` and `entropy` (in nats) are our own."""
        return [
            {
                **self._token(event.token_id, event.logprob),
                "entropy": event.entropy,
                "top_logprobs": [self._token(token_id, logprob) for token_id, logprob in event.top_logprobs or ()],
            }
            for event in events
        ]

    def _token(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        data = self.token_bytes[token_id]
        return {"id": token_id, "token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}

    @abstractmethod
    def whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """One choice of a complete answer."""

    @abstractmethod
    def chunk_choice(self, index: int, event: TokenEvent) -> dict[str, Any]:
        """One choice of a chunk, for a single event of a stream."""

    def shown(self, events: Sequence[TokenEvent]) -> list[TokenEvent]:
        """The events of tokens with text: all except the EOS."""
        return [event for event in events if self.token_bytes[event.token_id]]

    def token_text(self, token_id: int) -> str:
        return token_text(self.token_bytes[token_id])

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


class CompletionFormatter(ResponseFormatter):
    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"
    prompt_ids: Sequence[Sequence[int]] = ()  # of each choice, if the request asks for them
    echo: Echo | None = None

    def __init__(
        self, model: str, token_bytes: Sequence[bytes], *, with_logprobs: bool, with_token_ids: bool = False
    ) -> None:
        super().__init__(model, token_bytes, with_logprobs=with_logprobs, with_token_ids=with_token_ids)
        self._echoed: set[int] = set()

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        if not self.report and not self.prompt_ids:
            return []
        empty = {"text": "", "logprobs": None, "finish_reason": None}
        choices = [{"index": index, **empty, **self._prompt_token_ids(index)} for index in range(num_choices)]
        return [self._envelope(self.chunk_object, [choice]) for choice in choices]

    def _prompt_token_ids(self, index: int) -> dict[str, Any]:
        return {"prompt_token_ids": self.prompt_ids[index]} if self.prompt_ids else {}

    def usage(self, num_prompt_tokens: int, num_tokens: int, num_cached: int) -> dict[str, Any]:
        return usage(num_prompt_tokens, num_tokens if self._has_answer else 0, num_cached)

    def whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        return self._choice(index, "".join(choice.texts), choice.events) | self._prompt_token_ids(index)

    def chunk_choice(self, index: int, event: TokenEvent) -> dict[str, Any]:
        return self._choice(index, event.text, [event])

    def _choice(self, index: int, text: str, events: Sequence[TokenEvent]) -> dict[str, Any]:
        scores = [_Score.of(event) for event in self._listed(events)] if self._has_answer else []
        if self.echo and index not in self._echoed:
            self._echoed.add(index)
            ids = self.echo.ids[index]
            scores = [*_prompt_scores(ids, events[0]), *scores]
            text = self._text_of(ids) + (text if self._has_answer else "")
        logprobs = self._logprobs(scores, events) if self.with_logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": events[-1].finish_reason}

    @property
    def _has_answer(self) -> bool:
        return self.echo is None or self.echo.with_answer

    def _listed(self, events: Sequence[TokenEvent]) -> Sequence[TokenEvent]:
        """With echo also the EOS: programs that score a prompt count one token per id."""
        return events if self.echo else self.shown(events)

    def _text_of(self, ids: Sequence[int]) -> str:
        return b"".join(self.token_bytes[token] for token in ids).decode("utf-8", "replace").removeprefix(" ")

    def _logprobs(self, scores: "Sequence[_Score]", events: Sequence[TokenEvent]) -> dict[str, Any]:
        tokens = [self.token_text(score.token_id) for score in scores]
        return {
            "tokens": tokens,
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [self._top(score) for score in scores],
            "text_offset": [0, *itertools.accumulate(map(len, tokens))][:-1],  # in characters
            "content": self._detailed_logprobs(events),
        }

    def _top(self, score: "_Score") -> dict[str, float] | None:
        """The alternatives and the token itself. Of tokens with the same text, the most likely one counts."""
        if score.top is None or score.logprob is None:
            return None
        top: dict[str, float] = {}
        for token_id, logprob in (*score.top, (score.token_id, score.logprob)):
            top.setdefault(self.token_text(token_id), logprob)
        return top


@dataclass(frozen=True)
class _Score:
    """A token in a completion's list of log-probabilities; the first of a prompt has none."""

    token_id: int
    logprob: float | None
    top: TopLogprobs | None

    @classmethod
    def of(cls, event: TokenEvent) -> "_Score":
        return cls(event.token_id, event.logprob, event.top_logprobs)


def _prompt_scores(ids: Sequence[int], first: TokenEvent) -> list[_Score]:
    """The tokens of a prompt, with the log-probabilities that come with its first new token."""
    scored = zip(ids[1:], first.prompt_logprobs or (), strict=False)
    return [_Score(ids[0], None, None), *(_Score(token, logprob, top) for token, (logprob, top) in scored)]


def token_text(data: bytes) -> str:
    """The text of one token; bytes that are not whole characters as OpenAI writes them, ``bytes:\\xe2\\x82``."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{value:02x}" for value in data)


class ChatFormatter(ResponseFormatter):
    """Strip the leading space of a message, because it belongs to the template (after ``Assistant:``)."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    starts_message = True  # False: the request has the message's beginning

    def __init__(
        self, model: str, token_bytes: Sequence[bytes], *, with_logprobs: bool, with_token_ids: bool = False
    ) -> None:
        super().__init__(model, token_bytes, with_logprobs=with_logprobs, with_token_ids=with_token_ids)
        self._begun: set[int] = set()

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        choices = [{"index": index, "delta": delta, "finish_reason": None} for index in range(num_choices)]
        return [self._envelope(self.chunk_object, [choice]) for choice in choices]

    def whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._without_space("".join(choice.texts)), "refusal": None}
        logprobs = self._logprobs(choice.events) if self.with_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def chunk_choice(self, index: int, event: TokenEvent) -> dict[str, Any]:
        text = event.text
        if text and index not in self._begun:
            self._begun.add(index)
            text = self._without_space(text)
        logprobs = self._logprobs([event]) if self.with_logprobs else None
        delta = {"content": text} if text else {}
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": event.finish_reason}

    def _without_space(self, text: str) -> str:
        return text.removeprefix(" ") if self.starts_message else text

    def _logprobs(self, events: Sequence[TokenEvent]) -> dict[str, Any]:
        return {"content": self._detailed_logprobs(events)}


def usage(num_prompt_tokens: int, num_tokens: int, num_cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt_tokens + num_tokens,
        "prompt_tokens_details": {"cached_tokens": num_cached},
    }
