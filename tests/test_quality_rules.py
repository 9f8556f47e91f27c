"""The quality rules: each rejects what its paper describes, and ordinary prose passes."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline.preparation.quality_rules import (
    RULE_NAMES,
    c4,
    check_rule_names,
    gopher_quality,
    gopher_repetition,
    rejection,
)
from utils.errors import PipelineError

PROSE = (
    "The bridge was built in 1897 by a company that no longer exists, and it carried trains until the last war. "
    "Engineers have since strengthened its piers with concrete. Visitors cross on foot to see the old signal house!\n\n"
    "North of the river lies a village whose church keeps a painted ceiling. Nobody knows who made it. Records of "
    "that time burned with the archive, but its colours suggest a workshop from further south, perhaps Verona."
)
UNIQUE = " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(300))


@pytest.mark.parametrize("name", RULE_NAMES)
def test_ordinary_prose_passes_every_rule(name):
    assert rejection(PROSE, [name]) is None


@pytest.mark.parametrize(
    ("text", "rules", "reason"),
    [
        ("", ["gopher_quality"], "gopher_word_count"),
        ("the end of that", ["gopher_quality"], "gopher_word_count"),
        ("a b c d " * 20, ["gopher_quality"], "gopher_word_length"),
        ("#tagged words " * 30, ["gopher_quality"], "gopher_symbols"),
        ("wait... " * 60, ["gopher_quality"], "gopher_symbols"),
        ("- some words here\n" * 20, ["gopher_quality"], "gopher_bullets"),
        ("several words that lead to…\nand more words of that kind\n" * 8, ["gopher_quality"], "gopher_ellipses"),
        ("1234 " * 50 + "word " * 100, ["gopher_quality"], "gopher_letters"),
        ("Der Hund schläft unter dem Tisch.", ["gopher_stop_words"], "gopher_stop_words"),
        ("the the the", ["gopher_stop_words"], "gopher_stop_words"),
        ("Read more\n" * 5 + PROSE, ["gopher_repetition"], "gopher_duplicate_lines"),
        (f"{PROSE}\n\n" * 2, ["gopher_repetition"], "gopher_duplicate_lines"),
        ("one x\ntwo y\n\nthree z\n\none x\ntwo y\n", ["gopher_repetition"], "gopher_duplicate_lines"),
        ("buy now " * 10 + "x " * 20, ["gopher_repetition"], "gopher_top_ngram"),
        (f"{UNIQUE} {UNIQUE[:700]}", ["gopher_repetition"], "gopher_duplicate_ngrams"),
        (PROSE + " function() {", ["c4"], "c4_curly_bracket"),
        (PROSE + " Lorem Ipsum dolor", ["c4"], "c4_lorem_ipsum"),
        ("One sentence of five words. And a second one here.", ["c4"], "c4_few_sentences"),
        ("You must enable JavaScript. " * 5, ["c4"], "c4_few_sentences"),
        ("Read our privacy policy first, please. " * 5, ["c4"], "c4_few_sentences"),
    ],
)
def test_rules_reject_bad_documents(text, rules, reason):
    assert rejection(text, rules) == reason


def test_a_share_just_below_the_limit_passes():
    # A run of 30 repeated words is 9% of all words, one of 60 is 17%; 15% are allowed for 5-grams, 10% for 10-grams.
    # Of 40, four 10-grams are 11.5%, and the four 9-grams are 10.4%, of which 11% are allowed.
    assert gopher_repetition(f"{UNIQUE} {' '.join(UNIQUE.split()[:30])}") is None
    assert gopher_repetition(f"{UNIQUE} {' '.join(UNIQUE.split()[:40])}") == "gopher_duplicate_ngrams"
    assert gopher_repetition(f"{UNIQUE} {' '.join(UNIQUE.split()[:60])}") == "gopher_duplicate_ngrams"


def test_overlapping_repeated_ngrams_count_once():
    words = UNIQUE.split()
    # The last ten words are 9% of the text; counted for each of the six overlapping 5-grams they would be 27%.
    assert gopher_repetition(" ".join(words[:100] + words[:10])) is None


def test_the_first_rule_that_finds_something_gives_the_reason():
    assert rejection("{", ["c4", "gopher_quality"]) == "c4_curly_bracket"
    assert rejection("{", ["gopher_quality", "c4"]) == "gopher_word_count"
    assert rejection("{", []) is None


def test_an_unknown_rule_is_named():
    check_rule_names(RULE_NAMES)
    with pytest.raises(PipelineError, match=r"'gopher_stopwords'.*did you mean 'gopher_stop_words'"):
        check_rule_names(["gopher_stopwords"])


@pytest.mark.skipif("LLM_REAL_DATA" not in os.environ, reason="LLM_REAL_DATA is not set")
def test_real_web_text_passes_for_the_most_part():
    """C4's own documents pass C4's rules; Gopher's reject short and non-English ones."""
    path = Path(os.environ["LLM_REAL_DATA"]) / "fineweb" / "c4_300_docs.jsonl"
    texts = [json.loads(line)["text"] for line in path.open(encoding="utf-8", newline="\n")]
    assert Counter(map(c4, texts))[None] >= 295
    assert Counter(map(gopher_repetition, texts))[None] >= 285
    reasons = Counter(map(gopher_quality, texts))
    assert reasons.keys() <= {None, "gopher_word_count", "gopher_symbols"}


