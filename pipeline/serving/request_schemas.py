"""The fields of a request: OpenAI's and our extensions. No field is silently ignored.

OpenAI fields that this server does not support are accepted only with their neutral value.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from pipeline.generation.settings import GenerationSettings
from pipeline.serving.request_limits import MAX_CHOICES, MAX_MESSAGES, MAX_STOP_CHARACTERS, MAX_STOPS, MAX_TOP_LOGPROBS

_Number = TypeVar("_Number", int, float)
TokenId = Annotated[int, Field(ge=0, le=65_535)]


def _refuse_boolean(value: object) -> object:
    """For `Literal`, which accepts false for 0 and true for 1."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Unused = Annotated[Literal[0] | None, BeforeValidator(_refuse_boolean)]
# Stop validating a list at the first error, because reporting a hundred thousand of them takes seconds.
FAIL_FAST = Field(fail_fast=True)


def _kind(value: object) -> str:
    """The intended type of a value, so that only this member of the union is validated and reports errors."""
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
    """The fields common to completions and chat. Omitted fields use the server's configured defaults."""

    # Strict: true is not 1, and "1" is not a number.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    model: str | None = Field(None, max_length=200, description="a name from /v1/models; default: the first")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="maximum number of new tokens")
    temperature: float | None = Field(None, ge=0, le=100, description="0: always the most likely token")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(
        None, ge=0, le=65_536, description="sample from the k most likely tokens; 0: all (an extension)"
    )
    min_p: float | None = Field(
        None, ge=0, lt=1, description="minimum probability relative to the top token (an extension)"
    )
    repetition_penalty: float | None = Field(None, gt=0, le=100, description="1: none (an extension)")
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="number of answers per prompt")
    stop: Stops | None = Field(None, description="up to four strings that end the answer; not included in it")
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stream: bool = Field(False, description="stream server-sent events, one per piece of text")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=1000, description="accepted but not used")
    truncation: Literal["auto", "disabled"] | None = Field(
        None,
        description="auto: drop the oldest turns (of a text: the oldest tokens) that do not fit, and fit max_tokens to "
        "the room left; disabled, the default: refuse the request (OpenAI's name in the Responses API)",
    )
    return_token_ids: bool = Field(False, description="return the token ids of prompt and answer (vLLM's name)")

    # Sent by clients with their neutral values.
    frequency_penalty: Unused = None
    presence_penalty: Unused = None
    logit_bias: dict[str, Any] | None = Field(None, max_length=0)

    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def apply_to(self, defaults: GenerationSettings) -> GenerationSettings:
        """`defaults` with the sampling settings of the request."""
        return replace(
            defaults,
            temperature=_given(self.temperature, defaults.temperature),
            top_p=_given(self.top_p, defaults.top_p),
            top_k=_given(self.top_k, defaults.top_k),
            min_p=_given(self.min_p, defaults.min_p),
            repetition_penalty=_given(self.repetition_penalty, defaults.repetition_penalty),
        )

    @property
    def may_truncate(self) -> bool:
        return self.truncation == "auto"

    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(SamplingRequest):
    prompt: Prompt = Field(description="one or several texts, or the token ids of one or several")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="number of alternatives to list for each token"
    )
    echo: Literal[False] | None = None
    best_of: Annotated[Literal[1] | None, BeforeValidator(_refuse_boolean)] = None
    suffix: Literal[""] | None = None

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each a text or a list of ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return cast(list[str] | list[list[int]], self.prompt)


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = Field(None, max_length=200, description="accepted but not used")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


class ChatCompletionRequest(SamplingRequest):
    messages: Annotated[list[ChatMessage], FAIL_FAST] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="OpenAI's newer name for max_tokens"
    )
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(None, max_length=0)
