"""Write a token dataset from parts, in the format of `pipeline.formats.token_dataset`.

The kept documents of all parts, in source order, form one stream. It is cut into files of equal length, so the files
depend only on the documents and not on workers, batches or interruptions. metadata.json is written last.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np

from pipeline.formats.token_dataset import (
    FORMAT_VERSION,
    MAX_VOCAB_SIZE,
    num_windows,
    token_file_name,
)
from pipeline.preparation.config import DatasetConfig
from pipeline.preparation.shard_output import Part, read_sealed
from pipeline.tokenization.interface import Tokenizer, identity_of
from utils.arithmetic import ceil_div
from utils.checksums import sealed
from utils.errors import PipelineError
from utils.files import whole_file, write_json

_COPY_TOKENS = 2 << 20


class FileEntry(TypedDict):
    """The metadata entry of a token file. `source` lists the input files of its documents."""

    name: str
    source: list[str]
    documents: int
    tokens: int
    windows: int
    sha256: str


@dataclass(frozen=True)
class FinishedPart:
    """A complete part, its source file, and which of its documents to keep.

    `near_duplicates` counts those that are not kept because they are similar to another document.
    """

    part: Part
    source: str
    keep: np.ndarray  # bool (documents,)
    near_duplicates: int = 0

    @property
    def num_tokens(self) -> int:
        return int(self.part.index()["tokens"][self.keep].sum(dtype=np.int64))

    def spans(self) -> list[tuple[int, int]]:
        """Kept documents as [start, end) in the part's stream; adjacent ones are merged."""
        ends = np.concatenate([[0], np.cumsum(self.part.index()["tokens"], dtype=np.int64)])
        edges = np.flatnonzero(np.diff(np.concatenate([[0], self.keep.astype(np.int8), [0]])))
        return [(int(ends[first]), int(ends[last])) for first, last in edges.reshape(-1, 2)]


