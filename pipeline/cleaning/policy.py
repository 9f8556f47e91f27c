"""The cleaning policy: which blocks of an article to keep, and how to clean up the text.

The readers (`structured_contents.py`, `wiki_markup.py`, `plain_text.py`) turn an article into blocks. This module
makes all decisions about them, using the `cleaning` section of the configuration, and counts everything it removes.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.text_cleanup import mend_spacing, without_markup
from pipeline.formats.cleaned_text import with_plain_newlines

# Increase when the same raw text gives different cleaned text; files from an older version are then cleaned again.
CLEANING_VERSION = 1


class Block(NamedTuple):
    """A piece of an article. `kind`: heading, paragraph, preformatted, list, table, infobox, caption or maths."""

    kind: str
    text: str
    level: int = 0  # for headings: 1 for a section, 2 for a subsection, …


@dataclass
class Page:
    """An article as parsed by its reader."""

    title: str
    blocks: list[Block]
    is_redirect: bool = False
    is_disambiguation: bool = False
    is_article: bool = True  # not a talk page, a template, a category, …
    is_rendered: bool = False  # by its reader, so no markup is left over


@dataclass
class Removals:
    """Counts of removed articles, and of removed parts of kept articles, by reason."""

    articles: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)


class Policy:
    """The `cleaning` section, prepared for use."""

    def __init__(self, config: CleaningConfig) -> None:
        self.config = config
        self.dropped_sections = frozenset(map(_folded, config.drop_sections))
        named = {
            "heading": config.headings,
            "list": config.lists,
            "table": config.tables,
            "infobox": config.infoboxes,
            "caption": config.captions,
            "maths": config.maths,
        }
        self.dropped_kinds = frozenset(kind for kind, choice in named.items() if choice == "drop")

    def apply(self, page: Page, removals: Removals) -> str:
        """The cleaned article. If there is none, count the reason and return an empty string."""
        reason = self._page_reason(page)
        paragraphs = [] if reason else self._paragraphs(page, removals.parts)
        text = "\n\n".join(paragraphs)
        reason = reason or self._text_reason(text)
        if reason:
            removals.articles[reason] += 1
            return ""
        title = page.title.strip() if self.config.title == "keep" else ""
        return f"{title}\n\n{text}" if title else text

    def drops_section(self, heading: str) -> bool:
        return _folded(heading) in self.dropped_sections

    def _page_reason(self, page: Page) -> str:
        if not page.is_article:
            return "no article"
        if page.is_redirect and self.config.redirects == "drop":
            return "redirect"
        if page.is_disambiguation and self.config.disambiguations == "drop":
            return "disambiguation"
        return ""

    def _text_reason(self, text: str) -> str:
        if not text:
            return "empty"
        return "stub" if len(text) < self.config.min_characters else ""

    def _paragraphs(self, page: Page, removed: Counter[str]) -> list[str]:
        """The text of the kept blocks. A heading is kept only if something below it is."""
        paragraphs: list[str] = []
        waiting: list[Block] = []
        dropped_level = 0  # of the section being dropped
        for block in page.blocks:
            if block.kind == "heading":
                if dropped_level and block.level > dropped_level:
                    continue
                dropped_level = block.level if self.drops_section(block.text) else 0
                waiting = [heading for heading in waiting if heading.level < block.level]
                if dropped_level:
                    removed[f"section {_folded(block.text).capitalize()}"] += 1
                else:
                    waiting.append(block)
            elif dropped_level:
                continue
            elif block.kind in self.dropped_kinds:
                removed[block.kind] += 1
            elif text := self._text_of(block, page, removed):
                if "heading" not in self.dropped_kinds:
                    paragraphs += (heading.text.strip() for heading in waiting)
                waiting = []
                paragraphs.append(text)
        return paragraphs

    def _text_of(self, block: Block, page: Page, removed: Counter[str]) -> str:
        text = with_plain_newlines(block.text)
        if not self.config.markup or block.kind == "preformatted":
            return without_trailing_space(text)
        text = mend_spacing(text if page.is_rendered else without_markup(text, removed))
        return tidy(text, is_list=block.kind == "list")


def _folded(heading: str) -> str:
    return " ".join(heading.replace("_", " ").split()).strip(" :").casefold()


def tidy(text: str, *, is_list: bool = False) -> str:
    """Strip white space around the text and at line ends, and collapse blank lines.

    In single lines and list items, runs of spaces are collapsed too. Other multi-line text keeps its inner spacing,
    because it may be code or verse.
    """
    if "  " in text and (is_list or "\n" not in text):
        text = re.sub(r"(?<=\S) {2,}", " ", text)
    if "\n" not in text:
        return text.strip()
    text = without_trailing_space(text)
    return re.sub(r"\n{3,}", "\n\n", text) if "\n\n\n" in text else text


def without_trailing_space(text: str) -> str:
    """Strip white space at line ends and blank lines around the text, but keep indentation."""
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    return text.strip("\n").rstrip()
