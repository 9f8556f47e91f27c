"""`--inspect DIR`: totals, document lengths, integrity of the files, and random documents decoded.

By default it fits on one screen, with the beginnings of five documents; `--documents N` shows N at length.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.dataloading.split import row_stride
from pipeline.formats.token_dataset import TokenDataset, read_metadata
from pipeline.preparation.report import summary
from pipeline.tokenization.interface import Tokenizer
from utils.errors import PipelineError
from utils.terminal import format_table, styled, terminal_width, visible
from utils.text_layout import shorten

HISTOGRAM_NAME = "document_lengths.png"
_BEGINNINGS = 5
_SHOWN_CHARACTERS = 600
_BLOCK_TOKENS = 1 << 24


def inspect_dataset(
    directory: Path, tokenizer: Tokenizer, *, window: int, stride: int, num_documents: int | None = None
) -> str:
    """The report on a finished dataset, as text. Writes a histogram of document lengths to its folder.

    Args:
        window, stride: for a stream from another tool without these in its metadata.
        num_documents: how many random documents to show at length; None: the beginnings of some.

    Raises:
        PipelineError: it is incomplete, was made with a different tokenizer, or a file is damaged.
    """
    hints = read_metadata(directory)
    windows = {"window": hints.get("window", window), "stride": hints.get("stride", stride)}
    dataset = TokenDataset.open(directory, **windows, vocab_size=tokenizer.vocab_size)
    check_made_with(dataset, tokenizer)
    check_files(dataset)
    dataset.check_ids()
    starts = None if dataset.is_windowed else document_starts(dataset, tokenizer.bos_id)
    if starts is None or not len(starts):
        numbers = sample_numbers(dataset.num_windows, num_documents)
        samples = [(f"window {number:,}", dataset[number]) for number in numbers]
        figures = [overview(dataset), _checked(dataset)]
    else:
        numbers = sample_numbers(len(starts), num_documents)
        samples = [(f"document {number:,}", document(dataset, starts, number)) for number in numbers]
        lengths = np.diff(starts, append=dataset.num_tokens)
        histogram = write_histogram(directory / HISTOGRAM_NAME, lengths)
        notes = f"histogram of lengths: {histogram}\n{_checked(dataset)}"
        figures = [overview(dataset), format_lengths(lengths), notes]
    if num_documents is not None:
        shown = [_shown(title, ids, tokenizer) for title, ids in samples]
        return "\n\n".join([*shown, *figures])  # the figures last: they fit on one screen
    beginnings = [_beginning(title, ids, tokenizer) for title, ids in samples]
    return "\n\n".join([*figures, "\n".join([*beginnings, "more of them: --documents N"])])


def check_made_with(dataset: TokenDataset, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that is not the one in the metadata."""
    made_with = dataset.metadata.get("tokenizer", {})
    found = made_with.get("fingerprint", tokenizer.fingerprint)
    if found != tokenizer.fingerprint:
        raise PipelineError(
            f"{dataset.directory} was made with tokenizer {made_with.get('name')} ({found[:12]}), but the "
            f"current one is {tokenizer.fingerprint[:12]}; set the correct folder with --set "
            "paths.tokenizer_dir=DIR"
        )


def check_files(dataset: TokenDataset) -> None:
    """Refuse files that do not match their sha256 in the metadata."""
    damaged = list(dataset.damaged_files())
    if damaged:
        raise PipelineError(
            f"{dataset.directory}: sha256 does not match metadata.json for {', '.join(damaged)}; copy the "
            "dataset again, or prepare it again with --restart"
        )


def overview(dataset: TokenDataset) -> str:
    """Totals from the metadata, or for other tools' datasets from the arrays."""
    if "totals" in dataset.metadata:
        return summary(dataset.metadata, dataset.directory)
    stride = row_stride(dataset) if dataset.is_windowed else dataset.stride
    made_by = (
        "metadata.json is from another tool and is ignored" if dataset.is_foreign else "metadata.json has no totals"
    )
    rows = [
        ("dataset", str(dataset.directory)),
        ("tokens", f"{dataset.num_tokens:,}"),
        (f"windows of {dataset.window}, one every {stride}", f"{dataset.num_windows:,}"),
        ("token files", f"{len(dataset.files):,}"),
        ("note", made_by),
    ]
    return format_table(rows)


def _checked(dataset: TokenDataset) -> str:
    if dataset.is_foreign:
        return "all ids are in the vocabulary; the metadata has no sha256 to compare"
    return f"sha256 verified for all {len(dataset.files)} files"


def document_starts(dataset: TokenDataset, bos_id: int) -> np.ndarray:
    """The start of every document in the stream, int64 (documents,)."""
    found, offset = [], 0
    for tokens in dataset.files:
        for start in range(0, len(tokens), _BLOCK_TOKENS):
            found.append(np.flatnonzero(tokens[start : start + _BLOCK_TOKENS] == bos_id) + offset + start)
        offset += len(tokens)
    return np.concatenate(found)


def document(dataset: TokenDataset, starts: np.ndarray, number: int) -> np.ndarray:
    """The ids of a document, which may span several files."""
    end = starts[number + 1] if number + 1 < len(starts) else dataset.num_tokens
    return np.concatenate(list(_span(dataset, int(starts[number]), int(end))))


def _span(dataset: TokenDataset, start: int, end: int) -> Iterator[np.ndarray]:
    offset = 0
    for tokens in dataset.files:
        yield tokens[max(start - offset, 0) : max(end - offset, 0)]
        offset += len(tokens)


def sample_numbers(count: int, wanted: int | None) -> list[int]:
    return sorted(random.sample(range(count), min(_BEGINNINGS if wanted is None else wanted, count)))


def format_lengths(lengths: np.ndarray) -> str:
    shares = (0, 10, 25, 50, 75, 90, 99, 100)
    names = ["shortest", *(f"{share}%" for share in shares[1:-1]), "longest"]
    values = [f"{int(value):,}" for value in np.percentile(lengths, shares)]
    return format_table([("tokens per document", *names), ("", *values)], right=range(1, len(names) + 1))


def write_histogram(path: Path, lengths: np.ndarray) -> Path:
    """Plot a histogram of document lengths with a logarithmic axis, because they span five orders of magnitude."""
    from utils.plots import new_figure, save_figure

    figure, axes = new_figure(f"{len(lengths):,} documents, median {int(np.median(lengths)):,} tokens")
    axes.hist(lengths, bins=np.geomspace(max(lengths.min(), 1), lengths.max() + 1, 60))
    axes.set_xscale("log")
    axes.set_xlabel("tokens per document")
    axes.set_ylabel("documents")
    save_figure(path, figure)
    return path


def _beginning(title: str, ids: np.ndarray, tokenizer: Tokenizer) -> str:
    """A line with the first words."""
    text = " ".join(visible(tokenizer.decode(ids[: terminal_width()])).split())
    return shorten(f"{title}, {len(ids):,} tokens: {text}", terminal_width())


def _shown(title: str, ids: np.ndarray, tokenizer: Tokenizer) -> str:
    text = visible(tokenizer.decode(ids))
    cut = f" … ({len(text):,} characters)" if len(text) > _SHOWN_CHARACTERS else ""
    return styled(f"{title}, {len(ids):,} tokens", "bold") + f"\n{text[:_SHOWN_CHARACTERS]}{cut}"
