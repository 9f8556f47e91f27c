"""Find near duplicates: documents with a high Jaccard similarity of their five-token windows (shingles).

    sketches = sketch(documents)                      # MinHash: the share of equal values estimates the similarity
    keys = band_keys(sketches, bands_for(0.8))        # similar documents share a key in at least one band
    pairs = pairs_with_equal_keys(keys[0], numbers)   # candidates
    jaccard(left, right)                              # the exact similarity of each candidate pair
    members, firsts = clusters(links)                 # the first document of every cluster

Everything works on whole arrays; there is no Python loop over tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHINGLE_TOKENS = 5
HASHES = 128
LOWEST_THRESHOLD = 0.5

# Bits of a shingle's hash: the upper ones choose one of the HASHES bins, the others are its value there.
_VALUE_BITS = 32 - (HASHES - 1).bit_length()
_VALUE_MASK = np.uint32((1 << _VALUE_BITS) - 1)
_EMPTY = np.uint32(0xFFFFFFFF)
_ROUNDS = 6
_STEP = 0x9E3779B9  # 2^32 divided by the golden ratio
_TOKEN_FACTOR, _WINDOW_FACTOR = np.uint32(0x85EBCA6B), np.uint32(0x01000193)
_BAND_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_RECALL = 0.98


@dataclass(frozen=True)
class Bands:
    """`count` bands of `rows` values of a sketch each."""

    count: int
    rows: int

    def recall(self, similarity: float) -> float:
        """The share of document pairs with this similarity that share a key in at least one band."""
        return 1 - (1 - similarity**self.rows) ** self.count


def bands_for(threshold: float) -> Bands:
    """The bands with the fewest candidates that still find 98% of the pairs at the threshold."""
    choices = [Bands(HASHES // rows, rows) for rows in range(HASHES, 0, -1)]
    return next(bands for bands in choices if bands.recall(threshold) >= _RECALL)


def shingle_hashes(documents: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The hash of every window of five tokens, uint32 (S,), and how many windows each document has, int64 (D,).

    Args:
        documents: token ids, uint16.
    """
    lengths = np.fromiter(map(len, documents), dtype=np.int64, count=len(documents))
    counts = np.maximum(lengths - SHINGLE_TOKENS + 1, 0)
    if not counts.any():
        return np.empty(0, dtype=np.uint32), counts
    tokens = np.concatenate(documents).astype(np.uint32)
    tokens *= _TOKEN_FACTOR
    tokens ^= tokens >> np.uint32(15)
    size = len(tokens) - SHINGLE_TOKENS + 1
    hashes = tokens[:size].copy()
    for offset in range(1, SHINGLE_TOKENS):
        hashes *= _WINDOW_FACTOR
        hashes += tokens[offset : offset + size]
    return _mixed(hashes[_starts_inside(lengths)[:size]]), counts


def _starts_inside(lengths: np.ndarray) -> np.ndarray:
    """Of all positions, bool (tokens,), those whose window does not reach into the next document."""
    inside = np.ones(int(lengths.sum()), dtype=bool)
    ends = np.cumsum(lengths)
    for distance in range(1, SHINGLE_TOKENS):
        inside[np.maximum(ends - distance, 0)] = False
    return inside


