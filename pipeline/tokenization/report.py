"""Measure a tokenizer on a text (`tokenizer.py --report FILE`): tokens, compression, byte fallback, speed."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipeline.tokenization.vocabulary import Vocabulary, byte_of
from utils.terminal import format_table

_BATCH = 500  # documents encoded together


@dataclass
class TokenizerReport:
    """Sums over documents; `seconds` is the encoding time alone."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    tokens: int = 0
    newline_tokens: int = 0
    fallback_tokens: int = 0
    seconds: float = 0.0

    def table(self) -> str:
        tokens = max(self.tokens, 1)
        rows = [
            ("measure", "value"),
            ("documents", f"{self.documents:,}"),
            ("bytes", f"{self.bytes:,}"),
            ("characters", f"{self.characters:,}"),
            ("tokens", f"{self.tokens:,}"),
            ("bytes per token", f"{self.bytes / tokens:.3f}"),
            ("characters per token", f"{self.characters / tokens:.3f}"),
            ("byte fallback, newlines", f"{self.newline_tokens / tokens:.2%}"),
            ("byte fallback, other characters", f"{self.fallback_tokens / tokens:.2%}"),
            ("encoding speed", f"{self.bytes / 1e6 / max(self.seconds, 1e-9):.1f} MB/s"),
        ]
        return format_table(rows, right=(1,))


def measure(
    texts: Iterable[str], vocabulary: Vocabulary, encode_batch: Callable[[Sequence[str]], list[np.ndarray]]
) -> TokenizerReport:
    """Encode `texts` and add up what came out. A newline has no piece in this layout, so it is counted by itself."""
    fallback = np.array([byte_of(piece) is not None for piece in vocabulary.pieces])
    newline = vocabulary.pieces.index("<0x0A>")
    report = TokenizerReport()
    encode_batch(["warm"])  # loading and checking the engine is not encoding
    for batch in _batches(texts):
        started = time.perf_counter()
        ids = np.concatenate(encode_batch(batch))
        report.seconds += time.perf_counter() - started
        newlines = int((ids == newline).sum())
        report.documents += len(batch)
        report.bytes += sum(len(text.encode("utf-8")) for text in batch)
        report.characters += sum(map(len, batch))
        report.tokens += len(ids)
        report.newline_tokens += newlines
        report.fallback_tokens += int(fallback[ids].sum()) - newlines
    return report


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