def test_the_commonest_words_count_with_the_space_between():
    def text(filler: int) -> str:
        return " ".join(f"a b {chr(97 + i) * filler}" for i in range(20))

    # "a b" has three of every 14 characters, 21%, or of every 16, 19%; 20% are allowed for two words.
    assert gopher_repetition(text(9)) == "gopher_top_ngram"
    assert gopher_repetition(text(10)) == "gopher_top_ngram"  # 60 of 299 characters
    assert gopher_repetition(text(10) + "t") is None  # 60 of 300
    assert gopher_repetition(text(11)) is None


def _words(count: int, word: str = "plain") -> str:
    return " ".join([word] * count)


QUALITY_LIMITS = {
    "fewest": (_words(50), _words(49), "gopher_word_count"),
    "most": (_words(100_000), _words(100_001), "gopher_word_count"),
    "shortest": (_words(60, "abc"), _words(59, "abc") + " ab", "gopher_word_length"),
    "longest": (_words(60, "abcdefghij"), _words(59, "abcdefghij") + " abcdefghijk", "gopher_word_length"),
    "hashes": ("#tag " * 6 + _words(54), "#tag " * 7 + _words(53), "gopher_symbols"),
    "dots": ("on... and… " * 5 + _words(90), "on... and… " * 6 + _words(88), "gopher_symbols"),
    "bullets": ("- words that are listed\n" * 9 + _words(15), "- words that are listed\n" * 10, "gopher_bullets"),
    "ellipses": (f"on and on…\n{_words(20)}\n\n" * 3 + "\n", f"on and on…\n{_words(20)}\n" * 3, "gopher_ellipses"),
    "letters": (_words(40) + " 12345" * 10, _words(39) + " 12345" * 11, "gopher_letters"),
}


@pytest.mark.parametrize("limit", QUALITY_LIMITS)
def test_gopher_quality_accepts_exactly_its_limits(limit):
    accepted, rejected, reason = QUALITY_LIMITS[limit]
    assert gopher_quality(accepted) is None
    assert gopher_quality(rejected) == reason


def _repeating(length: int) -> str:
    """Three times five one-letter words, each twice, in a text of `length` characters: 15 of them are repeated."""
    phrases = ["a b c d e", "f g h i j", "k l m n o"] * 2
    fillers = [str(number) * 5 for number in range(1, 6)] + ["6 7 8 9 " + "0" * (length - 98)]
    return " ".join(f"{phrase} {filler}" for phrase, filler in zip(phrases, fillers, strict=True))


SIX_LINES = "\n".join(["x", "x", "y", "y", "z", "z", UNIQUE[:400]])
TWENTY_TWICE = "\n".join(["a" * 20, "a" * 20, "b" * 28, ""])
TWO_PARAGRAPHS = "\n\n".join(["x", "x", "y", "y", "\n".join("abcdefghijklm"), "v"])
REPETITION_LIMITS = {
    "lines": (SIX_LINES + "\nu\nv\nw", SIX_LINES + "\nu\nv", "gopher_duplicate_lines"),
    "characters": (TWENTY_TWICE + "c" * 29, TWENTY_TWICE + "c" * 28, "gopher_duplicate_lines"),
    "paragraphs": (TWO_PARAGRAPHS + "\n\nw", TWO_PARAGRAPHS, "gopher_duplicate_paragraphs"),
    "five words": (_repeating(100), _repeating(99), "gopher_duplicate_ngrams"),
}


@pytest.mark.parametrize("limit", REPETITION_LIMITS)
def test_gopher_repetition_accepts_exactly_its_limits(limit):
    accepted, rejected, reason = REPETITION_LIMITS[limit]
    assert gopher_repetition(accepted) is None
    assert gopher_repetition(rejected) == reason


def test_three_sentences_and_five_words_are_enough_for_c4():
    line = "This line has five words.\n"
    assert c4(line * 3) is None
    assert c4(line * 2) == "c4_few_sentences"
    assert c4(line * 2 + "This has four words.") == "c4_few_sentences"
    assert c4(line * 2 + "This one trails off, slowly...") == "c4_few_sentences"


def test_two_stop_words_are_enough():
    assert rejection("The roof of stone", ["gopher_stop_words"]) is None
    assert rejection("The roof, stone", ["gopher_stop_words"]) == "gopher_stop_words"
