"""Encode corpora with the fastest exact engine (gigatoken), and check it against the reference while it runs.

encoder = BulkEncoder(vocabulary, reference=encode_batch_of_tokenizers)
arrays = encoder.encode(texts)      # one uint16 array a text, all cores; one core in a worker process
encoder.verify(texts[:8])           # raises if the engine's ids differ from the reference's
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import parent_process
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tokenization.vocabulary import Vocabulary
from utils.errors import PipelineError

if TYPE_CHECKING:
    from gigatoken import Tokenizer

Reference = Callable[[Sequence[str]], list[list[int]]]

# What engines get wrong first: spaces at the edges and in runs, control characters, text that looks like special
# or byte tokens, "▁" itself, combining marks, emoji with joiners, characters without a piece, long runs.
PROBES = (
    "", " ", "  ", "   a  b   ", "\n", "\n\n\n", "\t\tx\t", "\r\n", "a\x00b", "\x00", "\x7f\x85\xa0",
    "Hello world", " Hello  world ", "def f(x):\n    return x + 1\n", "1234567890 3.14159 1,000,000",
    "<s>a</s><unk>", "</s>", "<0x41>", "<0x0A><0xFF>", "▁", "▁▁ ▁a▁", " <PRE> a <SUF> b <MID>", "<EOT><EOT>",
    "Café Cafe\u0301 naïve ﬁ Å", "Zürich, Łódź, Αθήνα, Москва, القاهرة, 東京, 서울, กรุงเทพ", "👩‍👩‍👧‍👦🏳️‍🌈 👍🏽",
    "\u200b\u200d\ufeff\u2028\u2029", "𝕬𝖇𝖈 \U0010ffff", "a" * 300, "aaab" * 40, "-" * 77, " " * 65,
    "http://example.org/a_b?c=d&e=%20", "Don't stop--believing... \"quoted\" 'text' (1999–2004)",
)  # fmt: skip


class BulkEncoder:
    """gigatoken behind a check.

    In a worker process it runs on one core with a cache that grows with every new word (0.7 GB over 120 MB of them),
    so there the engine is replaced after `renew_after` bytes; elsewhere it forgets its caches after every call.
    """

    def __init__(self, vocabulary: Vocabulary, *, reference: Reference, renew_after: int = 32 << 20) -> None:
        self._json = vocabulary.to_json(added_tokens=False)
        self._reference = reference
        self._renew_after = renew_after
        self._engine = self._new_engine()
        self._bytes_encoded = 0
        self.verify(PROBES)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, a view of one uint16 array.

        Raises:
            UnicodeEncodeError: a text that is not valid Unicode (a lone surrogate).
        """
        if not texts:
            return []
        encoded = [text.encode("utf-8") for text in texts]
        if parent_process() is not None:
            return self._encode_on_one_core(encoded)
        # gigatoken would import awkward itself, and a Ctrl-C in there would be lost: it falls back to lists.
        import awkward  # noqa: F401

        rows = self._engine.encode_batch(encoded).layout
        offsets = np.asarray(rows.offsets.data)
        ids = np.asarray(rows.content.data).astype(np.uint16)
        return [ids[start:stop] for start, stop in pairwise(offsets)]

    def _encode_on_one_core(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """One by one: encode keeps its cache, which encode_batch in a worker process would empty at every call."""
        self._bytes_encoded += sum(map(len, texts))
        if self._bytes_encoded > self._renew_after:
            self._engine = self._new_engine()
            self._bytes_encoded = 0
        return [self._engine.encode(text).astype(np.uint16) for text in texts]

    def verify(self, texts: Sequence[str]) -> None:
        """Compare with the reference.

        Raises:
            PipelineError: the first text whose ids differ.
        """
        for text, fast, expected in zip(texts, self.encode(texts), self._reference(texts), strict=True):
            if fast.tolist() != list(expected):
                raise PipelineError(
                    f"the bulk encoder gigatoken returned {len(fast)} ids for {text[:60]!r} that do not match "
                    f"the reference's {len(expected)}; nothing was written; install the versions in "
                    "requirements.txt"
                )

    def _new_engine(self) -> "Tokenizer":
        from gigatoken import Tokenizer

        return Tokenizer.from_json(self._json)
