"""Recognize the format of a conversation by its fields, and turn it into messages.

    name, messages = messages_of({"instruction": "Add these.", "input": "2, 3", "output": "5"})   # "Alpaca", …

| format | fields |
|---|---|
| messages | `messages`: a list of {role, content}, as in OpenAI's files and SmolTalk |
| ShareGPT | `conversations`: a list of {from, value} |
| LIMA | `conversations`: a list of texts, question and answer in turn |
| Alpaca | `instruction`, `output`, and optionally `input` |

The lists may have either name, `conversation` too. Other fields are ignored, except a text in `system`.
"""

from collections.abc import Mapping, Sequence
from typing import TypeGuard

from pipeline.formats.chat_template import ConversationError
from utils.terminal import visible

UNKNOWN_FORMAT = "no conversation"
EXPECTED_FIELDS = (
    "`messages` or `conversations` (a list of {role, content}, of {from, value} or of texts), "
    "or `instruction` and `output`"
)

_LISTS = ("messages", "conversations", "conversation")
_ROLES = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_FIELDS_SHOWN = 8

Record = Mapping[str, object]


def messages_of(record: Record) -> tuple[str, list[dict[str, str]]]:
    """The name of the format and the messages with the roles system, user and assistant.

    Empty system messages are left out. Other roles are returned unchanged, for `read_turns` to refuse.

    Raises:
        ConversationError: no known format, or content that is not text.
    """
    name, messages = _recognized(record)
    messages = [message for message in messages if message["role"] != "system" or message["content"].strip()]
    system = record.get("system")
    if isinstance(system, str) and system.strip() and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": system})
    return name, messages


def _recognized(record: Record) -> tuple[str, list[dict[str, str]]]:
    for key in _LISTS:
        items = record.get(key)
        if not isinstance(items, Sequence) or isinstance(items, str):
            continue
        if _are_records(items, "role", "content"):
            return "messages", [_message(item["role"], item["content"]) for item in items]
        if _are_records(items, "from", "value"):
            return "ShareGPT", [_message(item["from"], item["value"]) for item in items]
        if items and all(isinstance(item, str) for item in items):
            return "LIMA", [_message(("user", "assistant")[place % 2], text) for place, text in enumerate(items)]
    if isinstance(record.get("instruction"), str) and isinstance(record.get("output"), str):
        return "Alpaca", _alpaca(record)
    raise ConversationError(UNKNOWN_FORMAT, f"found {_fields(record)}; expected {EXPECTED_FIELDS}")


def _are_records(items: Sequence[object], *keys: str) -> TypeGuard[Sequence[Record]]:
    return bool(items) and all(isinstance(item, Mapping) and keys[0] in item and keys[1] in item for item in items)


def _alpaca(record: Record) -> list[dict[str, str]]:
    question = str(record["instruction"])
    context = record.get("input")
    if isinstance(context, str) and context.strip():
        question = f"{question}\n\n{context}"
    return [_message("user", question), _message("assistant", record["output"])]


def _message(role: object, content: object) -> dict[str, str]:
    name = _ROLES.get(str(role), str(role))
    return {"role": name, "content": _text(content, name)}


def _text(content: object, role: str) -> str:
    """`content`, a text or OpenAI's list of text parts."""
    if isinstance(content, str):
        return content
    if content is None and role == "system":
        return ""
    parts = content if isinstance(content, Sequence) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ConversationError("no text", f"a message with role {visible(role)} has no text")
    return "\n".join(map(str, texts))


def _fields(record: Record) -> str:
    names = [visible(str(name))[:40] for name in record]
    more = f" and {len(names) - _FIELDS_SHOWN} more" if len(names) > _FIELDS_SHOWN else ""
    return f"the fields {', '.join(names[:_FIELDS_SHOWN])}{more}" if names else "no fields"
