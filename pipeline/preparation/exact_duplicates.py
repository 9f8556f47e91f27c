"""Find exact duplicates by a 128-bit hash of each document's normalized text.

    hashes = [hash_documents(texts) for texts in files]      # file by file, in parallel
    masks = keep_masks(hashes)                               # a single merge; the first of equal documents is kept

Two documents are duplicates if they differ only in Unicode composition, white space and the case of A to Z. The
probability that any two of 10^9 different documents share a hash is 10^-21.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

_LOWER = bytes(range(256)).lower()
_WHITE_SPACE = b" \t\n\r\v\f"


def hash_documents(texts: Iterable[str]) -> np.ndarray:
    """(N, 2) uint64, the 128-bit hash of each text."""
    digests = b"".join(blake2b(normalised(text), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def normalised(text: str) -> bytes:
    """The normalized text, which is equal for duplicates.

    As bytes, because str.casefold and str.split are four times slower and would cost as much as the encoder.
    """
    return unicodedata.normalize("NFC", text).encode("utf-8").translate(_LOWER, _WHITE_SPACE)


def keep_masks(hashes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each of `hashes`, (N, 2), a bool mask (N,): False where an earlier document has the same hash.

    The order is that of `hashes`, then of their rows, so the result does not depend on the number of workers. Needs
    about 48 bytes of memory per document.
    """
    lengths = [len(part) for part in hashes]
    pairs = np.concatenate([part.reshape(-1, 2) for part in hashes]) if hashes else np.empty((0, 2), dtype=np.uint64)
    # lexsort is stable, so the first of equal documents comes first.
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    ordered = pairs[order]
    is_repeat = np.zeros(len(pairs), dtype=bool)
    is_repeat[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
    keep = np.ones(len(pairs), dtype=bool)
    keep[order[is_repeat]] = False
    return np.split(keep, np.cumsum(lengths)[:-1]) if hashes else []
