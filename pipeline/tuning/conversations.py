"""Turn JSON lines of conversations into tokenized examples, and count skipped ones by reason.

report = ConversationReport(ConversationOptions(max_length=512))
examples = list(prepare_examples(iter_conversations(path, report), tokenizer, report))
print(report.summary())
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.formats.chat_template import (
    ConversationError,
    EncodedConversation,
    Turn,
    answered,
    assemble,
    read_turns,
    texts_of,
)
from pipeline.formats.cleaned_text import printable_name
from pipeline.formats.raw_files import RawFile, Record
from pipeline.tokenization.interface import Tokenizer
from utils.errors import PipelineError
from utils.terminal import styled, use_colour, visible

T = TypeVar("T")

NOTHING_TO_LEARN = "nothing to learn"
TOO_LONG = "too long"
OPEN_QUESTION = "final question without an answer"


@dataclass(frozen=True)
class ConversationOptions:
    """Options for preparing conversations.

    Args:
        max_length: maximum number of tokens in an example.
        too_long: ``drop`` or ``truncate`` longer conversations.
        strict: raise an error at the first malformed conversation instead of counting it.
    """

    max_length: int
    too_long: str = "drop"
    strict: bool = False


@dataclass
class ConversationReport:
    """Counts of kept, truncated and skipped conversations."""

    options: ConversationOptions
    read: int = 0
    kept: int = 0
    truncated: int = 0
    open_questions: int = 0  # dropped, but the turns before them are kept
    refused: Counter[str] = field(default_factory=Counter)  # reason → conversations
    first_seen: dict[str, str] = field(default_factory=dict)  # reason → the first such conversation

    def refuse(self, where: str, error: ConversationError) -> None:
        """Count a malformed conversation; with `strict`, raise PipelineError."""
        if self.options.strict:
            raise PipelineError(f"{where}: {error}; fix it, or remove --strict to skip such conversations")
        self.refused[error.reason] += 1
        self.first_seen.setdefault(error.reason, where)

    def summary(self) -> str:
        lines = [f"{self.kept:,} of {self.read:,} conversations kept (at most {self.options.max_length} tokens)"]
        if self.truncated:
            lines.append(f"  {self.truncated:,} of them truncated to {self.options.max_length} tokens")
        if self.open_questions:
            lines.append(f"  {self.open_questions:,} with a {OPEN_QUESTION}, which was dropped")
        for reason, count in self.refused.most_common():
            first = f" (first: {self.first_seen[reason]})" if reason in self.first_seen else ""
            lines.append(f"  {count:,} skipped: {reason}{first}")
        if self.refused[TOO_LONG]:
            lines.append("  to keep long ones: --max-length N, up to the model's context, or --too-long truncate")
        return "\n".join(lines)


@dataclass(frozen=True)
class Example:
    """A conversation as text turns, and as ids (uint16) with their mask (uint8)."""

    where: str
    turns: list[Turn]
    ids: np.ndarray
    mask: np.ndarray


def iter_conversations(path: Path, report: ConversationReport) -> Iterator[tuple[str, list[Turn]]]:
    """Yield the location and the answered turns of each well-formed conversation; count the others.

    A record is ``{"conversations": [question, answer, …]}`` as in LIMA, or ``{"messages": [{"role", "content"}, …]}``.
    """
    name = printable_name(path.name)
    for record in _records(path):
        where = f"{name}:{record.number}"
        report.read += 1
        try:
            turns = read_turns(_messages(record))
            if not answered(turns):
                raise ConversationError(NOTHING_TO_LEARN, "there is no answer")
        except ConversationError as error:
            report.refuse(where, error)
            continue
        if turns[-1].assistant is None:
            _count_open_question(where, report)
        yield where, answered(turns)


def prepare_examples(
    conversations: Iterable[tuple[str, list[Turn]]],
    tokenizer: Tokenizer,
    report: ConversationReport,
    *,
    batch_size: int = 100,
) -> Iterator[Example]:
    """Examples of at most `max_length` tokens, tokenized in batches of `batch_size` conversations."""
    for batch in _batches(conversations, batch_size):
        texts = list(chain.from_iterable(texts_of(turns) for _, turns in batch))
        encoded_texts = map(list, tokenizer.encode_batch(texts))
        for where, turns in batch:
            encoded = _fitted(where, assemble(tokenizer, turns, encoded_texts), report)
            if encoded:
                report.kept += 1
                yield Example(where, turns, np.array(encoded.ids, np.uint16), np.array(encoded.mask, np.uint8))


def show_preview(example: Example, tokenizer: Tokenizer) -> str:
    """A conversation decoded from its ids; the learned parts are green, or between ⟦ and ⟧ without colours."""
    pieces = list(tokenizer.token_bytes())
    pieces[tokenizer.bos_id] = b"<s>"
    pieces[tokenizer.eos_id] = b"</s>"
    runs: list[tuple[int, list[bytes]]] = []
    for token, supervised in zip(example.ids, example.mask, strict=True):
        if not runs or runs[-1][0] != supervised:
            runs.append((supervised, []))
        runs[-1][1].append(pieces[token])
    texts = ((supervised, visible(b"".join(run).decode("utf-8", errors="replace"))) for supervised, run in runs)
    body = "".join(_highlighted(text) if supervised else text for supervised, text in texts)
    return styled(f"{example.where}: {len(example.ids)} tokens, {example.mask.sum()} learned", "bold") + "\n" + body


def _highlighted(text: str) -> str:
    return styled(text, "green") if use_colour() else f"⟦{text}⟧"


def _records(path: Path) -> Iterator[Record]:
    try:
        with RawFile(path, kind="jsonl") as file:
            yield from file.records()
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist; expected a file with one JSON conversation per line") from None
    except OSError as error:
        raise PipelineError(
            f"{path} cannot be read: {error.strerror}; expected one JSON conversation per line"
        ) from None


def _messages(record: Record) -> list[dict[str, str]]:
    if record.value is None:
        reason, _, detail = record.problem.partition(": ")
        raise ConversationError(reason, detail)
    messages = record.value.get("messages")
    if isinstance(messages, list):
        return messages
    texts = record.value.get("conversations")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConversationError(
            "no conversation", "expected `conversations`, a list of strings, or `messages`, a list of {role, content}"
        )
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def _count_open_question(where: str, report: ConversationReport) -> None:
    if report.options.strict:
        report.refuse(where, ConversationError(OPEN_QUESTION))
    report.open_questions += 1


def _fitted(where: str, encoded: EncodedConversation, report: ConversationReport) -> EncodedConversation | None:
    """`encoded`, truncated if configured. Returns None, and counts it, if it is too long or has nothing to learn."""
    limit = report.options.max_length
    if len(encoded.ids) <= limit:
        return encoded
    if report.options.too_long == "drop":
        report.refused[TOO_LONG] += 1
        return None
    cut = EncodedConversation(encoded.ids[:limit], encoded.mask[:limit])
    if not any(cut.mask):
        report.refuse(where, ConversationError(NOTHING_TO_LEARN, f"its first {limit} tokens have no answer"))
        return None
    report.truncated += 1
    return cut


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items; Python 3.11 has no itertools.batched."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
