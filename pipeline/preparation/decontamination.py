"""Find documents that share thirteen consecutive words with an evaluation set.

    index = EvaluationIndex.load(Path("eval"))      # eval/wikitext/*.raw, eval/lambada/*.jsonl, eval/hellaswag/*.jsonl
    match = index.find(text)                        # None, or the set and the words
    metadata["decontamination"] = index.stamp()

Case, punctuation and spacing are ignored, so WikiText's "well @-@ known" equals "well-known". The length of thirteen is
from Brown et al. 2020, "Language Models are Few-Shot Learners", arXiv:2005.14165, appendix C.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats.benchmark_files import PATTERNS, files_sha256, set_files
from pipeline.formats.raw_files import RawFile
from utils.errors import PipelineError

NGRAM_WORDS = 13

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd; 2^64 divided by the golden ratio, as in Fibonacci hashing
_TABLE_BITS = 24
_TABLE_SHIFT = np.uint64(64 - _TABLE_BITS)
# In a single pass over the bytes, ASCII characters other than letters and digits become separators and letters lower
# case.
_SEPARATE = bytes(byte if byte >= 128 or chr(byte).isalnum() else 32 for byte in range(256)).lower()
_TYPOGRAPHIC = "‘’“”„«»–—―…·•\u00a0\u3000、。，"


@dataclass(frozen=True)
class Match:
    """The first shared words of a document and an evaluation set."""

    set_name: str
    words: str

    @property
    def reason(self) -> str:
        return f"contaminated_{self.set_name}"


@dataclass(frozen=True)
class EvaluationSet:
    """An indexed set. Items with fewer than thirteen words cannot be matched and are counted as short."""

    name: str
    files: Mapping[str, str]  # name → sha256
    items: int
    short_items: int


class EvaluationIndex:
    """All thirteen-word sequences in the evaluation sets. Read-only, and small enough to send to every worker."""

    def __init__(self, items: Mapping[str, list[str]], *, files: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Args: `items`: set name → texts; `files`: set name → source files with their sha256."""
        words = {name: [words_of(text) for text in texts] for name, texts in items.items()}
        vocabulary = {word for rows in words.values() for row in rows for word in row}
        self._word_hashes = {
            word: int.from_bytes(blake2b(word, digest_size=8).digest(), "little") for word in vocabulary
        }
        self.sets = tuple(
            EvaluationSet(name, (files or {}).get(name, {}), len(rows), sum(len(row) < NGRAM_WORDS for row in rows))
            for name, rows in words.items()
        )
        hashes = [np.concatenate([np.empty(0, np.uint64), *map(self._hashes, rows)]) for rows in words.values()]
        owners = np.repeat(np.arange(len(hashes)), [len(group) for group in hashes])
        self._hashes_sorted, first = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]), return_index=True)
        self._owners = owners[first]
        # A lookup in a 16 MB filter rules out nearly all sequences; only possible matches are searched for.
        self._table = np.zeros(1 << _TABLE_BITS, dtype=bool)
        self._table[self._hashes_sorted >> _TABLE_SHIFT] = True

    @classmethod
    def load(cls, folder: Path) -> "EvaluationIndex":
        """The sets in `folder`, which has the layout of the benchmark's data folder.

        Raises:
            PipelineError: there is no set, or a file is malformed.
        """
        items: dict[str, list[str]] = {}
        files: dict[str, dict[str, str]] = {}
        for name, read in _READERS.items():
            paths = set_files(folder, name)
            if paths:
                items[name] = [text for path in paths for text in _read(path, read)]
                files[name] = files_sha256(paths)
        if not items:
            expected = ", ".join(f"{name}/{pattern}" for name, pattern in PATTERNS.items())
            raise PipelineError(f"{folder} contains no evaluation data; expected {expected}")
        return cls(items, files=files)

    def find(self, text: str) -> Match | None:
        """The first thirteen consecutive words of `text` that are in a set."""
        words = words_of(text)
        hashes = self._hashes(words)
        for place in np.flatnonzero(self._table[hashes >> _TABLE_SHIFT]):
            at = np.searchsorted(self._hashes_sorted, hashes[place])
            if at < len(self._hashes_sorted) and self._hashes_sorted[at] == hashes[place]:
                found = b" ".join(words[place : place + NGRAM_WORDS]).decode("utf-8")
                return Match(self.sets[self._owners[at]].name, found)
        return None

    def stamp(self) -> dict[str, Any]:
        """The record of these sets for the metadata of a decontaminated dataset."""
        sets = [
            {"name": one.name, "files": dict(one.files), "items": one.items, "short_items": one.short_items}
            for one in self.sets
        ]
        return {"ngram_words": NGRAM_WORDS, "sets": sets}

    def _hashes(self, words: list[bytes]) -> np.ndarray:
        """(N - 12,) a 64-bit hash of every thirteen consecutive words, a polynomial of the words' hashes.

        Words that are in no set count as 0. The chance of a false match between 10^10 sequences and a set of 10^6 is
        1 in 2,000.
        """
        if len(words) < NGRAM_WORDS:
            return np.empty(0, dtype=np.uint64)
        one = np.fromiter(map(self._word_hashes.get, words, repeat(0)), dtype=np.uint64, count=len(words))
        two = _joined(one, one, left_words=1, right_words=1)
        four = _joined(two, two, left_words=2, right_words=2)
        eight = _joined(four, four, left_words=4, right_words=4)
        twelve = _joined(eight, four, left_words=8, right_words=4)
        return _joined(twelve, one, left_words=12, right_words=1)


def words_of(text: str) -> list[bytes]:
    """The words of `text` as UTF-8, with A to Z in lower case and without punctuation."""
    for sign in _TYPOGRAPHIC:
        text = text.replace(sign, " ")
    return text.encode("utf-8", errors="replace").translate(_SEPARATE).split()


def _joined(left: np.ndarray, right: np.ndarray, *, left_words: int, right_words: int) -> np.ndarray:
    """Hashes of sequences of `left_words` + `right_words` words from the hashes of the two parts."""
    factor = np.uint64(pow(_MULTIPLIER, right_words, 1 << 64))
    count = len(right) - left_words
    joined: np.ndarray = left[:count] * factor + right[left_words:]
    return joined


def _read(path: Path, read: Callable[[Path], Iterator[str]]) -> list[str]:
    try:
        return list(read(path))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise PipelineError(f"{path} is not a valid evaluation file: {type(error).__name__} {error}") from None


def _paragraphs(path: Path) -> Iterator[str]:
    yield from filter(str.strip, path.read_bytes().decode("utf-8").split("\n"))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with RawFile(path) as file:
        for record in file.records():
            if record.value is None:
                raise PipelineError(f"{path} is not a valid evaluation file: line {record.number} is {record.problem}")
            yield record.value


def _lambada(path: Path) -> Iterator[str]:
    for record in _records(path):
        yield record["text"]


def _hellaswag(path: Path) -> Iterator[str]:
    """The context with the correct ending; the wrong ones are machine-generated and occur nowhere else."""
    for record in _records(path):
        yield f"{record['ctx']} {record['endings'][int(record['label'])]}"


_READERS = {"wikitext": _paragraphs, "lambada": _lambada, "hellaswag": _hellaswag}