def check_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse a tokenizer whose ids do not match the model (`vocab_size`) or do not fit in uint16."""
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise PipelineError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size:,} tokens, but datasets are stored as uint16 "
            f"and support at most {MAX_VOCAB_SIZE:,}"
        )
    if tokenizer.vocab_size != vocab_size:
        raise PipelineError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size:,} tokens, but model.vocab_size is {vocab_size:,}; "
            f"use the right tokenizer, or --set model.vocab_size={tokenizer.vocab_size}"
        )


def file_bounds(num_tokens: int, *, window: int, file_tokens: int, max_files: int) -> list[tuple[int, int]]:
    """[start, end) of every file in the stream: at least `file_tokens` each, at most `max_files`, all the same length
    except the last, which is at least a window long."""
    smallest = max(file_tokens, window + max_files)
    count = min(max(1, num_tokens // smallest), max_files)
    length = ceil_div(num_tokens, count)
    return [(start, min(start + length, num_tokens)) for start in range(0, num_tokens, length)]


@dataclass(frozen=True)
class Layout:
    """How to cut a stream into files and windows: `window` and `stride` in tokens, at least `file_tokens` per file."""

    window: int
    stride: int
    file_tokens: int
    max_files: int

    @classmethod
    def of(cls, dataset: DatasetConfig) -> "Layout":
        return cls(dataset.window, dataset.stride, dataset.file_tokens, dataset.max_files)


class Writer:
    """Write the kept documents of `parts` as `tokens_*.npy` to `directory`.

    The entry of each finished file is saved in `records`; after a kill, the next `write` reuses those files.

    Raises:
        PipelineError: there are fewer tokens than one window.
    """

    def __init__(
        self, parts: Sequence[FinishedPart], directory: Path, records: Path, layout: Layout, *, bos_id: int
    ) -> None:
        self._parts = parts
        self._directory = directory
        self._records = records
        self._layout = layout
        self._bos_id = bos_id
        # Part i has the tokens [offsets[i], offsets[i + 1]) of the whole stream.
        self._offsets = [0, *accumulate(part.num_tokens for part in parts)]
        num_tokens = self._offsets[-1]
        if num_tokens < layout.window:
            raise PipelineError(
                f"{directory.name} would have {num_tokens:,} tokens, fewer than one window of {layout.window}; "
                "prepare more text or use a shorter --window"
            )
        self._bounds = file_bounds(
            num_tokens, window=layout.window, file_tokens=layout.file_tokens, max_files=layout.max_files
        )

    def write(self, *, workers: int = 1) -> list[FileEntry]:
        """Write the files, `workers` in parallel, and return their metadata entries.

        Parts are removed as soon as all of their tokens are in finished files, so that the disk does not need to hold
        everything twice.
        """
        entries: list[FileEntry] = []
        with ThreadPoolExecutor(workers) as threads:
            # A few at a time, so that little is on disk twice and an interruption waits for one file only.
            for first in range(0, len(self._bounds), workers):
                entries += threads.map(self._write_file, range(first, min(first + workers, len(self._bounds))))
                self._remove_parts(written=self._bounds[len(entries) - 1][1])
        return entries

    def _remove_parts(self, *, written: int) -> None:
        """Remove the tokens of parts that are within the first `written` tokens of the stream."""
        for part, end in zip(self._parts, self._offsets[1:], strict=True):
            if end > written:
                break
            part.part.remove_tokens()

    def _write_file(self, index: int) -> FileEntry:
        record = self._records / f"file_{index}.json"
        path = self._directory / token_file_name(index)
        start, end = self._bounds[index]
        if record.exists():
            return _recorded_entry(record, path, num_tokens=end - start)
        inside = [
            place
            for place in range(len(self._parts))
            if self._offsets[place] < end and self._offsets[place + 1] > start
        ]
        pieces = (
            _pieces(self._parts[place], start - self._offsets[place], end - self._offsets[place]) for place in inside
        )
        documents, sha256 = _write_stream(path, chain.from_iterable(pieces), end - start, bos_id=self._bos_id)
        entry: FileEntry = {
            "name": path.name,
            "source": list(dict.fromkeys(self._parts[place].source for place in inside)),
            "documents": documents,
            "tokens": end - start,
            "windows": num_windows(end - start, self._layout.window, self._layout.stride),
            "sha256": sha256,
        }
        write_json(record, sealed(entry))
        return entry


def _recorded_entry(record: Path, path: Path, *, num_tokens: int) -> FileEntry:
    """The entry of a file written by an interrupted run."""
    entry = cast(FileEntry, read_sealed(record))
    if entry["tokens"] != num_tokens:
        raise PipelineError(
            f"{path} was written with a different window size, which splits files in different places; finish "
            "the run with the original size before changing it, or start over with --restart"
        )
    return entry


def metadata_of(
    parts: Sequence[FinishedPart],
    files: Sequence[FileEntry],
    tokenizer: Tokenizer,
    *,
    layout: Layout,
    config: Mapping[str, Any],
    inputs: Sequence[Mapping[str, object]],
) -> dict[str, Any]:
    """The content of metadata.json, without times, paths or durations: the same input gives the same bytes."""
    totals, rejected = _totals(parts)
    tokens = totals["tokens"]
    metadata = {
        "format_version": FORMAT_VERSION,
        "tokenizer": identity_of(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "window": layout.window,
        "stride": layout.stride,
        "totals": {**totals, "windows": sum(entry["windows"] for entry in files)},
        "compression": {
            "bytes_per_token": round(totals["bytes"] / tokens, 6),
            "characters_per_token": round(totals["characters"] / tokens, 6),
        },
        "rejected": rejected,
        "config": dict(config),
        "decontamination": config.get("decontamination"),
        "inputs": list(inputs),
        "files": list(files),
        "token_byte_lengths": tokenizer.token_byte_lengths().tolist(),
    }
    # A file written by an interrupted run may have been counted with different windows.
    return with_windows(metadata, window=layout.window, stride=layout.stride, overlap=config["overlap"])


def with_windows(metadata: Mapping[str, Any], *, window: int, stride: int, overlap: float) -> dict[str, Any]:
    """`metadata` for the same tokens with different windows."""
    files = [{**entry, "windows": num_windows(entry["tokens"], window, stride)} for entry in metadata["files"]]
    return {
        **metadata,
        "window": window,
        "stride": stride,
        "totals": {**metadata.get("totals", {}), "windows": sum(entry["windows"] for entry in files)},
        "config": {**metadata.get("config", {}), "window": window, "overlap": overlap},
        "files": files,
    }


def _totals(parts: Sequence[FinishedPart]) -> tuple[dict[str, int], dict[str, int]]:
    """Totals of kept documents, and counts of removed ones by reason."""
    totals: Counter[str] = Counter(documents=0)
    rejected: Counter[str] = Counter()
    for finished in parts:
        index = finished.part.index()[finished.keep]
        totals["documents"] += len(index)
        for name in ("tokens", "bytes", "characters"):
            totals[name] += int(index[name].sum(dtype=np.int64))
        rejected.update(finished.part.state.rejected)
        rejected["duplicate"] += int((~finished.keep).sum()) - finished.near_duplicates
        rejected["near_duplicate"] += finished.near_duplicates
    return dict(totals), dict(sorted((+rejected).items()))


def _pieces(part: FinishedPart, start: int, end: int) -> Iterator[np.ndarray]:
    """The kept tokens [start, end) of a part; both count kept tokens only and may be out of range."""
    tokens = part.part.tokens()
    position = 0
    for first, last in part.spans():
        low, high = max(start - position, 0) + first, min(end - position, last - first) + first
        position += last - first
        for at in range(low, high, _COPY_TOKENS):
            yield tokens[at : min(at + _COPY_TOKENS, high)]


def _write_stream(path: Path, pieces: Iterable[np.ndarray], num_tokens: int, *, bos_id: int) -> tuple[int, str]:
    """Write `pieces` as one array; returns the number of documents that begin in it and the file's sha256."""
    digest = hashlib.sha256()
    documents = 0
    written = 0
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<u2", "fortran_order": False, "shape": (num_tokens,)})
    with whole_file(path) as stream:
        stream.write(header.getvalue())
        digest.update(header.getvalue())
        for piece in pieces:
            stream.write(piece.data)
            digest.update(piece.data)
            documents += int(np.count_nonzero(piece == bos_id))
            written += len(piece)
    assert written == num_tokens, f"{path.name}: {written} tokens instead of {num_tokens}"
    return documents, digest.hexdigest()
