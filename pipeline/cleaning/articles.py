"""Convert a raw record into a clean article, or the reason why there is none."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cleaning import plain_text, structured_contents, wiki_markup
from pipeline.cleaning.policy import Page, Policy, Removals
from pipeline.formats.cleaned_text import FileCounts
from pipeline.formats.raw_files import RawFile, Record

COLUMNS = tuple({*structured_contents.COLUMNS, *plain_text.COLUMNS})

# Raised when cleaning a record with an unknown structure.
MALFORMED = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


@dataclass
class Counts:
    """The counts of articles for one file in the report."""

    read: int = 0
    articles: int = 0
    characters: int = 0
    rejected: int = 0
    removals: Removals = field(default_factory=Removals)
    unknown_types: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> FileCounts:
        return {
            "read": self.read,
            "articles": self.articles,
            "characters": self.characters,
            "rejected": self.rejected,
            "removed_articles": dict(self.removals.articles),
            "removed_parts": dict(self.removals.parts),
            "unknown_types": dict(self.unknown_types),
        }


def iter_raw_articles(path: Path) -> Iterator[Record]:
    """The records of a raw file; from Parquet, only the columns we need."""
    with RawFile(path) as file:
        yield from file.records(columns=COLUMNS)


def clean_article(record: dict[str, Any], policy: Policy, counts: Counts) -> str:
    """The article in a record as text. If there is none, count the reason and return an empty string.

    Raises:
        ValueError, TypeError, AttributeError, RecursionError: the record is not a known kind of article.
    """
    return policy.apply(_page(record, policy, counts), counts.removals)


def _page(record: dict[str, Any], policy: Policy, counts: Counts) -> Page:
    if "wikitext" in record:
        return wiki_markup.read_page(record, policy, counts.removals.parts)
    if structured_contents.is_structured(record):
        return structured_contents.read_page(record, counts.unknown_types)
    return plain_text.read_page(record, policy)


def value_of(record: Record) -> dict[str, Any]:
    """The record's fields.

    Raises:
        ValueError: it could not be read.
    """
    if record.value is None:
        raise ValueError(record.problem)
    return record.value
