"""Find the near duplicates among the documents of all parts, on disk and in parallel.

    found = find_near_duplicates(search, keep, executor)
    found.keep, found.documents, found.clusters

Three rounds of jobs write the files `near_*` in the folder of the unfinished dataset: sketches and band keys of every
part; candidate pairs; and, for every part, the pairs that are similar enough. A file exists once it is
complete, so an interrupted run continues with the missing ones. Documents are numbered in the order of the source, so
the result does not depend on the number of workers.
"""

import io
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from pipeline.jobs.runner import Executor, Job, Work, run_pending
from pipeline.preparation.near_duplicates import (
    HASHES,
    SHINGLE_TOKENS,
    Bands,
    band_keys,
    bands_for,
    clusters,
    estimate_margin,
    estimated_similarity,
    jaccard,
    pairs_with_equal_keys,
    sketch,
    unique_pairs,
)
from pipeline.preparation.shard_output import Part
from pipeline.preparation.worker import part_name
from utils.errors import PipelineError
from utils.files import whole_file

# A document in a part: its place in the part's index, and its text in the part's tokens, without <s> and </s>.
DOCUMENT_DTYPE = np.dtype([("start", "<u8"), ("place", "<u4"), ("length", "<u4"), ("sketch", "<u2", (HASHES,))])
LINK_DTYPE = np.dtype([("earlier", "<i8"), ("later", "<i8"), ("similarity", "<f8")])

_BAND_JOBS = 4  # for each group of keys
_KEYS_AT_ONCE = 2_000_000
_PAIRS_AT_ONCE = 20_000
_TOKENS_AT_ONCE = 1 << 16  # their hashes stay in the processor's cache
_CRC_BYTES = 4
_READ_BYTES = 4 << 20


@dataclass(frozen=True)
class Search:
    """What to search; pickled to the workers. `folder` has the parts, numbered from 0."""

    folder: Path
    parts: int
    threshold: float

    @property
    def bands(self) -> Bands:
        return bands_for(self.threshold)

    def documents_path(self, part: int) -> Path:
        return self.folder / f"near_{part:06d}.documents"

    def keys_path(self, part: int) -> Path:
        return self.folder / f"near_{part:06d}.keys"

    def pairs_path(self, first_band: int, group: int) -> Path:
        return self.folder / f"near_band_{first_band:03d}_{group:04d}.pairs"

    def links_path(self, part: int) -> Path:
        return self.folder / f"near_{part:06d}.links"


@dataclass(frozen=True)
class NearDuplicates:
    """`keep` has a mask for each part, without the near duplicates; `removed` counts them in each part. `links` are the
    pairs of similar documents, whose texts `documents` has.
    """

    keep: Sequence[np.ndarray]
    removed: Sequence[int]
    clusters: int
    links: np.ndarray
    documents: "Documents"


def bytes_per_document(threshold: float) -> int:
    """The size on disk of the files about one document."""
    return DOCUMENT_DTYPE.itemsize + 8 * bands_for(threshold).count


def find_near_duplicates(search: Search, keep: Sequence[np.ndarray], executor: Executor) -> NearDuplicates:
    """Search the documents in the masks `keep`; the first document of every cluster is kept.

    Raises:
        PipelineError: a file of an interrupted run is damaged.
    """
    parts = range(search.parts)
    sketches = {search.keys_path(part): partial(_sketch_part, search, part, keep[part]) for part in parts}
    _run("1 of 3, sketches", sketches, executor)
    documents = Documents(search)
    groups = len(documents) // _KEYS_AT_ONCE + 1
    pairs = {
        search.pairs_path(first, group): partial(_pair_bands, search, first, group, groups)
        for first in range(_BAND_JOBS)
        for group in range(groups)
    }
    _run("2 of 3, bands", pairs, executor)
    _run(
        "3 of 3, pairs",
        {search.links_path(part): partial(_link_part, search, part, groups) for part in parts},
        executor,
    )
    links = np.concatenate([np.empty(0, LINK_DTYPE), *(_load(search.links_path(part)) for part in parts)])
    members, firsts = clusters(np.stack([links["earlier"], links["later"]], axis=1))
    removed = documents.places_in_parts(members[members != firsts])
    masks = [mask.copy() for mask in keep]
    for mask, gone in zip(masks, removed, strict=True):
        mask[gone] = False
    return NearDuplicates(masks, [len(gone) for gone in removed], len(np.unique(firsts)), links, documents)


