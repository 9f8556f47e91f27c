"""Exact deduplication keeps the first of equal documents, however the work is divided."""

import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.preparation.exact_duplicates import hash_documents, keep_masks


def masks_by_a_set(files: list[list[str]]) -> list[list[bool]]:
    """A simple reference."""
    seen, masks = set(), []
    for texts in files:
        mask = []
        for digest in map(bytes, hash_documents(texts)):
            mask.append(digest not in seen)
            seen.add(digest)
        masks.append(mask)
    return masks


@given(st.lists(st.lists(st.sampled_from(["a", "b", "A b", "c", "é", "d d", ""]), max_size=6), max_size=5))
def test_masks_are_those_of_a_set(files):
    masks = keep_masks([hash_documents(texts) for texts in files])
    assert [mask.tolist() for mask in masks] == masks_by_a_set(files)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), st.data())
def test_the_result_does_not_depend_on_how_files_are_cut(texts, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=4)))
    pieces = [texts[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(texts)], strict=True)]
    whole = keep_masks([hash_documents(texts)])[0]
    assert np.concatenate(keep_masks([hash_documents(piece) for piece in pieces])).tolist() == whole.tolist()


def test_case_white_space_and_composition_do_not_make_a_difference():
    same = ["A Café\nby the sea", "a café by  the sea ", unicodedata.normalize("NFD", "a café by the sea")]
    assert len({bytes(row) for row in hash_documents(same)}) == 1
    assert len({bytes(row) for row in hash_documents(["a cafe by the sea", "a café by the se", same[0]])}) == 3


def test_hashes_that_share_half_their_bits_are_different():
    hashes = np.array([[1, 2], [1, 3], [4, 2], [1, 2]], dtype=np.uint64)
    assert keep_masks([hashes])[0].tolist() == [True, True, True, False]


def test_a_hash_is_the_same_on_every_machine():
    assert hash_documents(["Hello"]).tobytes().hex() == "46fb7408d4f285228f4af516ea25851b"
    assert hash_documents([]).shape == (0, 2)
