"""The fields of a request: OpenAI's and our own extensions; none is silently ignored.

A field of OpenAI's that this server cannot honour is accepted only with the value that means "not used".
"""

from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from pipeline.generation.settings import GenerationSettings
from pipeline.serving.request_limits import MAX_CHOICES, MAX_MESSAGES, MAX_STOP_CHARACTERS, MAX_STOPS, MAX_TOP_LOGPROBS

_Number = TypeVar("_Number", int, float)
TokenId = Annotated[int, Field(ge=0, le=65_535)]


def _refuse_boolean(value: object) -> object:
    """For `Literal`, which takes false for 0 and true for 1."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Unused = Annotated[Literal[0] | None, BeforeValidator(_refuse_boolean)]
# Validation of a list stops at the first error: reporting a hundred thousand of them takes seconds.
FAIL_FAST = Field(fail_fast=True)


def _kind(value: object) -> str:
    """The type a value is meant to have, so that only this member of the union is validated and reports errors."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    return "ids of several" if isinstance(first, list) else "texts" if isinstance(first, str) else "ids"


Stop = Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)]
Stops = Annotated[
    Annotated[Stop, Tag("text")] | Annotated[list[Stop], Field(max_length=MAX_STOPS), FAIL_FAST, Tag("texts")],
    Discriminator(lambda value: "texts" if isinstance(value, list) else "text"),
]
Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], FAIL_FAST, Tag("texts")]
    | Annotated[list[TokenId], FAIL_FAST, Tag("ids")]
    | Annotated[list[Annotated[list[TokenId], FAIL_FAST]], FAIL_FAST, Tag("ids of several")],
    Discriminator(_kind),
]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


def _given(value: _Number | None, default: _Number) -> _Number:
    return default if value is None else value


class SamplingRequest(BaseModel):
    """The fields that completions and chat share. A field left out takes the server's configured default."""

    # Strict: a true is not a 1, and "1" is not a number.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    model: str | None = Field(None, max_length=200, description="one of /v1/models; left out: the first")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="new tokens at most")
    temperature: float | None = Field(None, ge=0, le=100, description="0: always the likeliest token")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=65_536, description="draw among the k likeliest; 0: all (an extension)")
    min_p: float | None = Field(
        None, ge=0, lt=1, description="least share of the likeliest's probability (an extension)"
    )
    repetition_penalty: float | None = Field(None, gt=0, le=100, description="1: none (an extension)")
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="answers to each prompt")
    stop: Stops | None = Field(None, description="at most four texts that end the answer; not part of it")
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stream: bool = Field(False, description="server-sent events, one for each piece of text")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=1000, description="accepted, not used")

    # What clients send at its neutral value.
    frequency_penalty: Unused = None
    presence_penalty: Unused = None
    logit_bias: dict[str, Any] | None = Field(None, max_length=0)

    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def apply_to(self, defaults: GenerationSettings) -> GenerationSettings:
        """`defaults` with the sampling settings that the request gives."""
        return replace(
            defaults,
            temperature=_given(self.temperature, defaults.temperature),
            top_p=_given(self.top_p, defaults.top_p),
            top_k=_given(self.top_k, defaults.top_k),
            min_p=_given(self.min_p, defaults.min_p),
            repetition_penalty=_given(self.repetition_penalty, defaults.repetition_penalty),
        )

    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(SamplingRequest):
    prompt: Prompt = Field(description="a text, several, or the token ids of one or several")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS, description="alternatives to list at each token")
    echo: Literal[False] | None = None
    best_of: Annotated[Literal[1] | None, BeforeValidator(_refuse_boolean)] = None
    suffix: Literal[""] | None = None

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one or several, each a text or its ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return cast(list[str] | list[list[int]], self.prompt)


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = Field(None, max_length=200, description="accepted, not used")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


class ChatCompletionRequest(SamplingRequest):
    messages: Annotated[list[ChatMessage], FAIL_FAST] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000, description="OpenAI's newer name of max_tokens")
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(None, max_length=0)