def _run(round_name: str, work: Mapping[Path, Work[None, None]], executor: Executor) -> None:
    """Run the jobs whose file does not exist yet; files of an earlier run are verified."""
    from tqdm import tqdm

    done = {path for path in work if path.exists()}
    for path in done:
        _verify(path)
    plan = [Job(path.name, job, done=path in done) for path, job in work.items()]
    mininterval = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(
        total=len(work),
        initial=len(done),
        desc=f"Near duplicates, {round_name}",
        unit=" jobs",
        mininterval=mininterval,
        bar_format="{desc}: {n:,} of {total:,} jobs [{elapsed}]",
    ) as bar:
        run_pending(plan, executor, on_result=lambda *_: bar.update())


class Documents:
    """The documents to compare, numbered in the order of the source. Files are mapped when they are first needed."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._rows = [_load(search.documents_path(part)) for part in range(search.parts)]
        self.offsets = np.array([0, *accumulate(map(len, self._rows))])
        self._tokens: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def parts_of(self, numbers: np.ndarray) -> np.ndarray:
        """The part of each document."""
        return np.asarray(np.searchsorted(self.offsets, numbers, side="right") - 1)

    def places_in_parts(self, numbers: np.ndarray) -> list[np.ndarray]:
        """For each part, the places in its index of those of the `numbers` that it contains."""
        parts = self.parts_of(numbers)
        return [rows["place"][numbers[parts == part] - self.offsets[part]] for part, rows in enumerate(self._rows)]

    def sketches(self, numbers: np.ndarray) -> np.ndarray:
        """(N, HASHES) uint16."""
        parts = self.parts_of(numbers)
        found = np.empty((len(numbers), HASHES), dtype=np.uint16)
        for part in np.unique(parts):
            inside = parts == part
            found[inside] = self._rows[part]["sketch"][numbers[inside] - self.offsets[part]]
        return found

    def texts(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The token ids of each document, without <s> and </s>."""
        return [self._text(part, number) for part, number in zip(self.parts_of(numbers).tolist(), numbers, strict=True)]

    def _text(self, part: int, number: int) -> np.ndarray:
        if part not in self._tokens:
            self._tokens[part] = np.asarray(Part(self._search.folder, part_name(part)).tokens())
        row = self._rows[part][number - self.offsets[part]]
        start = int(row["start"])
        return self._tokens[part][start : start + int(row["length"])]


# ---- the jobs


def _sketch_part(search: Search, part: int, keep: np.ndarray, report: object) -> None:
    """Write a part's documents with their sketches, then their band keys."""
    found = Part(search.folder, part_name(part))
    lengths = found.index()["tokens"].astype(np.int64)
    places = np.flatnonzero(keep & (lengths >= SHINGLE_TOKENS + 2))
    rows = np.zeros(len(places), dtype=DOCUMENT_DTYPE)
    rows["place"] = places
    rows["start"] = (np.cumsum(lengths) - lengths)[places] + 1
    rows["length"] = lengths[places] - 2
    tokens = np.asarray(found.tokens())
    for batch in _batches(rows["length"]):
        spans = zip(rows["start"][batch].tolist(), rows["length"][batch].tolist(), strict=True)
        rows["sketch"][batch] = sketch([tokens[start : start + length] for start, length in spans])
    _save(search.documents_path(part), rows)
    _save(search.keys_path(part), band_keys(rows["sketch"], search.bands))


def _pair_bands(search: Search, first_band: int, group: int, groups: int, report: object) -> None:
    """Write the candidate pairs of every fourth band, of those keys that are in `group` of `groups`, so that memory is
    bounded for any number of documents."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for band in range(first_band, search.bands.count, _BAND_JOBS):
        pairs.append(pairs_with_equal_keys(*_keys_of(search, band, group, groups)))
    _save(search.pairs_path(first_band, group), unique_pairs(np.concatenate(pairs)))


def _keys_of(search: Search, band: int, group: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """The keys of all documents in a band that are in the group, and the documents' numbers."""
    keys = [np.empty(0, dtype=np.uint64)]
    numbers = [np.empty(0, dtype=np.int64)]
    offset = 0
    for part in range(search.parts):
        column = _load(search.keys_path(part))[band]
        places = np.flatnonzero(column % np.uint64(groups) == group)
        keys.append(column[places])
        numbers.append(places + offset)
        offset += len(column)
    return np.concatenate(keys), np.concatenate(numbers)


