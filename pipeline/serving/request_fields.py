"""Types of request fields: texts in parts, formats of answers, fields without effect, and fields that are refused."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

TEXT_PARTS = ("text", "input_text", "output_text")

Ignored = Annotated[Any, Field(description="accepted but not used")]


def refuse(field: str, reason: str) -> NoReturn:
    """Refuse a request because of `field`, from inside a validator."""
    raise PydanticCustomError("refused", "{reason}", {"reason": reason, "field": field})


def only_neutral(reason: str, *neutral: object) -> BeforeValidator:
    """A validator that accepts null and the values in `neutral`, as null, and gives `reason` for others."""

    def check(value: object) -> None:
        if value is not None and not any(type(value) is type(same) and value == same for same in neutral):
            raise PydanticCustomError("refused", "{reason}", {"reason": reason})

    return BeforeValidator(check)


def without_nulls(fields: object, known: Collection[str]) -> object:
    """`fields` without `known` ones that are null."""
    if not isinstance(fields, dict):
        return fields
    return {name: value for name, value in fields.items() if value is not None or name not in known}


def join_parts(content: object) -> object:
    """The text of a message's `content`: its parts are put on lines of their own, null is no text."""
    if content is None:
        return ""
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "\n".join(map(_text_of, content))
    return content


def _text_of(part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind in TEXT_PARTS and isinstance(text, str):
        return text
    found = f"a part of type {kind!r}" if isinstance(kind, str) and kind not in TEXT_PARTS else "a part without a text"
    raise PydanticCustomError(
        "refused", "{reason}", {"reason": f'{found} is not supported; expected {{"type": "text", "text": "..."}}'}
    )


Content = Annotated[str, BeforeValidator(join_parts)]


class NamedSchema(BaseModel):
    """OpenAI's wrapper of a JSON schema; every schema is followed strictly."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, max_length=200)
    description: str | None = None
    schema_: dict[str, Any] = Field({}, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What an answer must look like."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _schema_if_needed(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            refuse("response_format", "expected json_schema with type json_schema, and only then")
        return self

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None: any text."""
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema else {"type": "object"}
