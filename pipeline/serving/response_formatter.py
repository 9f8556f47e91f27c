"""Format answers like OpenAI's API, complete or in chunks: one class for completions, one for chat."""

import itertools
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from pipeline.generation.batch_generator import TokenEvent


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
        return {**envelope, **self.report, "usage": usage(num_prompt_tokens, num_tokens, num_cached)}

    def chunk(self, index: int, event: TokenEvent) -> dict[str, Any]:
        return self._envelope(self.chunk_object, [self.chunk_choice(index, event) | self._token_ids([event])])

    def first_chunks(self, num_choices: int) -> list[dict[str, Any]]:
        """Chunks sent before any text; the first carries `report`."""
        chunks = self.opening(num_choices)
        if chunks:
            chunks[0] |= self.report
        return chunks

    def usage_chunk(self, num_prompt_tokens: int, num_tokens: int, num_cached: int) -> dict[str, Any]:
        """The last chunk, sent if ``stream_options.include_usage`` is true."""
        return {**self._envelope(self.chunk_object, []), "usage": usage(num_prompt_tokens, num_tokens, num_cached)}

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
        return self.token_bytes[token_id].decode("utf-8", "replace")

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


class CompletionFormatter(ResponseFormatter):
    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"
    prompt_ids: Sequence[Sequence[int]] = ()  # of each choice, if the request asks for them

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        if not self.report and not self.prompt_ids:
            return []
        empty = {"text": "", "logprobs": None, "finish_reason": None}
        choices = [{"index": index, **empty, **self._prompt_token_ids(index)} for index in range(num_choices)]
        return [self._envelope(self.chunk_object, [choice]) for choice in choices]

    def _prompt_token_ids(self, index: int) -> dict[str, Any]:
        return {"prompt_token_ids": self.prompt_ids[index]} if self.prompt_ids else {}

    def whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        logprobs = self._logprobs(choice.events) if self.with_logprobs else None
        return {
            "index": index,
            "text": "".join(choice.texts),
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            **self._prompt_token_ids(index),
        }

    def chunk_choice(self, index: int, event: TokenEvent) -> dict[str, Any]:
        logprobs = self._logprobs([event]) if self.with_logprobs else None
        return {"index": index, "text": event.text, "logprobs": logprobs, "finish_reason": event.finish_reason}

    def _logprobs(self, all_events: Sequence[TokenEvent]) -> dict[str, Any]:
        events = self.shown(all_events)
        tokens = [self.token_text(event.token_id) for event in events]
        offsets = [0, *itertools.accumulate(map(len, tokens))][:-1]
        top = [
            {self.token_text(token_id): logprob for token_id, logprob in event.top_logprobs or ()} for event in events
        ]
        return {
            "tokens": tokens,
            "token_logprobs": [event.logprob for event in events],
            "top_logprobs": top,
            "text_offset": offsets,  # in characters, from the start of this text
            "content": self._detailed_logprobs(all_events),
        }


class ChatFormatter(ResponseFormatter):
    """Strip the leading space, which belongs to the template (after ``Assistant:``) and not to the message."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

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
        message = {"role": "assistant", "content": "".join(choice.texts).removeprefix(" "), "refusal": None}
        logprobs = self._logprobs(choice.events) if self.with_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def chunk_choice(self, index: int, event: TokenEvent) -> dict[str, Any]:
        text = event.text
        if text and index not in self._begun:
            self._begun.add(index)
            text = text.removeprefix(" ")
        logprobs = self._logprobs([event]) if self.with_logprobs else None
        delta = {"content": text} if text else {}
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": event.finish_reason}

    def _logprobs(self, events: Sequence[TokenEvent]) -> dict[str, Any]:
        return {"content": self._detailed_logprobs(events)}


def usage(num_prompt_tokens: int, num_tokens: int, num_cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt_tokens + num_tokens,
        "prompt_tokens_details": {"cached_tokens": num_cached},
    }
