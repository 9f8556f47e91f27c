"""The fields of a request: OpenAI's and our extensions.

A field that changes nothing here, such as `service_tier`, is accepted. A field that would change the answer but is not
supported, such as `tools`, is refused by name.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from pipeline.generation.settings import GenerationSettings
from pipeline.serving.request_fields import (
    Content,
    Ignored,
    ResponseFormat,
    only_neutral,
    refuse,
    without_nulls,
)
from pipeline.serving.request_limits import (
    MAX_BIASES,
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_TOP_LOGPROBS,
)

_Number = TypeVar("_Number", int, float)
TokenId = Annotated[int, Field(ge=0, le=65_535)]


def _refuse_boolean(value: object) -> object:
    """For `Literal`, which accepts false for 0 and true for 1."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


One = Annotated[Literal[1] | None, BeforeValidator(_refuse_boolean)]
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

    include_usage: bool | None = False
    include_obfuscation: bool | None = Field(None, description="accepted but not used")


def _given(value: _Number | None, default: _Number) -> _Number:
    return default if value is None else value


class BaseRequest(BaseModel):
    """What every request may have. A field that is null counts as omitted."""

    # Strict: true is not 1, and "1" is not a number.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    model: str | None = Field(None, max_length=200, description="a name from /v1/models; default: the first")

    @model_validator(mode="before")
    @classmethod
    def _null_is_omitted(cls, fields: object) -> object:
        return without_nulls(fields, cls.model_fields)


class SharedFields(BaseRequest):
    """The fields that completions, chat and responses share."""

    temperature: float | None = Field(None, ge=0, le=100, description="0: always the most likely token")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(
        None, ge=-1, le=65_536, description="sample from the k most likely tokens; 0 or -1: all (an extension)"
    )
    min_p: float | None = Field(
        None, ge=0, lt=1, description="minimum probability relative to the top token (an extension)"
    )
    repetition_penalty: float | None = Field(None, gt=0, le=100, description="1: none (an extension)")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stream: bool = Field(False, description="stream server-sent events, one per piece of text")
    truncation: Literal["auto", "disabled"] | None = Field(
        None,
        description="auto: drop the oldest turns (of a text: the oldest tokens) that do not fit, and fit max_tokens to "
        "the room left; disabled, the default: refuse the request (OpenAI's name in the Responses API)",
    )
    metadata: Ignored = None
    parallel_tool_calls: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    user: Ignored = None

    def apply_to(self, defaults: GenerationSettings) -> GenerationSettings:
        """`defaults` with the sampling settings of the request."""
        return replace(
            defaults,
            temperature=_given(self.temperature, defaults.temperature),
            top_p=_given(self.top_p, defaults.top_p),
            top_k=max(0, _given(self.top_k, defaults.top_k)),
            min_p=_given(self.min_p, defaults.min_p),
            repetition_penalty=_given(self.repetition_penalty, defaults.repetition_penalty),
        )

    @property
    def may_truncate(self) -> bool:
        return self.truncation == "auto"


Bias = Annotated[float, Field(ge=-100, le=100)]
BiasedToken = Annotated[str, Field(pattern=r"^[0-9]{1,5}$")]


class SamplingRequest(SharedFields):
    """The fields common to completions and chat. Omitted fields use the server's configured defaults."""

    max_tokens: int | None = Field(None, ge=0, le=1_000_000, description="maximum number of new tokens")
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="number of answers per prompt")
    stop: Stops | None = Field(None, description="up to four strings that end the answer; not included in it")
    stream_options: StreamOptions | None = None
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="lowers a token's logit for every time that the answer already has it"
    )
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="lowers a token's logit if the answer already has it")
    logit_bias: dict[BiasedToken, Bias] = Field(
        {}, max_length=MAX_BIASES, description="number to add to the logits of token ids, from -100 to 100"
    )
    response_format: ResponseFormat | None = Field(None, description="text, json_object or json_schema")
    return_token_ids: bool = Field(False, description="return the token ids of prompt and answer (vLLM's name)")

    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def apply_to(self, defaults: GenerationSettings) -> GenerationSettings:
        return replace(
            super().apply_to(defaults),
            stop=self.stops(),
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=tuple((int(token), value) for token, value in self.logit_bias.items()),
        )

    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def answer_format(self) -> ResponseFormat | None:
        return self.response_format


