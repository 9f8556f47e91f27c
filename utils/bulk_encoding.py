"""Encodes corpora with the fastest engine that is exact (gigatoken), and holds it to the reference while it runs.

encoder = BulkEncoder(vocabulary, reference=encode_batch_of_tokenizers)
arrays = encoder.encode(texts)      # one uint16 array a text, all cores; one core in a worker process
encoder.verify(texts[:8])           # raises if the engine's ids differ from the reference's
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from utils.errors import PipelineError
from utils.vocabulary import Vocabulary

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

    Its caches grow with every new word, so the engine is made anew after `renew_after` bytes of text.
    """

    def __init__(self, vocabulary: Vocabulary, *, reference: Reference, renew_after: int = 256 << 20) -> None:
        self._json = vocabulary.to_json(added_tokens=False)
        self._reference = reference
        self._renew_after = renew_after
        self._engine, self._bytes_encoded = self._new_engine(), 0
        self.verify(PROBES)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, a view of one uint16 array.

        Raises:
            UnicodeEncodeError: a text that is no Unicode (a lone surrogate).
        """
        if not texts:
            return []
        encoded = [text.encode("utf-8") for text in texts]
        self._bytes_encoded += sum(map(len, encoded))
        if self._bytes_encoded > self._renew_after:
            self._engine, self._bytes_encoded = self._new_engine(), 0
        rows = self._engine.encode_batch(encoded).layout
        offsets = np.asarray(rows.offsets.data)
        ids = np.asarray(rows.content.data).astype(np.uint16)
        return [ids[start:stop] for start, stop in pairwise(offsets)]

    def verify(self, texts: Sequence[str]) -> None:
        """Compare with the reference.

        Raises:
            PipelineError: the first text whose ids differ.
        """
        for text, fast, wanted in zip(texts, self.encode(texts), self._reference(texts), strict=True):
            if fast.tolist() != list(wanted):
                raise PipelineError(
                    f"the bulk encoder gigatoken gives {len(fast)} ids for {text[:60]!r}, other than the reference's "
                    f"{len(wanted)}; nothing was written from it: install the versions of requirements.txt"
                )

    def _new_engine(self):
        from gigatoken import Tokenizer

        return Tokenizer.from_json(self._json)
