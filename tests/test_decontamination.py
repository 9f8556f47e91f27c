"""Decontamination finds exactly the documents that share thirteen words with an evaluation set."""

import json
import os
import pickle
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.preparation.decontamination import EvaluationIndex, Match, words_of
from utils.errors import PipelineError

ALPHABET = [chr(97 + i) for i in range(26)]
SENTENCE = "The well-known “lobster” of 1,000 rivers isn't found, they say, where colder winds of Éire blow."


def ngrams(text: str) -> set[tuple[bytes, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}


@settings(max_examples=200)
@given(
    items=st.lists(st.lists(st.sampled_from("abc"), max_size=18).map(" ".join), max_size=3),
    text=st.lists(st.sampled_from("abcx"), max_size=40).map(" ".join),
)
def test_index_matches_plain_ngram_sets(items, text):
    index = EvaluationIndex({"one": items})
    wanted = ngrams(text) & {ngram for item in items for ngram in ngrams(item)}
    match = index.find(text)
    assert (match is not None) == bool(wanted)
    if match:
        assert tuple(match.words.encode().split()) in wanted


def test_thirteen_words_are_found_and_twelve_are_not():
    index = EvaluationIndex({"lambada": [" ".join(ALPHABET)]})
    inside = " ".join(["x", *ALPHABET[3:16], "x"])
    assert index.find(inside) == Match("lambada", " ".join(ALPHABET[3:16]))
    assert index.find(inside).reason == "contaminated_lambada"
    assert index.find(" ".join(["x", *ALPHABET[3:15], "x", *ALPHABET[15:26]])) is None
    assert index.find("") is None
    assert index.find(" ".join(reversed(ALPHABET))) is None


def test_the_table_only_saves_time():
    """False positives of the filter are compared in full."""
    index = EvaluationIndex({"lambada": [" ".join(ALPHABET)]})
    index._table[:] = True
    assert index.find(" ".join(ALPHABET[3:16])) is not None
    for turn in range(1, 26):
        twelve = [*ALPHABET[turn:], *ALPHABET[:turn]][-12:]
        assert index.find(" ".join([*twelve, "new"])) is None


def test_letters_beyond_ascii_do_not_separate_words():
    assert words_of("À la ÿ, İx!") == ["À".encode(), b"la", "ÿ".encode(), "İx".encode()]


@pytest.mark.parametrize("place", range(13))
def test_one_different_word_prevents_a_match(place):
    words = ALPHABET[:13]
    index = EvaluationIndex({"lambada": [" ".join(words)]})
    words[place] = "other"
    assert index.find(" ".join(words)) is None
    words[place] = ALPHABET[25 - place]
    assert index.find(" ".join(words)) is None


@pytest.mark.parametrize(
    "spelling",
    [
        SENTENCE.upper(),
        'the well @-@ known " lobster " of 1 @,@ 000 rivers isn \'t found , they say , where colder winds of Éire blow',
        SENTENCE.replace(" ", "\n").replace("“", '"').replace("”", '"').replace("'", "’"),
    ],
)
def test_case_punctuation_and_spacing_are_ignored(spelling):
    assert EvaluationIndex({"wikitext": [SENTENCE]}).find(f"Before. {spelling} After.").set_name == "wikitext"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "wikitext").mkdir()
    (tmp_path / "wikitext" / "wiki.valid.raw").write_text(f" \n = Title = \n \n {SENTENCE} \n", encoding="utf-8")
    (tmp_path / "hellaswag").mkdir()
    item = {"ctx": "one two three four five six seven", "endings": ["wrong", "eight nine ten eleven twelve thirteen"]}
    (tmp_path / "hellaswag" / "val.jsonl").write_text(json.dumps({**item, "label": 1}) + "\n")
    return tmp_path


def test_a_folder_of_sets_is_read_and_stamped(folder):
    index = pickle.loads(pickle.dumps(EvaluationIndex.load(folder)))
    assert index.find(f"x {SENTENCE}").set_name == "wikitext"
    assert (
        index.find("One two three four five six seven eight, nine ten eleven twelve thirteen!").set_name == "hellaswag"
    )
    digest = sha256((folder / "hellaswag" / "val.jsonl").read_bytes()).hexdigest()
    assert index.stamp() == {
        "ngram_words": 13,
        "sets": [
            {
                "name": "wikitext",
                "files": {"wiki.valid.raw": sha256((folder / "wikitext" / "wiki.valid.raw").read_bytes()).hexdigest()},
                "items": 2,
                "short_items": 1,
            },
            {"name": "hellaswag", "files": {"val.jsonl": digest}, "items": 1, "short_items": 0},
        ],
    }


def test_a_folder_without_sets_and_a_malformed_file_are_named(tmp_path, folder):
    with pytest.raises(PipelineError, match=r"contains no evaluation data; expected wikitext/\*\.raw"):
        EvaluationIndex.load(tmp_path / "wikitext")
    (folder / "hellaswag" / "val.jsonl").write_text('{"ctx": "a"}\n')
    with pytest.raises(PipelineError, match=r"val\.jsonl is not a valid evaluation file: KeyError 'endings'"):
        EvaluationIndex.load(folder)
    (folder / "hellaswag" / "val.jsonl").write_text('{"ctx":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(PipelineError, match=r"val\.jsonl is not a valid evaluation file: line 1 is not JSON"):
        EvaluationIndex.load(folder)


@pytest.mark.skipif("LLM_REAL_DATA" not in os.environ, reason="LLM_REAL_DATA is not set")
def test_real_sets_are_found_only_in_quoting_text():
    data = Path(os.environ["LLM_REAL_DATA"])
    index = EvaluationIndex.load(data)
    assert [benchmark.name for benchmark in index.sets] == ["wikitext", "lambada", "hellaswag"]
    with (data / "lambada" / "lambada_test_first500.jsonl").open(encoding="utf-8", newline="\n") as lines:
        quotes = [json.loads(line)["text"] for line in lines]
    assert all(index.find(f"As the novel says: {quote.upper()}") for quote in quotes)
    with (data / "fineweb" / "c4_300_docs.jsonl").open(encoding="utf-8", newline="\n") as lines:
        others = [json.loads(line)["text"] for line in lines]
    assert not any(map(index.find, others))
