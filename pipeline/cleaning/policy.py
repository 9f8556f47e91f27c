"""The cleaning policy, in one place: which blocks of an article stay, and how its text is cleaned up.

The readers (`structured_contents.py`, `wikitext.py`, `plain_text.py`) turn an article into blocks;
here every decision about them is made, from the `cleaning` section of the configuration, and every removal is counted.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.text_cleanup import mend_spacing, without_markup
from pipeline.formats.cleaned_text import with_plain_newlines

# Raised when the same raw text gives other cleaned text: files of an older version are then cleaned again.
CLEANING_VERSION = 1


class Block(NamedTuple):
    """A piece of an article. `kind`: heading, paragraph, preformatted, list, table, infobox, caption or maths."""

    kind: str
    text: str
    level: int = 0  # of a heading: 1 for a section, 2 for a subsection, …


@dataclass
class Page:
    """An article as its reader found it."""

    title: str
    blocks: list[Block]
    is_redirect: bool = False
    is_disambiguation: bool = False
    is_article: bool = True  # not a talk page, a template, a category, …
    is_rendered: bool = False  # by its reader from markup, so none is left over


@dataclass
class Removals:
    """What was left out: articles by reason, and parts of kept articles by reason."""

    articles: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)


class Policy:
    """The `cleaning` section, made ready to be applied."""

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
        """The cleaned article, or an empty string after counting why there is none."""
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
        """The text of the blocks that stay. A heading waits until something below it stays."""
        paragraphs: list[str] = []
        waiting: list[Block] = []
        dropped_level = 0  # of the section that is being left out
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
    """Without white space around the text and at line ends, and without runs of empty lines.

    A single line and a list's items also lose their runs of spaces. Other text of several lines keeps its inner
    spacing: it may be code or verse.
    """
    if "  " in text and (is_list or "\n" not in text):
        text = re.sub(r"(?<=\S) {2,}", " ", text)
    if "\n" not in text:
        return text.strip()
    text = without_trailing_space(text)
    return re.sub(r"\n{3,}", "\n\n", text) if "\n\n\n" in text else text


def without_trailing_space(text: str) -> str:
    """Without white space at line ends and without empty lines around the text; indentation stays."""
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    return text.strip("\n").rstrip()
