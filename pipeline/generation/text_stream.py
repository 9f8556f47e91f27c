"""Turn tokens into text incrementally, without partial characters or partial stop strings.

    stream = TextStream(tokenizer, prompt_ids, stop=["\\nUser:"])
    for token in tokens:
        print(stream.push(token), end="")
        if stream.stopped: break
    print(stream.finish())

A character may span several tokens (byte fallback), and a token decoded alone loses the leading space that
SentencePiece puts before words. So this collects bytes and emits only whole characters.
"""

import codecs
from collections.abc import Sequence

from pipeline.tokenization.interface import Tokenizer


class TextStream:
    """The text of one continuation, which follows `context_ids`."""

    def __init__(self, tokenizer: Tokenizer, context_ids: Sequence[int], *, stop: Sequence[str] = ()) -> None:
        self._pieces = tokenizer.token_bytes()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # SentencePiece puts a space before the first piece of a text.
        self._drop_space = not any(self._pieces[token] for token in context_ids)
        # The context may end inside a character; its last byte then brings the whole character.
        self._decoder.decode(_unfinished_character(b"".join(self._pieces[token] for token in context_ids[-3:])))
        self._stop = _StopFinder(stop)

    @property
    def stopped(self) -> bool:
        """True once a stop string is found; the text ends before it."""
        return self._stop.found

    def push(self, token: int) -> str:
        """Add `token`; returns the text that is now certain, often a word, sometimes nothing."""
        return self._stop.push(self._decode(self._pieces[token]))

    def finish(self) -> str:
        """The text that was held back; call this after the last token."""
        return self._stop.push(self._decoder.decode(b"", final=True)) + self._stop.rest()

    def _decode(self, piece: bytes) -> str:
        if piece and self._drop_space:
            self._drop_space = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece)


def _unfinished_character(data: bytes) -> bytes:
    """The start of a UTF-8 character at the end of `data`, if its last bytes are missing."""
    for length in range(1, min(len(data), 3) + 1):
        lead = data[-length]
        if lead < 0x80:
            return b""
        if lead >= 0xC0:
            needed = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return data[-length:] if length < needed else b""
    return b""


class _StopFinder:
    """Emit text up to the first stop string, holding back anything that could be the start of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        if self.found:
            return ""
        if not self._stop:
            return text
        held = self._held + text
        starts = [start for start in map(held.find, self._stop) if start >= 0]
        if starts:
            self.found = True
            self._held = ""
            return held[: min(starts)]
        keep = max(self._overlap(held, stop) for stop in self._stop)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def rest(self) -> str:
        held = self._held
        self._held = ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest prefix of `stop` that `text` ends with."""
        lengths = range(min(len(text), len(stop) - 1), 0, -1)
        return next((length for length in lengths if text.endswith(stop[:length])), 0)