class CompletionRequest(SamplingRequest):
    prompt: Prompt = Field(description="one or several texts, or the token ids of one or several")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="number of alternatives to list for each token"
    )
    echo: bool = Field(False, description="return the prompt, too; with logprobs, also its log-probabilities")
    best_of: One = None
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _new_tokens_unless_echo(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            refuse("max_tokens", "expected at least 1, or 0 with echo")
        return self

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each a text or a list of ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return cast(list[str] | list[list[int]], self.prompt)


NO_TOOLS = "this server does not call tools"


def _known_role(role: object) -> object:
    if role in ("tool", "function"):
        refuse("messages", f"the role {role!r} is not supported; {NO_TOOLS}")
    return role


class ChatMessage(BaseModel):
    """A message; fields of an assistant's message that clients send back are accepted if they are empty."""

    model_config = ConfigDict(extra="forbid")

    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_known_role)]
    content: Content = Field("", description="a text, or a list of parts with texts; null: no text")
    name: str | None = Field(None, max_length=200, description="accepted but not used")
    tool_calls: Annotated[None, only_neutral(f"tool_calls are not supported; {NO_TOOLS}", [])] = None
    function_call: Annotated[None, only_neutral(f"function_call is not supported; {NO_TOOLS}")] = None
    audio: Annotated[None, only_neutral("audio is not supported; expected text")] = None
    refusal: Ignored = None
    annotations: Ignored = None


class Continuation(BaseModel):
    """How a conversation ends, with the names of vLLM and transformers."""

    continue_final_message: bool = Field(
        False, description="continue the last message, which is the assistant's, instead of starting a new one"
    )
    add_generation_prompt: bool | None = Field(
        None, description="must be the opposite of continue_final_message, and may be left out"
    )

    def check_ending(self, messages: "Sequence[ChatMessage]") -> None:
        if self.add_generation_prompt is self.continue_final_message:
            expected = "false with" if self.continue_final_message else "true without"
            refuse("add_generation_prompt", f"expected {expected} continue_final_message")
        if not self.continue_final_message:
            return
        last = messages[-1]
        if last.role != "assistant":
            refuse(
                "continue_final_message", f"the last message is from the {last.role}; expected one from the assistant"
            )
        if not last.content.strip():
            refuse("continue_final_message", "the last message is empty; expected the beginning of an answer")


class ChatCompletionRequest(SamplingRequest, Continuation):
    messages: Annotated[list[ChatMessage], FAIL_FAST] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="maximum number of new tokens")
    max_completion_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="OpenAI's newer name for max_tokens"
    )
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    reasoning_effort: Ignored = None
    verbosity: Ignored = None
    prediction: Ignored = None
    tools: list[Any] = []
    tool_choice: Any = None
    functions: Annotated[None, only_neutral(NO_TOOLS, [])] = None
    function_call: Annotated[None, only_neutral(NO_TOOLS, "none", "auto")] = None
    modalities: Annotated[None, only_neutral('only text is supported; expected ["text"]', ["text"], [])] = None
    audio: Annotated[None, only_neutral("only text is supported")] = None
    web_search_options: Annotated[None, only_neutral("this server does not search the web")] = None

    @model_validator(mode="after")
    def _is_possible(self) -> "ChatCompletionRequest":
        check_no_tools(self.tools, self.tool_choice)
        self.check_ending(self.messages)
        if self.continue_final_message and self.response_format and self.response_format.type != "text":
            refuse("response_format", "it describes a whole answer; expected text with continue_final_message")
        if self.top_logprobs and not self.logprobs:
            refuse("top_logprobs", "it needs logprobs: true")
        return self

    @property
    def ends_with_answer(self) -> bool:
        return self.messages[-1].role == "assistant" and bool(self.messages[-1].content.strip())

    @property
    def length_field(self) -> str:
        """The field that has the number of new tokens."""
        return "max_completion_tokens" if self.max_completion_tokens else "max_tokens"

    @property
    def most_new_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


def check_no_tools(tools: list[Any], tool_choice: object) -> None:
    """Accept tools only if they must not be called."""
    if tools and tool_choice != "none":
        refuse("tools", f'{NO_TOOLS}; leave them out, or send tool_choice "none"')
    if tool_choice not in (None, "none", "auto"):
        refuse("tool_choice", f'{NO_TOOLS}; expected "none" or "auto"')


class TokenizeRequest(BaseRequest, Continuation):
    """vLLM's fields: a prompt or a conversation."""

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], FAIL_FAST] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    add_special_tokens: bool = Field(True, description="put the BOS before a prompt; conversations always have it")
    return_token_strs: bool = Field(False, description="return the text of each token, too")

    @model_validator(mode="after")
    def _either(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            refuse("prompt", "expected either prompt or messages")
        if self.messages:
            self.check_ending(self.messages)
        elif self.continue_final_message:
            refuse("continue_final_message", "it needs messages")
        return self


class DetokenizeRequest(BaseRequest):
    tokens: Annotated[list[TokenId], FAIL_FAST]
