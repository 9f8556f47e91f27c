"""The interface of a tokenizer, which `tokenizer.WikipediaTokenizer` implements."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypedDict

if TYPE_CHECKING:
    import numpy as np


class TextEncoder(Protocol):
    """The part of a tokenizer that chat templates need."""

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...


class Tokenizer(Protocol):
    """Text to ids and back. A text never becomes a special id: the characters ``</s>`` are characters."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """The same for two tokenizers only if they give the same ids."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str, *, add_bos: bool = False, add_eos: bool = False) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> "list[np.ndarray]":
        """The ids of each text as uint16, without BOS and EOS."""

    def verify_batch(self, texts: Sequence[str]) -> None:
        """Raise a PipelineError if `encode_batch` differs from `encode` on one of `texts`."""

    def decode(self, ids: Iterable[int]) -> str: ...

    def token_bytes(self) -> Sequence[bytes]:
        """The bytes of every id; none for special ids."""

    def token_byte_lengths(self) -> "np.ndarray":
        """(V,) int64, the length of each id's bytes."""


class TokenizerIdentity(TypedDict):
    """What datasets and checkpoints record, so that a different tokenizer is refused."""

    name: str
    fingerprint: str
    bos_id: int
    eos_id: int


def identity_of(tokenizer: Tokenizer) -> TokenizerIdentity:
    return {
        "name": tokenizer.name,
        "fingerprint": tokenizer.fingerprint,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
    }