def _mixed(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's finalizer, in place: every input bit affects every output bit."""
    values ^= values >> np.uint32(16)
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    return values


def sketch(documents: Sequence[np.ndarray]) -> np.ndarray:
    """(D, HASHES) uint16: the share of equal values in two rows estimates the Jaccard similarity of two documents.

    Each shingle has one value in one bin, and a bin keeps its smallest. Bins without a shingle are filled in further
    rounds with other hash functions, and finally with one function a bin. For long documents, that is one hash a
    shingle instead of one for each of the 128 values. After Dahlgaard, Knudsen and Thorup 2017, "Fast Similarity
    Sketching", arXiv:1704.04370. Every document must have at least five tokens.
    """
    hashes, counts = shingle_hashes(documents)
    smallest = _smallest_in_bins(hashes, counts)
    for number in range(1, _ROUNDS):
        open_rows = (smallest == _EMPTY).any(axis=1)
        if not open_rows.any():
            break
        again = hashes[np.repeat(open_rows, counts)]
        found = _smallest_in_bins(_mixed(again + np.uint32(number * _STEP & 0xFFFFFFFF)), counts[open_rows])
        before = smallest[open_rows]
        smallest[open_rows] = np.where(before == _EMPTY, found, before)
    _fill_empty_bins(smallest, hashes, counts)
    return smallest.astype(np.uint16)  # the lower bits


def _smallest_in_bins(hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(D, HASHES) uint32: the smallest value in each bin, or _EMPTY."""
    smallest = np.full(len(counts) * HASHES, _EMPTY, dtype=np.uint32)
    places = np.repeat(np.arange(len(counts)) * HASHES, counts)
    places += hashes >> np.uint32(_VALUE_BITS)
    np.minimum.at(smallest, places, hashes & _VALUE_MASK)
    return smallest.reshape(len(counts), HASHES)


def _fill_empty_bins(smallest: np.ndarray, hashes: np.ndarray, counts: np.ndarray) -> None:
    """Fill each empty bin with the minimum of the bin's own hash function over all shingles of the document."""
    rows, bins = np.nonzero(smallest == _EMPTY)
    if not len(rows):
        return
    sizes = counts[rows]
    ends = np.cumsum(sizes)
    first_shingles = (np.cumsum(counts) - counts)[rows]
    places = np.arange(ends[-1]) + np.repeat(first_shingles - (ends - sizes), sizes)
    seeds = ((bins + _ROUNDS) * _STEP).astype(np.uint32)
    values = _mixed(hashes[places] + np.repeat(seeds, sizes)) & _VALUE_MASK
    smallest[rows, bins] = np.minimum.reduceat(values, ends - sizes)


def band_keys(sketches: np.ndarray, bands: Bands) -> np.ndarray:
    """(bands, D) uint64: the hash of each document's values in each band."""
    keys = np.zeros((bands.count, len(sketches)), dtype=np.uint64)
    values = sketches[:, : bands.count * bands.rows].reshape(len(sketches), bands.count, bands.rows)
    for row in range(bands.rows):
        keys += values[:, :, row].T
        keys *= _BAND_FACTOR
        keys ^= keys >> np.uint64(29)
    return keys


def pairs_with_equal_keys(keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """(P, 2) int64, candidate pairs (earlier, later): each document with the first one that has its key, and with the
    one just before it. Linear in the number of documents, however many share a key."""
    order = np.argsort(keys)
    is_first = _differs_from_previous(keys[order])
    is_last = np.append(is_first[1:], True)[: len(order)]
    repeated = order[~(is_first & is_last)]
    repeated = repeated[np.lexsort((documents[repeated], keys[repeated]))]
    is_first = _differs_from_previous(keys[repeated])
    ordered = documents[repeated]
    firsts = ordered[np.maximum.accumulate(np.where(is_first, np.arange(len(repeated)), 0))]
    later = np.flatnonzero(~is_first)
    with_first = np.stack([firsts[later], ordered[later]], axis=1)
    with_previous = np.stack([ordered[later - 1], ordered[later]], axis=1)
    return unique_pairs(np.concatenate([with_first, with_previous]))


def unique_pairs(pairs: np.ndarray) -> np.ndarray:
    """`pairs` without repeats, sorted by the later document and then by the earlier one."""
    ordered = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    unique: np.ndarray = ordered[_differs_from_previous(ordered)]
    return unique


def _differs_from_previous(rows: np.ndarray) -> np.ndarray:
    """bool (N,): True for the first row and for each that differs from the one before it."""
    differs = np.ones(len(rows), dtype=bool)
    changed = rows[1:] != rows[:-1]
    differs[1:] = changed if rows.ndim == 1 else changed.any(axis=1)
    return differs


def estimated_similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(P,) the share of equal values in each row of two (P, HASHES) arrays of sketches."""
    similarity: np.ndarray = np.count_nonzero(left == right, axis=1) / HASHES
    return similarity


def estimate_margin(threshold: float) -> float:
    """Four standard deviations of the estimate for pairs at the threshold."""
    return 4 * float(np.sqrt(threshold * (1 - threshold) / HASHES))


def jaccard(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> np.ndarray:
    """(P,) the Jaccard similarity of the sets of shingles of each pair of documents, 0 if both have none."""
    left_set, right_set = _shingle_set(left), _shingle_set(right)
    both = np.concatenate([left_set, right_set])
    both.sort(kind="stable")  # merges the two sorted halves
    common = _per_pair(both[1:][both[1:] == both[:-1]], len(left))
    union = _per_pair(both, len(left)) - common
    similarity: np.ndarray = common / np.maximum(union, 1)
    return similarity


def _shingle_set(documents: Sequence[np.ndarray]) -> np.ndarray:
    """The distinct shingles of each document, as (document's number << 32 | hash), sorted."""
    hashes, counts = shingle_hashes(documents)
    keyed = np.repeat(np.arange(len(counts), dtype=np.uint64) << np.uint64(32), counts)
    keyed |= hashes
    keyed.sort()
    distinct: np.ndarray = keyed[_differs_from_previous(keyed)]
    return distinct


def _per_pair(keyed: np.ndarray, pairs: int) -> np.ndarray:
    return np.bincount((keyed >> np.uint64(32)).astype(np.int64), minlength=pairs)


def clusters(links: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All documents in `links`, (L, 2), in ascending order, and for each of them the first document of its cluster.

    A cluster is everything that is connected by links, so two of its documents need not be similar themselves.
    """
    members, ends = np.unique(links, return_inverse=True)
    ends = ends.reshape(-1, 2)
    label = np.arange(len(members))
    while True:
        roots = label[ends]
        lower = roots.min(axis=1)
        if (roots == lower[:, None]).all():
            return members, members[label]
        np.minimum.at(label, roots.max(axis=1), lower)
        label = _followed(label)


def _followed(label: np.ndarray) -> np.ndarray:
    """Each label replaced by the label at the end of its chain."""
    while True:
        further = label[label]
        if np.array_equal(further, label):
            return label
        label = further