def _link_part(search: Search, part: int, groups: int, report: object) -> None:
    """Write the pairs that are similar enough, of those whose later document is in the part."""
    documents = Documents(search)
    bounds = documents.offsets[part : part + 2]
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for band in range(_BAND_JOBS):
        for group in range(groups):
            found = _load(search.pairs_path(band, group))
            first, last = np.searchsorted(found[:, 1], bounds)
            pairs.append(found[first:last])
    links = [np.empty(0, dtype=LINK_DTYPE), *_links(unique_pairs(np.concatenate(pairs)), documents, search.threshold)]
    _save(search.links_path(part), np.concatenate(links))


def _links(pairs: np.ndarray, documents: Documents, threshold: float) -> Iterator[np.ndarray]:
    """Enough of the pairs with at least this similarity to connect all that are connected by such pairs.

    In each round, every later document is compared with one earlier document, and pairs that are then connected
    anyway are dropped. `pairs` must be sorted by the later document.
    """
    pairs = _likely(pairs, documents, threshold)
    found = np.empty((0, 2), dtype=np.int64)
    while len(pairs):
        is_next = np.append(True, pairs[1:, 1] != pairs[:-1, 1])
        links = np.concatenate(list(_compared(pairs[is_next], documents, threshold)))
        found = np.concatenate([found, np.stack([links["earlier"], links["later"]], axis=1)])
        pairs = _unconnected(pairs[~is_next], found)
        yield links


def _likely(pairs: np.ndarray, documents: Documents, threshold: float) -> np.ndarray:
    """The pairs that may have this similarity, judging by their sketches."""
    at_least = threshold - estimate_margin(threshold)
    kept = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs[start : start + _PAIRS_AT_ONCE]
        estimates = estimated_similarity(documents.sketches(some[:, 0]), documents.sketches(some[:, 1]))
        kept.append(some[estimates >= at_least])
    return np.concatenate(kept)


def _compared(pairs: np.ndarray, documents: Documents, threshold: float) -> Iterator[np.ndarray]:
    """The links among the pairs, by their exact similarity."""
    left, right = documents.texts(pairs[:, 0]), documents.texts(pairs[:, 1])
    lengths = np.array([len(one) + len(other) for one, other in zip(left, right, strict=True)], dtype=np.int64)
    for batch in _batches(lengths):
        similarity = jaccard(left[batch], right[batch])
        linked = similarity >= threshold
        links = np.zeros(int(linked.sum()), dtype=LINK_DTYPE)
        links["earlier"], links["later"] = pairs[batch][linked].T
        links["similarity"] = similarity[linked]
        yield links


def _unconnected(pairs: np.ndarray, links: np.ndarray) -> np.ndarray:
    """The pairs whose documents are not yet in the same cluster."""
    members, firsts = clusters(links)
    if not len(members):
        return pairs
    places = np.minimum(np.searchsorted(members, pairs), len(members) - 1)
    cluster = np.where(members[places] == pairs, firsts[places], pairs)
    unconnected: np.ndarray = pairs[cluster[:, 0] != cluster[:, 1]]
    return unconnected


def _batches(lengths: np.ndarray) -> Iterator[slice]:
    """Consecutive documents or pairs with about _TOKENS_AT_ONCE tokens in all."""
    numbers = np.cumsum(lengths, dtype=np.int64) // _TOKENS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(lengths)]
    yield from (slice(first, last) for first, last in pairwise(edges) if last > first)


# ---- files: a .npy array followed by the CRC-32 of everything before


def _save(path: Path, array: np.ndarray) -> None:
    header = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    content = array.reshape(-1).view(np.uint8).data
    crc = zlib.crc32(content, zlib.crc32(header.getvalue()))
    with whole_file(path) as stream:
        for piece in (header.getvalue(), content, crc.to_bytes(_CRC_BYTES, "little")):
            stream.write(piece)


def _load(path: Path) -> np.ndarray:
    """The array, memory-mapped unless it is empty."""
    return np.asarray(np.load(path, mmap_mode="r"))


def _verify(path: Path) -> None:
    left = path.stat().st_size - _CRC_BYTES
    crc = 0
    with path.open("rb") as stream:
        while left > 0 and (block := stream.read(min(_READ_BYTES, left))):
            crc = zlib.crc32(block, crc)
            left -= len(block)
        if stream.read() != crc.to_bytes(_CRC_BYTES, "little"):
            raise PipelineError(
                f"{path} is damaged: its content does not match its checksum; start over with --restart"
            )
