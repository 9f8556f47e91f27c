"""MinHash sketches, bands and clusters against exact Jaccard similarities of shingle sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.preparation.near_duplicates import (
    HASHES,
    SHINGLE_TOKENS,
    band_keys,
    bands_for,
    clusters,
    estimated_similarity,
    jaccard,
    pairs_with_equal_keys,
    sketch,
)

Documents = list[np.ndarray]


def shingles(document: np.ndarray) -> set[tuple[int, ...]]:
    ids = document.tolist()
    return {tuple(ids[start : start + SHINGLE_TOKENS]) for start in range(len(ids) - SHINGLE_TOKENS + 1)}


def exact_similarity(one: np.ndarray, other: np.ndarray) -> float:
    left, right = shingles(one), shingles(other)
    return len(left & right) / max(len(left | right), 1)


def edited_copies(pairs: int, *, length: int, edits: int) -> tuple[Documents, Documents]:
    """Random documents, and copies with `edits` random tokens replaced."""
    random = np.random.default_rng(length)
    originals = [random.integers(3, 20_000, length).astype(np.uint16) for _ in range(pairs)]
    copies = [original.copy() for original in originals]
    for copy in copies:
        copy[random.choice(length, edits, replace=False)] = random.integers(3, 20_000, edits)
    return originals, copies


documents = st.lists(st.integers(0, 3), min_size=SHINGLE_TOKENS, max_size=14).map(
    lambda ids: np.array(ids, dtype=np.uint16)
)


@settings(max_examples=40)
@given(st.lists(st.tuples(documents, documents), min_size=1, max_size=4))
def test_jaccard_equals_that_of_python_sets(pairs):
    left, right = map(list, zip(*pairs, strict=True))
    assert jaccard(left, right).tolist() == [exact_similarity(one, other) for one, other in pairs]


@pytest.mark.parametrize(("length", "edits"), [(8, 1), (60, 2), (400, 10), (3000, 70)])
def test_sketches_estimate_similarity_within_minhash_error(length, edits):
    left, right = edited_copies(150, length=length, edits=edits)
    exact = jaccard(left, right)
    errors = estimated_similarity(sketch(left), sketch(right)) - exact
    minhash_error = float(np.sqrt((exact * (1 - exact) / HASHES).mean()))
    assert abs(errors.mean()) < 4 * minhash_error / np.sqrt(len(left))
    assert np.sqrt((errors**2).mean()) < 1.2 * minhash_error


def test_a_sketch_does_not_depend_on_its_batch():
    left, right = edited_copies(20, length=40, edits=1)
    mixed = [*left, np.arange(900, dtype=np.uint16), *right, np.arange(5, dtype=np.uint16)]
    assert np.array_equal(sketch(mixed), np.concatenate([sketch([document]) for document in mixed]))


def test_a_sketch_is_the_same_on_every_machine():
    assert sketch([np.arange(100, 140, dtype=np.uint16)])[0, :6].tolist() == [61527, 28082, 45782, 30531, 60612, 8907]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_bands_find_pairs_at_the_threshold(threshold):
    bands = bands_for(threshold)
    assert bands.count * bands.rows <= HASHES
    assert bands.recall(threshold) >= 0.98
    assert bands.recall(threshold / 4) < 0.1


def test_equal_sketches_share_all_keys_and_others_none():
    left, _ = edited_copies(2, length=50, edits=0)
    keys = band_keys(sketch([*left, left[0]]), bands_for(0.8))
    assert (keys[:, 0] == keys[:, 2]).all()
    assert not (keys[:, 0] == keys[:, 1]).any()


@given(st.lists(st.integers(0, 4), max_size=12), st.randoms())
def test_pairs_connect_all_documents_with_equal_keys(keys, random):
    """Whatever the order in which the documents are stored."""
    numbers = list(range(len(keys)))
    random.shuffle(numbers)
    pairs = pairs_with_equal_keys(np.array([keys[number] for number in numbers], np.uint64), np.array(numbers, int))
    assert all(keys[earlier] == keys[later] and earlier < later for earlier, later in pairs.tolist())
    repeats = {number for number, key in enumerate(keys) if key in keys[:number]}
    assert {later for _, later in pairs.tolist()} == repeats


def reference_clusters(links: list[tuple[int, int]]) -> dict[int, int]:
    cluster = {number: {number} for link in links for number in link}
    for one, other in links:
        merged = cluster[one] | cluster[other]
        cluster.update(dict.fromkeys(merged, merged))
    return {number: min(numbers) for number, numbers in cluster.items()}


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=20))
def test_the_first_document_of_a_cluster_stays(links):
    members, firsts = clusters(np.array(links, dtype=np.int64).reshape(-1, 2))
    assert dict(zip(members.tolist(), firsts.tolist(), strict=True)) == reference_clusters(links)


def test_a_long_chain_is_one_cluster():
    order = np.random.default_rng(0).permutation(5000)
    members, firsts = clusters(np.stack([order[1:], order[:-1]], axis=1))
    assert len(members) == 5000
    assert not firsts.any()
