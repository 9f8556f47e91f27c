"""Parts → token dataset: the only writer of the format that `pipeline.formats.token_dataset` reads.

The kept documents of all parts, in the order of the source, are one stream. It is cut into files of equal length, so
the files depend on nothing but the documents: not on workers, batches or interruptions. metadata.json comes last.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats.token_dataset import (
    FORMAT_VERSION,
    MAX_VOCAB_SIZE,
    METADATA_NAME,
    metadata_sha256,
    num_windows,
    token_file_name,
)
from pipeline.preparation.shard_output import Part, read_sealed
from pipeline.tokenization.interface import Tokenizer
from utils.checksums import sealed
from utils.errors import PipelineError
from utils.files import whole_file, write_json

_COPY_TOKENS = 2 << 20


@dataclass(frozen=True)
class FinishedPart:
    """A part that is read to its end, the file that it came from, and which of its documents stay."""

    part: Part
    source: str
    keep: np.ndarray  # bool (documents,)

    @property
    def num_tokens(self) -> int:
        return int(self.part.index()["tokens"][self.keep].sum(dtype=np.int64))

    def spans(self) -> list[tuple[int, int]]:
        """Kept documents as [start, end) in the part's stream; neighbours are one span."""
        ends = np.concatenate([[0], np.cumsum(self.part.index()["tokens"], dtype=np.int64)])
        edges = np.flatnonzero(np.diff(np.concatenate([[0], self.keep.astype(np.int8), [0]])))
        return [(int(ends[first]), int(ends[last])) for first, last in edges.reshape(-1, 2)]


