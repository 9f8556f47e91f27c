"""The docstring corpus of `quickstart --corpus python`."""

import json

import pytest

from pipeline.cleaning.articles import iter_raw_articles
from pipeline.demo.docstring_corpus import (
    SHORTEST_ARTICLE,
    articles_of_file,
    source_files,
    topic_articles,
    write_corpus,
)
from pipeline.demo.docstring_questions import iter_conversations
from tests.expected_text import assert_expected

MODULE = '''"""Sorts things.

Long text about sorting that goes on and on, so that the article is long enough to be kept in the corpus.

Notes
-----
It uses `heapq`, see :func:`heapq.heappush`.
"""

def first(items, *, default=None):
    """Return the first of `items`.

    >>> first([1])
    1
    """

def _hidden():
    """Not for the corpus."""
'''


def test_a_module_becomes_an_article_with_its_sections(tmp_path):
    path = tmp_path / "sorting.py"
    path.write_text(MODULE)
    (article,) = articles_of_file(path, "sorting")
    assert article["name"] == "sorting"
    assert [section["name"] for section in article["sections"]] == [
        "Abstract",
        "Notes",
        "first(items, *, default=None)",
    ]
    notes = article["sections"][1]["has_parts"][0]["value"]
    assert notes == "It uses heapq, see heapq.heappush."
    assert article["sections"][2]["has_parts"][1]["value"] == ">>> first([1])\n1"


def test_non_python_file_is_skipped(tmp_path):
    (tmp_path / "broken.py").write_text("def (:")
    assert articles_of_file(tmp_path / "broken.py", "broken") == []


def test_help_topics_are_articles():
    names = {article["name"] for article in topic_articles()}
    assert {"if", "while", "lambda"} <= names


def test_corpus_is_deterministic_and_cleanable(tmp_path):
    first = write_corpus(tmp_path / "one", max_bytes=200_000)
    assert write_corpus(tmp_path / "two", max_bytes=200_000, workers=1) == first
    files = sorted((tmp_path / "one").glob("*.jsonl"))
    assert [path.read_bytes() for path in files] == [(tmp_path / "two" / path.name).read_bytes() for path in files]
    records = [record for path in files for record in iter_raw_articles(path)]
    assert len(records) == first.articles
    assert not any(record.problem for record in records)


SECTIONS = '''"""A module whose docstring is long enough to make an article of it, which is not so for a short one.

Overlined
=========

* an item
  on two lines
- another ``item``

.. note:: a directive is left out

    a = code(1)
      b

 Not a heading
 -------------
Text under it.

Only code
---------
    b = indented(2)
    if b:
        stay(b)

Last heading
~~~~~~~~~~~~
See :class:`~a.b.C <c>`.
"""

class Kept:
    """A class with a docstring, which has a long sentence in it, so that the article is not too short to be kept."""

    async def method(self, a, *, b=1):
        """Do something with a."""

    def _private(self):
        """Hidden."""

    def undocumented(self):
        pass

class Short:
    """Too short."""

def just_long_enough():
    """LONG"""

def not_quite_long_enough():
    """SHORT"""
'''


def test_articles_and_questions_are_as_approved(tmp_path):
    path = tmp_path / "sections.py"
    path.write_text(
        SECTIONS.replace("LONG", "Long text. " * 54 + "ended.").replace("SHORT", "Short one. " * 54 + "ends.")
    )
    articles = articles_of_file(path, "package.sections")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(article) + "\n" for article in articles))
    questions = list(iter_conversations(tmp_path / "a.jsonl"))
    assert_expected("docstrings.json", json.dumps([articles, questions], indent=1, ensure_ascii=False) + "\n")


def test_an_article_needs_some_text(tmp_path):
    path = tmp_path / "a.py"
    sizes = set()
    for length in range(40, 75):
        path.write_text(f'"""{"x" * length}"""')
        sizes |= {len(str(article["sections"])) for article in articles_of_file(path, "a")}
    assert min(sizes) == SHORTEST_ARTICLE


@pytest.mark.parametrize(
    ("length", "name", "asked"),
    [(29, "a.b", 0), (30, "a.b", 1), (260, "a.b", 1), (261, "a.b", 0), (30, "a", 0), (30, "a._b", 0), (30, "_a.b", 0)],
)
def test_questions_have_short_answers_about_public_names(tmp_path, length, name, asked):
    (tmp_path / "a.jsonl").write_text(json.dumps({"name": name, "abstract": "x" * length, "sections": []}))
    assert len(list(iter_conversations(tmp_path / "a.jsonl"))) == asked


def test_packages_are_named_without_their_init_file(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / name))
    for name in ("stdlib/json/__init__.py", "stdlib/json/decoder.py", "stdlib/test/a.py", "purelib/numpy/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [name for _, name in source_files()] == ["json", "json.decoder", "numpy"]
