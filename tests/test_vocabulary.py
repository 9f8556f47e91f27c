"""The vocabulary by itself: what it refuses, its bytes, its JSON, and the order of its merges."""

import json
from dataclasses import replace

import pytest

from pipeline.tokenization.vocabulary import (
    BYTE_PIECES,
    SPACE,
    SPECIAL_PIECES,
    Vocabulary,
    byte_of,
    checked,
    merges_by_priority,
)
from tests.expected_text import assert_expected
from utils.errors import PipelineError

PIECES = (*SPECIAL_PIECES, *BYTE_PIECES, SPACE, "a", "b", f"{SPACE}a", "ab", f"{SPACE}ab")
VOCABULARY = Vocabulary(PIECES, ((SPACE, "a"), ("a", "b"), (f"{SPACE}a", "b"), (SPACE, "ab")))


def test_the_json_of_a_vocabulary_is_as_approved():
    content = {added: json.loads(VOCABULARY.to_json(added_tokens=added)) for added in (True, False)}
    for engine in content.values():
        engine["model"]["vocab"] = {piece: i for piece, i in engine["model"]["vocab"].items() if not 5 < i < 255}
    text = json.dumps({**content, "fingerprint": VOCABULARY.fingerprint}, indent=1, ensure_ascii=False)
    assert_expected("vocabulary.json", text + "\n")


def test_token_bytes_are_those_of_the_text():
    pieces = VOCABULARY.token_bytes
    assert pieces[:4] == (b"", b"", b"", b"\x00")
    assert pieces[258] == b"\xff"
    assert pieces[-6:] == (b" ", b"a", b"b", b" a", b"ab", b" ab")
    assert replace(VOCABULARY, controls=frozenset((0, 1, 2, 259))).token_bytes[259] == b""


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ((*PIECES[:-1], PIECES[-2]), "it contains a duplicate piece"),
        (PIECES[:3] + PIECES[4:], "it is missing 1 of the 256 byte pieces"),
        (PIECES + tuple(map(str, range(65_537 - len(PIECES)))), "it has 65,537 pieces; expected at most 65,536"),
    ],
)
def test_pieces_that_are_no_such_tokenizer_are_refused(pieces, said):
    with pytest.raises(PipelineError, match=f"folder does not contain a usable tokenizer: {said}"):
        checked(Vocabulary(pieces, ()), origin="folder")


def test_a_vocabulary_as_large_as_uint16_is_accepted():
    pieces = PIECES + tuple(map(str, range(65_536 - len(PIECES))))
    assert checked(Vocabulary(pieces, ()), origin="folder").problem() == ""


def test_merges_come_by_priority_and_then_by_ids():
    pieces = ["<s>", "a", "b", "ab", "aba", "ba", "<0x41>", "c"]
    priorities = [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, 0.0, 0.0]
    merges = merges_by_priority(pieces, priorities, reserved=frozenset((0, 6)))
    assert merges == (("a", "b"), ("a", "ba"), ("ab", "a"), ("b", "a"))


@pytest.mark.parametrize(("piece", "byte"), [("<0x41>", 65), ("<0xFF>", 255), ("<0xff>", None), ("<0x41>a", None)])
def test_names_of_bytes_are_read(piece, byte):
    assert byte_of(piece) == byte
