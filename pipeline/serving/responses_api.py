"""OpenAI's Responses API for text: its requests as chat requests, and its answers and events.

body.as_chat()                        # the chat request that is answered
ResponsesFormatter(served.name, served.token_bytes, body)
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.generation.row import TokenEvent
from pipeline.serving.request_fields import Content, Ignored, NamedSchema, ResponseFormat, only_neutral, refuse
from pipeline.serving.request_limits import MAX_MESSAGES, MAX_TOP_LOGPROBS
from pipeline.serving.request_schemas import (
    FAIL_FAST,
    ChatCompletionRequest,
    SharedFields,
    check_no_tools,
)
from pipeline.serving.response_formatter import ChatFormatter, Choice

LOGPROBS = "message.output_text.logprobs"
NOT_STORED = "responses are not stored; send the whole conversation as input"


def _message_type(kind: object) -> object:
    if kind != "message" and isinstance(kind, str):
        refuse("input", f"an item of type {kind!r} is not supported; expected messages")
    return kind


class InputItem(BaseModel):
    """A message of the conversation; messages of earlier answers may be sent back as they came."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[Literal["message"], BeforeValidator(_message_type)] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: Ignored = None
    status: Ignored = None
    phase: Ignored = None


class TextFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, max_length=200)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    def as_response_format(self) -> ResponseFormat:
        """The same format with the fields of a chat request."""
        if self.type != "json_schema":
            return ResponseFormat(type=self.type)
        if self.schema_ is None:
            refuse("text", "a format of type json_schema needs a schema")
        return ResponseFormat(type=self.type, json_schema=NamedSchema(name=self.name, schema=self.schema_))


class TextOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: TextFormat | None = None
    verbosity: Ignored = None


def _messages(given: object) -> object:
    """A text is one message of the user."""
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


class ResponsesRequest(SharedFields):
    input: Annotated[
        Annotated[list[InputItem], FAIL_FAST, Field(min_length=1, max_length=MAX_MESSAGES)], BeforeValidator(_messages)
    ] = Field(description="a text, or a list of messages")
    instructions: str | None = Field(None, description="a system message in front of the input")
    max_output_tokens: int | None = Field(None, ge=1, le=1_000_000, description="maximum number of new tokens")
    text: TextOptions | None = Field(None, description="its `format` is text, json_object or json_schema")
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    include: list[str] = Field([])
    tools: list[Any] = Field([])
    tool_choice: Any = None
    background: Annotated[None, only_neutral("answers are only given at once", False)] = None
    conversation: Annotated[None, only_neutral(NOT_STORED)] = None
    previous_response_id: Annotated[None, only_neutral(NOT_STORED)] = None
    prompt: Annotated[None, only_neutral("this server has no stored prompts")] = None
    max_tool_calls: Ignored = None
    reasoning: Ignored = None
    stream_options: Ignored = None

    @model_validator(mode="after")
    def _is_possible(self) -> "ResponsesRequest":
        check_no_tools(self.tools, self.tool_choice)
        if self.text and self.text.format:
            self.text.format.as_response_format()
        return self

    def as_chat(self) -> ChatCompletionRequest:
        """The chat request with the same answer."""
        messages = [{"role": item.role, "content": item.content} for item in self.input]
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        chosen = self.text.format if self.text else None
        same = ("model", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stream", "truncation")
        fields: dict[str, Any] = {name: getattr(self, name) for name in (*same, "top_logprobs")}
        fields["messages"] = messages
        fields["max_tokens"] = self.max_output_tokens
        fields["response_format"] = chosen.as_response_format() if chosen else None
        fields["logprobs"] = LOGPROBS in self.include or bool(self.top_logprobs)
        return ChatCompletionRequest.model_validate(fields)


class ResponsesFormatter(ChatFormatter):
    """A `response` object, or its events: created, in progress, the message and its text, completed."""

    prefix = "resp"
    ends_with_done = False

    def __init__(
        self, model: str, token_bytes: Sequence[bytes], body: ResponsesRequest, *, with_logprobs: bool
    ) -> None:
        super().__init__(model, token_bytes, with_logprobs=with_logprobs)
        self._body = body
        self._message_id = f"msg_{uuid.uuid4().hex}"
        self._choice = Choice()
        self._num_events = 0

    def whole(self, choices: Sequence[Choice], num_prompt_tokens: int, num_cached: int) -> dict[str, Any]:
        [choice] = choices
        counted = self.usage(num_prompt_tokens, len(choice.events), num_cached)
        is_cut = choice.finish_reason == "length"
        return self._response(
            "incomplete" if is_cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
            output=[self._message(choice)],
            usage={
                "input_tokens": counted["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": num_cached, "cache_write_tokens": 0},
                "output_tokens": counted["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": counted["total_tokens"],
            },
        )

    def first_chunks(self, num_choices: int) -> list[dict[str, Any]]:
        started = self._response("in_progress")
        message = {**self._message(Choice(), "in_progress"), "content": []}
        return [
            self._event("response.created", response=started),
            self._event("response.in_progress", response=started),
            self._event("response.output_item.added", output_index=0, item=message),
            self._part_event("response.content_part.added", part=self._part(Choice())),
        ]

    def chunks(self, index: int, event: TokenEvent) -> list[dict[str, Any]]:
        delta = self.chunk_choice(index, event)["delta"].get("content", "")
        self._choice.add(event)
        logprobs = self._detailed_logprobs([event]) if self.with_logprobs else []
        if not delta and not logprobs:
            return []
        return [self._part_event("response.output_text.delta", delta=delta, logprobs=logprobs)]

    def last_chunks(
        self, num_prompt_tokens: int, num_tokens: int, num_cached: int, *, with_usage: bool
    ) -> list[dict[str, Any]]:
        part = self._part(self._choice)
        response = self.whole([self._choice], num_prompt_tokens, num_cached)
        return [
            self._part_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"]),
            self._part_event("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=0, item=self._message(self._choice)),
            self._event(f"response.{response['status']}", response=response),
        ]

    def error_chunk(self, error: Mapping[str, Any]) -> dict[str, Any]:
        return self._event("error", **{name: error["error"][name] for name in ("code", "message", "param")})

    def _event(self, kind: str, **fields: object) -> dict[str, Any]:
        self._num_events += 1
        return {"type": kind, "sequence_number": self._num_events - 1, **fields}

    def _part_event(self, kind: str, **fields: object) -> dict[str, Any]:
        return self._event(kind, item_id=self._message_id, output_index=0, content_index=0, **fields)

    def _part(self, choice: Choice) -> dict[str, Any]:
        logprobs = self._detailed_logprobs(choice.events) if self.with_logprobs else []
        text = "".join(choice.texts).removeprefix(" ")
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _message(self, choice: Choice, status: str | None = None) -> dict[str, Any]:
        ended = "incomplete" if choice.finish_reason == "length" else "completed"
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": status or ended,
            "content": [self._part(choice)],
        }

    def _response(self, status: str, **fields: object) -> dict[str, Any]:
        body = self._body
        text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
        return {
            "id": self.id.replace("-", "_"),
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}} | text,
            "tool_choice": "none",
            "tools": [],
            "top_p": body.top_p,
            "truncation": body.truncation or "disabled",
            "usage": None,
            **self.report,
            **fields,
        }
