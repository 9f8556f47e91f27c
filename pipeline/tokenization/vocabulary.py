"""A byte-fallback BPE in SentencePiece's layout (Llama, CodeLlama): pieces, merges, and what follows from them.

Every source of a tokenizer (`tokenizer.model`, `tokenizer.json`, training) becomes a `Vocabulary`, and every engine is
built from its `to_json`, so all of them hold the same rules: a text gets the prefix "▁", spaces become "▁", the
characters ``<s>`` are text, and a character without a piece falls back to its UTF-8 bytes.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from utils.errors import PipelineError

SPACE = "\u2581"  # ▁, what SentencePiece writes for a space
SPECIAL_PIECES = ("<unk>", "<s>", "</s>")
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
MAX_VOCAB_SIZE = 65_536  # token files are uint16

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}
_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


@dataclass(frozen=True)
class Vocabulary:
    """Pieces in the order of their ids, and merges in the order of their priority.

    Args:
        controls: ids that no text ever gives and that decode to nothing, among them the three special ones.
    """

    pieces: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    controls: frozenset[int] = frozenset((0, 1, 2))

    def problem(self) -> str:
        """What keeps these pieces from being such a tokenizer, or an empty string."""
        if len(self.pieces) > MAX_VOCAB_SIZE:
            return f"it has {len(self.pieces):,} pieces; expected at most {MAX_VOCAB_SIZE:,} (uint16)"
        if len(set(self.pieces)) != len(self.pieces):
            return "it contains a duplicate piece"
        missing = set(BYTE_PIECES) - set(self.pieces)
        if missing:
            return (
                f"it is missing {len(missing)} of the 256 byte pieces <0x00>…<0xFF>; expected a BPE with byte fallback"
            )
        return ""

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """The UTF-8 bytes that each id stands for: "▁" a space, ``<0xE2>`` that byte, a control id none."""
        return tuple(b"" if i in self.controls else _piece_bytes(piece) for i, piece in enumerate(self.pieces))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over pieces, merges, normalizer and special ids: the same for every file form of a tokenizer.

        The ways to split one piece are sorted: SentencePiece gives them equal priority, converters write them in
        different orders.
        """
        merges = [sorted(group) for _, group in groupby(self.merges, key="".join)]
        content = [self.pieces, merges, _NORMALIZER, [self.unk_id, self.bos_id, self.eos_id], sorted(self.controls)]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode("ascii")).hexdigest()

    def to_json(self, *, added_tokens: bool) -> str:
        """The text of a `tokenizer.json`.

        Args:
            added_tokens: declare the control ids, as files for other programs do. Without it an engine has no way to
                find ``<s>`` in a text.
        """
        added = [_added_token(i, self.pieces[i]) for i in sorted(self.controls)] if added_tokens else []
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": self.pieces[self.unk_id],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(self.pieces)},
            "merges": self.merges,
        }
        content = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": _NORMALIZER,
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": _DECODER,
            "model": model,
        }
        return json.dumps(content, ensure_ascii=False)


def merges_by_priority(
    pieces: Sequence[str], priorities: Sequence[float], *, reserved: frozenset[int]
) -> tuple[tuple[str, str], ...]:
    """Every pair of pieces whose joined text is a piece, the highest priority first, as SentencePiece merges.

    Among the pairs that make the same piece the order is that of their ids. `reserved` ids (control and byte pieces)
    take part in no merge: their pieces are names, not text.
    """
    ids = {piece: i for i, piece in enumerate(pieces) if i not in reserved}
    merges = []
    for piece in sorted(ids, key=lambda piece: -priorities[ids[piece]]):
        splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        pairs = [pair for pair in splits if pair[0] in ids and pair[1] in ids]
        merges.extend(sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]])))
    return tuple(merges)


def checked(vocabulary: Vocabulary, *, origin: object) -> Vocabulary:
    problem = vocabulary.problem()
    if problem:
        raise PipelineError(f"{origin} does not contain a usable tokenizer: {problem}")
    return vocabulary


def byte_of(piece: str) -> int | None:
    """``<0x41>`` → 65; None for any other piece."""
    match = _BYTE_PIECE.fullmatch(piece)
    return int(match[1], 16) if match else None


def _piece_bytes(piece: str) -> bytes:
    byte = byte_of(piece)
    return piece.replace(SPACE, " ").encode("utf-8") if byte is None else bytes([byte])


def _added_token(token_id: int, piece: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": piece, **flags}
