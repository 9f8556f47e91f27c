"""Encode prompts in a thread, so that the server can answer other requests in the meantime."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pipeline.formats.chat_template import Message, encode_prompt, fit_prompt
from pipeline.generation.settings import check_text
from pipeline.serving.engine import QueueFullError

if TYPE_CHECKING:
    from pipeline.serving.request_schemas import ChatMessage
    from pipeline.tokenization.wikipedia_tokenizer import WikipediaTokenizer

_Encoded = TypeVar("_Encoded")


@dataclass(frozen=True)
class Prompts:
    """The ids of a request's prompts, and what was left out of them: turns of a chat, tokens of texts."""

    ids: list[list[int]]
    num_dropped: int = 0


class PromptEncoder:
    """A single thread, so that many long prompts do not starve the event loop and the model's thread."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    async def encode(self, encode: Callable[[], _Encoded], *, num_answers: int) -> _Encoded:
        """Call `encode` in the thread and return its result.

        Raises:
            QueueFullError: more answers than `max_waiting` would be waiting to be encoded.
        """
        if self._num_waiting + num_answers > self._max_waiting:
            raise QueueFullError
        self._num_waiting += num_answers
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, encode)
        finally:
            self._num_waiting -= num_answers

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


class ThreadTokenizer:
    """A tokenizer that lets other threads run while it encodes.

    Hugging Face's `encode` holds the GIL throughout; `encode_batch` does not and returns the same ids.
    """

    def __init__(self, tokenizer: "WikipediaTokenizer") -> None:
        self._tokenizer = tokenizer
        self.bos_id = tokenizer.bos_id
        self.eos_id = tokenizer.eos_id

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode_batch_reference([text])[0])


def encode_texts(tokenizer: "WikipediaTokenizer", prompts: list[str] | list[list[int]], *, room: int | None) -> Prompts:
    """The ids of texts or lists of ids; of each, the newest `room` tokens if that is given."""
    whole = [encode_text_or_ids(tokenizer, prompt) for prompt in prompts]
    if room is None:
        return Prompts(whole)
    kept = [ids[-room:] for ids in whole]
    return Prompts(kept, sum(map(len, whole)) - sum(map(len, kept)))


def encode_chat(
    tokenizer: "WikipediaTokenizer",
    messages: Sequence[Message],
    *,
    template: str,
    room: int | None = None,
    continue_final_message: bool = False,
) -> Prompts:
    """The ids of a conversation; without the oldest turns that do not fit in `room` tokens if that is given."""
    encoder = ThreadTokenizer(tokenizer)
    if room is None:
        ids = encode_prompt(encoder, messages, template=template, continue_final_message=continue_final_message)
        return Prompts([ids])
    fitted = fit_prompt(encoder, messages, room=room, template=template, continue_final_message=continue_final_message)
    return Prompts([fitted.ids], fitted.num_dropped)


def plain_messages(messages: "Sequence[ChatMessage]") -> list[dict[str, str]]:
    """The messages with the template's roles: messages without text are left out, unless they are the user's, and
    neighbours with the same role become one."""
    plain: list[dict[str, str]] = []
    for message in messages:
        role = "system" if message.role == "developer" else message.role  # the name in OpenAI's newer clients
        if role != "user" and not message.content.strip():
            continue
        if plain and plain[-1]["role"] == role:
            plain[-1]["content"] += f"\n\n{message.content}"
        else:
            plain.append({"role": role, "content": message.content})
    return plain


def encode_text_or_ids(tokenizer: "WikipediaTokenizer", prompt: str | list[int]) -> list[int]:
    """BOS followed by the ids of a text; ids are returned unchanged."""
    if not isinstance(prompt, str):
        return prompt
    return [tokenizer.bos_id, *ThreadTokenizer(tokenizer).encode(check_text(prompt))]


def text_ids(tokenizer: "WikipediaTokenizer", text: str, *, add_bos: bool) -> list[int]:
    """The ids of a text, which may be empty."""
    return [tokenizer.bos_id] * add_bos + ThreadTokenizer(tokenizer).encode(text)
