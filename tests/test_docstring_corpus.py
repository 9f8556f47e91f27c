"""The docstring corpus of `quickstart --corpus python`."""

from pipeline.cleaning.articles import iter_raw_articles
from pipeline.demo.docstring_corpus import articles_of_file, topic_articles, write_corpus

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
    first = write_corpus(tmp_path / "one", max_bytes=600_000)
    assert write_corpus(tmp_path / "two", max_bytes=600_000, workers=1) == first
    files = sorted((tmp_path / "one").glob("*.jsonl"))
    assert [path.read_bytes() for path in files] == [(tmp_path / "two" / path.name).read_bytes() for path in files]
    records = [record for path in files for record in iter_raw_articles(path)]
    assert len(records) == first.articles
    assert not any(record.problem for record in records)
