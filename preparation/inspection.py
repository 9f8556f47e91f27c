"""`--inspect DIR`: totals, how long documents are, five of them decoded, and whether every file is as written."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from preparation.report import summary
from utils.errors import PipelineError
from utils.terminal import format_table, styled
from utils.token_store import TokenDataset

HISTOGRAM_NAME = "document_lengths.png"
_DOCUMENTS = 5
_SHOWN_CHARACTERS = 600
_BLOCK_TOKENS = 1 << 24


class Decoder(Protocol):
    fingerprint: str

    def decode(self, ids: np.ndarray) -> str: ...


def inspect_dataset(directory: Path, tokenizer: Decoder) -> str:
    """The report on a finished dataset, as text; writes the histogram of document lengths into its folder.

    Raises:
        PipelineError: it is not complete, was made with another tokenizer, or a file is damaged.
    """
    dataset = TokenDataset.open(directory)
    made_with = dataset.metadata.get("tokenizer", {})
    if made_with.get("fingerprint", tokenizer.fingerprint) != tokenizer.fingerprint:
        raise PipelineError(
            f"{directory} was made with tokenizer {made_with.get('name')} ({made_with['fingerprint'][:12]}), this one "
            f"is {tokenizer.fingerprint[:12]}; name the right folder with --set paths.tokenizer_dir=DIR"
        )
    lengths = document_lengths(dataset)
    histogram = write_histogram(directory / HISTOGRAM_NAME, lengths)
    damaged = dataset.damaged_files()
    if damaged:
        raise PipelineError(
            f"{directory}: {', '.join(damaged)} no longer has the sha256 of metadata.json; make it anew with --restart"
        )
    parts = [
        summary(dataset.metadata, directory),
        format_lengths(lengths),
        *(_shown(dataset, tokenizer, number) for number in sample_documents(len(lengths))),
        f"sha256 holds for all {len(dataset.files)} files; lengths drawn in {histogram}",
    ]
    return "\n\n".join(parts)


def document_starts(dataset: TokenDataset) -> np.ndarray:
    """Where every document begins in the whole stream, int64 (documents,)."""
    bos = dataset.metadata["tokenizer"]["bos_id"]
    found, offset = [], 0
    for tokens in dataset.files:
        for start in range(0, len(tokens), _BLOCK_TOKENS):
            found.append(np.flatnonzero(tokens[start : start + _BLOCK_TOKENS] == bos) + offset + start)
        offset += len(tokens)
    return np.concatenate(found)


def document_lengths(dataset: TokenDataset) -> np.ndarray:
    """Tokens of every document with its <s> and </s>, int64 (documents,)."""
    return np.diff(document_starts(dataset), append=dataset.num_tokens)


def document(dataset: TokenDataset, number: int) -> np.ndarray:
    """The ids of a document, from the one or two files that it lies in."""
    starts = document_starts(dataset)
    start = starts[number]
    end = starts[number + 1] if number + 1 < len(starts) else dataset.num_tokens
    return np.concatenate(list(_span(dataset, int(start), int(end))))


def _span(dataset: TokenDataset, start: int, end: int) -> Iterator[np.ndarray]:
    offset = 0
    for tokens in dataset.files:
        yield tokens[max(start - offset, 0) : max(end - offset, 0)]
        offset += len(tokens)


def sample_documents(count: int) -> list[int]:
    return sorted(random.sample(range(count), min(_DOCUMENTS, count)))


def format_lengths(lengths: np.ndarray) -> str:
    shares = (0, 10, 25, 50, 75, 90, 99, 100)
    names = ["shortest", *(f"{share}%" for share in shares[1:-1]), "longest"]
    values = [f"{int(value):,}" for value in np.percentile(lengths, shares)]
    return format_table([("tokens of a document", *names), ("", *values)], right=range(1, len(names) + 1))


def write_histogram(path: Path, lengths: np.ndarray) -> Path:
    """Draw how many documents have how many tokens; lengths by powers, as they spread over five of them."""
    from utils.plots import new_figure, save_figure

    figure, axes = new_figure(f"{len(lengths):,} documents, median {int(np.median(lengths)):,} tokens")
    axes.hist(lengths, bins=np.geomspace(max(lengths.min(), 1), lengths.max() + 1, 60))
    axes.set_xscale("log")
    axes.set_xlabel("tokens in a document")
    axes.set_ylabel("documents")
    save_figure(path, figure)
    return path


def _shown(dataset: TokenDataset, tokenizer: Decoder, number: int) -> str:
    ids = document(dataset, number)
    text = tokenizer.decode(ids)
    cut = f" … ({len(text):,} characters)" if len(text) > _SHOWN_CHARACTERS else ""
    return styled(f"document {number:,}, {len(ids):,} tokens", "bold") + f"\n{text[:_SHOWN_CHARACTERS]}{cut}"