def check_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse a tokenizer whose ids do not fit the model (`vocab_size`) or uint16."""
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise PipelineError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size:,} tokens; datasets are uint16 and hold at most "
            f"{MAX_VOCAB_SIZE:,}"
        )
    if tokenizer.vocab_size != vocab_size:
        raise PipelineError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size:,} tokens, model.vocab_size is {vocab_size:,}; "
            f"give the right tokenizer, or --set model.vocab_size={tokenizer.vocab_size}"
        )


def file_bounds(num_tokens: int, *, window: int, file_tokens: int, max_files: int) -> list[tuple[int, int]]:
    """[start, end) of every file in the whole stream: `file_tokens` or more each, `max_files` at most, all but the
    last equally long, and the last no shorter than a window."""
    smallest = max(file_tokens, window + max_files)
    count = min(max(1, num_tokens // smallest), max_files)
    length = -(-num_tokens // count)
    return [(start, min(start + length, num_tokens)) for start in range(0, num_tokens, length)]


def write_files(
    parts: Sequence[FinishedPart],
    directory: Path,
    records: Path,
    *,
    window: int,
    stride: int,
    bos_id: int,
    file_tokens: int,
    max_files: int,
    workers: int = 1,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> list[dict[str, Any]]:
    """Write `tokens_*.npy` and return their metadata entries.

    Each finished file leaves its entry in `records`; called again after a kill, those files are taken as they are.
    Parts whose tokens all stand in finished files are removed on the way, so the disk holds them twice at no time.

    Raises:
        PipelineError: there are fewer tokens than one window.
    """
    offsets = np.concatenate([[0], np.cumsum([part.num_tokens for part in parts], dtype=np.int64)]).tolist()
    if offsets[-1] < window:
        raise PipelineError(
            f"{directory.name} would hold {offsets[-1]:,} tokens, fewer than one window of {window}; "
            "prepare more text or take a shorter --window"
        )
    bounds = file_bounds(offsets[-1], window=window, file_tokens=file_tokens, max_files=max_files)

    def write(index: int) -> dict[str, Any]:
        record, path = records / f"file_{index}.json", directory / token_file_name(index)
        start, end = bounds[index]
        if record.exists():
            entry = read_sealed(record)
            if entry["tokens"] != end - start:
                raise PipelineError(
                    f"{path} was written with another window, which cuts files elsewhere; finish with that window, "
                    "then change it, or start again with --restart"
                )
            return entry
        inside = [place for place in range(len(parts)) if offsets[place] < end and offsets[place + 1] > start]
        pieces = (_pieces(parts[place], start - offsets[place], end - offsets[place]) for place in inside)
        documents, sha256 = _write_stream(path, chain.from_iterable(pieces), end - start, bos_id=bos_id)
        entry = {
            "name": path.name,
            "source": list(dict.fromkeys(parts[place].source for place in inside)),
            "documents": documents,
            "tokens": end - start,
            "windows": num_windows(end - start, window, stride),
            "sha256": sha256,
        }
        write_json(record, sealed(entry))
        return entry

    entries = []
    removed = 0
    with ThreadPoolExecutor(workers) as threads:
        # A few at a time: what is written twice stays small, and an interruption waits for one file only.
        for first in range(0, len(bounds), workers):
            entries += threads.map(write, range(first, min(first + workers, len(bounds))))
            while removed < len(parts) and offsets[removed + 1] <= bounds[len(entries) - 1][1]:
                parts[removed].part.remove_tokens()
                removed += 1
            on_tokens(bounds[len(entries) - 1][1])
    return entries


def metadata_of(
    parts: Sequence[FinishedPart],
    files: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    window: int,
    stride: int,
    config: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of metadata.json. No times, paths or durations: the same input gives the same bytes."""
    totals, rejected = _totals(parts)
    tokens = totals["tokens"]
    metadata = {
        "format_version": FORMAT_VERSION,
        "tokenizer": {
            "name": tokenizer.name,
            "fingerprint": tokenizer.fingerprint,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
        },
        "vocab_size": tokenizer.vocab_size,
        "window": window,
        "stride": stride,
        "totals": {**totals, "windows": sum(each["windows"] for each in files)},
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
    # A file that an interrupted run wrote may have been counted in other windows.
    return with_windows(metadata, window=window, stride=stride, overlap=config["overlap"])


def with_windows(metadata: Mapping[str, Any], *, window: int, stride: int, overlap: float) -> dict[str, Any]:
    """`metadata` of the same tokens seen in other windows."""
    files = [{**entry, "windows": num_windows(entry["tokens"], window, stride)} for entry in metadata["files"]]
    return {
        **metadata,
        "window": window,
        "stride": stride,
        "totals": {**metadata.get("totals", {}), "windows": sum(entry["windows"] for entry in files)},
        "config": {**metadata.get("config", {}), "window": window, "overlap": overlap},
        "files": files,
    }


def write_metadata(directory: Path, metadata: Mapping[str, Any]) -> None:
    """Write metadata.json, sealed with the sha256 of its content."""
    write_json(directory / METADATA_NAME, {**metadata, "sha256": metadata_sha256(metadata)})


def _totals(parts: Sequence[FinishedPart]) -> tuple[dict[str, int], dict[str, int]]:
    """What stays, and what went by reason."""
    totals, rejected = Counter(documents=0), Counter()
    for each in parts:
        index = each.part.index()[each.keep]
        totals["documents"] += len(index)
        for name in ("tokens", "bytes", "characters"):
            totals[name] += int(index[name].sum(dtype=np.int64))
        rejected.update(each.part.state.rejected)
        rejected["duplicate"] += int((~each.keep).sum())
    return dict(totals), dict(sorted((+rejected).items()))


def _pieces(part: FinishedPart, start: int, end: int) -> Iterator[np.ndarray]:
    """The kept tokens [start, end) of a part, where both count kept tokens only and may lie outside of it."""
    tokens = part.part.tokens()
    position = 0
    for first, last in part.spans():
        low, high = max(start - position, 0) + first, min(end - position, last - first) + first
        position += last - first
        for at in range(low, high, _COPY_TOKENS):
            yield tokens[at : min(at + _COPY_TOKENS, high)]


def _write_stream(path: Path, pieces: Iterable[np.ndarray], num_tokens: int, *, bos_id: int) -> tuple[int, str]:
    """Write `pieces` as one array; returns the documents that begin in it and the file's sha256."""
    digest, documents, written = hashlib.sha256(), 0, 0
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<u2", "fortran_order": False, "shape": (num_tokens,)})
    with whole_file(path) as stream:
        stream.write(header.getvalue())
        digest.update(header.getvalue())
        for piece in pieces:
            stream.write(piece)
            digest.update(piece)
            documents += int(np.count_nonzero(piece == bos_id))
            written += len(piece)
    assert written == num_tokens, f"{path.name}: {written} tokens instead of {num_tokens}"
    return documents, digest.hexdigest()
