"""Drop conversations that repeat an earlier one or share words with an evaluation set.

screen = Screen(deduplicate=True, evaluation=EvaluationIndex.load(Path("eval")))
screen.check("chats.jsonl:7", turns)          # raises Screened
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

from pipeline.formats.chat_template import Turn, texts_of

DUPLICATE = "duplicate"


class Match(Protocol):
    """The words that a text shares with an evaluation set."""

    @property
    def set_name(self) -> str: ...
    @property
    def words(self) -> str: ...


class EvaluationSets(Protocol):
    """The n-grams of the evaluation sets, as in `pipeline.preparation.decontamination`."""

    def find(self, text: str) -> Match | None: ...
    def stamp(self) -> dict[str, Any]: ...


class Screened(Exception):
    """A conversation to leave out: a short `reason` for counting, and the details."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Screen:
    """Check conversation after conversation, over all files.

    Args:
        deduplicate: drop conversations whose texts are those of an earlier one.
        evaluation: None skips that check.
    """

    def __init__(self, *, deduplicate: bool, evaluation: EvaluationSets | None = None) -> None:
        self.evaluation = evaluation
        self._deduplicate = deduplicate
        self._seen: dict[bytes, str] = {}  # hash of the texts → the first such conversation

    def check(self, where: str, turns: Sequence[Turn]) -> None:
        """Raise Screened for a conversation to leave out."""
        match = self.evaluation.find("\n".join(texts_of(turns))) if self.evaluation else None
        if match:
            raise Screened(f"shares 13 words with {match.set_name}", match.words)
        if self._deduplicate:
            self._refuse_repeated(where, turns)

    def _refuse_repeated(self, where: str, turns: Sequence[Turn]) -> None:
        key = blake2b("\0".join(texts_of(turns)).encode(), digest_size=16).digest()
        first = self._seen.setdefault(key, where)
        if first != where:
            raise Screened(DUPLICATE, f"the same texts as {first}")
