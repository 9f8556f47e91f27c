"""Turn records of conversations into tokenized examples, and record skipped ones with their reasons.

report = ConversationReport(ConversationOptions(max_length=512))
conversations = iter_conversations(path, path.name, report, screen)
examples = list(prepare_examples(conversations, tokenizer, report))
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
from pipeline.formats.raw_files import Record
from pipeline.tokenization.interface import Tokenizer
from pipeline.tuning.conversation_files import read_records
from pipeline.tuning.record_formats import UNKNOWN_FORMAT, messages_of
from pipeline.tuning.screening import Screen, Screened
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


@dataclass(frozen=True)
class LeftOut:
    """A skipped conversation."""

    where: str  # file:number
    reason: str
    detail: str

    @property
    def number(self) -> int:
        return int(self.where.rpartition(":")[2])


@dataclass
class ConversationReport:
    """Counts of kept and truncated conversations, and the skipped ones."""

    options: ConversationOptions
    read: int = 0
    kept: int = 0
    truncated: int = 0
    open_questions: int = 0  # dropped, but the turns before them are kept
    formats: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def refused(self) -> Counter[str]:
        """Reason → skipped conversations."""
        return Counter(skipped.reason for skipped in self.left_out)

    def refuse(self, where: str, error: ConversationError) -> None:
        """Count a malformed conversation; with `strict`, raise PipelineError."""
        if self.options.strict:
            raise PipelineError(f"{where}: {error}; fix it, or remove --strict to skip such conversations")
        self.leave_out(where, error.reason, error.detail)

    def leave_out(self, where: str, reason: str, detail: str = "") -> None:
        self.left_out.append(LeftOut(where, reason, detail))

    def summary(self) -> str:
        lines = [f"{self.kept:,} of {self.read:,} conversations kept (at most {self.options.max_length} tokens)"]
        if self.truncated:
            lines.append(f"  {self.truncated:,} of them truncated to {self.options.max_length} tokens")
        if self.open_questions:
            lines.append(f"  {self.open_questions:,} with a {OPEN_QUESTION}, which was dropped")
        refused = self.refused
        first_seen = {skipped.reason: skipped.where for skipped in reversed(self.left_out)}
        for reason, count in refused.most_common():
            lines.append(f"  {count:,} skipped: {reason} (first: {first_seen[reason]})")
        if refused[TOO_LONG]:
            lines.append("  to keep long ones: --max-length N, up to the model's context, or --too-long truncate")
        return "\n".join(lines)


@dataclass(frozen=True)
class Example:
    """A conversation as text turns, and as ids (uint16) with their mask (uint8)."""

    where: str
    turns: list[Turn]
    ids: np.ndarray
    mask: np.ndarray


def iter_conversations(
    path: Path, name: str, report: ConversationReport, screen: Screen
) -> Iterator[tuple[str, list[Turn]]]:
    """Yield the location and the answered turns of each usable conversation; record the others in `report`.

    Args:
        name: the file's name in locations.

    Raises:
        PipelineError: the file is damaged, or no record has the fields of a conversation.
    """
    unknown: tuple[str, ConversationError] | None = None
    is_recognized = False
    for record in read_records(path):
        where = f"{name}:{record.number}"
        report.read += 1
        try:
            turns = _turns(record, report)
            is_recognized = True
            screen.check(where, turns)
        except ConversationError as error:
            if error.reason == UNKNOWN_FORMAT:
                unknown = unknown or (f"{path}:{record.number}", error)
            else:
                is_recognized = is_recognized or record.value is not None
            report.refuse(where, error)
            continue
        except Screened as screened:
            report.leave_out(where, screened.reason, screened.detail)
            continue
        if turns[-1].assistant is None:
            _count_open_question(where, report)
        yield where, answered(turns)
    if unknown and not is_recognized:
        raise PipelineError(f"{unknown[0]}: {unknown[1].detail}")


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


def _turns(record: Record, report: ConversationReport) -> list[Turn]:
    """The turns of a record, of which at least one has an answer."""
    if record.value is None:
        reason, _, detail = record.problem.partition(": ")
        raise ConversationError(reason, detail)
    name, messages = messages_of(record.value)
    report.formats[name] += 1
    turns = read_turns(messages)
    if not answered(turns):
        raise ConversationError(NOTHING_TO_LEARN, "there is no answer")
    return turns


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
        report.leave_out(where, TOO_LONG, f"{len(encoded.ids):,} tokens")
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
