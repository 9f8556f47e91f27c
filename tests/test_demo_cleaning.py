"""The cleaner handles the offline corpus like Wikipedia."""

from collections import Counter

import pytest

from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.policy import Policy, Removals
from pipeline.cleaning.structured_contents import is_structured, read_page
from pipeline.demo.articles import encyclopedia
from pipeline.demo.tables import read_tables


@pytest.fixture(scope="module")
def cleaned():
    policy, removals, unknown = Policy(CleaningConfig()), Removals(), Counter()
    texts = {}
    for record in encyclopedia(read_tables(), num_characters=900_000, seed=0):
        assert is_structured(record)
        texts[record["identifier"]] = policy.apply(read_page(record, unknown), removals)
    return [text for text in texts.values() if text], removals, unknown


def test_every_part_has_a_known_type(cleaned):
    assert not cleaned[2]


def test_see_also_redirects_and_disambiguations_go(cleaned):
    texts, removals, _ = cleaned
    assert removals.articles["redirect"] == 40
    assert removals.articles["disambiguation"] >= 3
    assert removals.parts["section See also"] > 900
    assert not any("See also" in text for text in texts)


def test_no_article_is_too_short(cleaned):
    assert cleaned[1].articles["stub"] == cleaned[1].articles["empty"] == 0


def test_turns_keep_their_shape(cleaned):
    text = next(text for text in cleaned[0] if text.startswith("France\n"))
    assert "\nAssistant: " in text
    assert "<s>" not in text
