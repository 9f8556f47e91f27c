"""Near duplicates as a step of a preparation: the masks, what goes into the metadata, and examples to look at."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from pipeline.jobs.runner import Executor
from pipeline.preparation.near_duplicate_jobs import Documents, NearDuplicates, Search, find_near_duplicates
from pipeline.preparation.near_duplicates import HASHES, SHINGLE_TOKENS
from pipeline.preparation.shard_output import Part
from pipeline.tokenization.interface import Tokenizer
from utils.files import whole_file
from utils.terminal import say

EXAMPLES_NAME = "near_duplicates.jsonl"
_EXAMPLES = 100
_SHOWN_TOKENS, _TOKENS_BEFORE = 60, 15


class Facts(TypedDict):
    """The record in metadata.json. Documents, tokens and bytes count what was removed."""

    threshold: float
    shingle_tokens: int
    hashes: int
    bands: int
    rows: int
    clusters: int
    documents: int
    tokens: int
    bytes: int


@dataclass(frozen=True)
class WithoutNearDuplicates:
    """`keep` has a mask for each part, and `removed` counts the near duplicates in each. `facts` is None without a
    search."""

    keep: Sequence[np.ndarray]
    removed: Sequence[int]
    facts: Facts | None = None


def without_near_duplicates(
    parts: Sequence[Part],
    keep: Sequence[np.ndarray],
    search: Search,
    executor: Executor,
    *,
    examples: "Examples",
) -> WithoutNearDuplicates:
    """Search the documents in the masks `keep`, and write examples of similar pairs."""
    found = find_near_duplicates(search, keep, executor)
    examples.write(found)
    facts = _facts(parts, keep, found, search)
    say(
        f"near duplicates: {facts['documents']:,} documents ({facts['tokens']:,} tokens) removed from "
        f"{facts['clusters']:,} clusters"
    )
    return WithoutNearDuplicates(found.keep, found.removed, facts)


def _facts(parts: Sequence[Part], keep: Sequence[np.ndarray], found: NearDuplicates, search: Search) -> Facts:
    tokens = size = 0
    for part, before, after in zip(parts, keep, found.keep, strict=True):
        gone = part.index()[before & ~after]
        tokens += int(gone["tokens"].sum(dtype=np.int64))
        size += int(gone["bytes"].sum(dtype=np.int64))
    return {
        "threshold": search.threshold,
        "shingle_tokens": SHINGLE_TOKENS,
        "hashes": HASHES,
        "bands": search.bands.count,
        "rows": search.bands.rows,
        "clusters": found.clusters,
        "documents": sum(found.removed),
        "tokens": tokens,
        "bytes": size,
    }


@dataclass(frozen=True)
class Examples:
    """Writes a hundred pairs of similar documents, from the least to the most similar, to `path`.

    An existing file is from an interrupted run and has the same content; its texts may no longer exist.
    """

    path: Path
    tokenizer: Tokenizer
    sources: Sequence[str]  # of each part

    def write(self, found: NearDuplicates) -> None:
        if self.path.exists():
            return
        links = found.links[np.lexsort((found.links["earlier"], found.links["later"], found.links["similarity"]))]
        chosen = np.unique(np.linspace(0, len(links) - 1, min(_EXAMPLES, len(links))).round().astype(np.int64))
        with whole_file(self.path) as stream:
            for line in self._lines(links[chosen], found.documents):
                stream.write(line)

    def _lines(self, links: np.ndarray, documents: Documents) -> Iterator[bytes]:
        for link in links:
            numbers = np.array([link["later"], link["earlier"]])
            removed, earlier = documents.texts(numbers)
            start = _first_shown(removed, earlier)
            sources = [self.sources[part] for part in documents.parts_of(numbers)]
            record = {
                "similarity": round(float(link["similarity"]), 4),
                "removed": {"source": sources[0], "tokens": len(removed), "text": self._excerpt(removed, start)},
                "earlier": {"source": sources[1], "tokens": len(earlier), "text": self._excerpt(earlier, start)},
            }
            yield json.dumps(record, ensure_ascii=False).encode() + b"\n"

    def _excerpt(self, ids: np.ndarray, start: int) -> str:
        return self.tokenizer.decode(ids[start : start + _SHOWN_TOKENS])


def _first_shown(one: np.ndarray, other: np.ndarray) -> int:
    """A few tokens before the first difference."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return max((int(different[0]) if len(different) else length) - _TOKENS_BEFORE, 0)
