"""Split articles that are already plain text into blocks: `{title|name, text}` records and users' own files."""

import re
from typing import Any

from pipeline.cleaning.policy import Block, Page, Policy
from pipeline.formats.cleaned_text import with_plain_newlines

TEXT_KEYS = ("text", "content")
COLUMNS = ("title", "name", *TEXT_KEYS)

_WIKI_HEADING = re.compile(r"^(={2,6}) *([^=\n].*?) *\1$")
_CATEGORIES = re.compile(r"^(?:Category|Kategorie|Catégorie):\S.*\n?", re.MULTILINE)
_LONGEST_HEADING = 80


def read_page(record: dict[str, Any], policy: Policy) -> Page:
    """The page of a plain-text record.

    Plain text has no section levels. Unless headings are marked (`== Legacy ==`), a paragraph that is exactly the name
    of a dropped section therefore drops the rest of the article.

    Raises:
        ValueError: the text is missing, or is not a string.
    """
    text = next((record[key] for key in TEXT_KEYS if record.get(key) is not None), None)
    if not isinstance(text, str):
        found = f"a {type(text).__name__}" if text is not None else "missing"
        raise ValueError(f"text is {found}; expected a string, or sections (keys found: {', '.join(list(record)[:8])})")
    title = record.get("title") or record.get("name")
    if not title:
        return _own_text(text)
    blocks = [_block(paragraph, policy) for paragraph in paragraphs_of(_CATEGORIES.sub("", text))]
    is_redirect = text.lstrip()[:9].upper() == "#REDIRECT"
    return Page(str(title), blocks, is_redirect, is_disambiguation=str(title).endswith("(disambiguation)"))


def _own_text(text: str) -> Page:
    """Text without a title (a `.txt` file, a web page) is not an encyclopedia article; keep its paragraphs
    unchanged."""
    return Page("", [Block("preformatted", paragraph) for paragraph in paragraphs_of(text)])


def paragraphs_of(text: str) -> list[str]:
    plain = with_plain_newlines(text)
    return [paragraph.strip("\n") for paragraph in re.split(r"\n(?:[ \t]*\n)+", plain) if paragraph.strip()]


def _block(paragraph: str, policy: Policy) -> Block:
    line = paragraph.strip()
    if line.startswith("==") and line.endswith("==") and (match := _WIKI_HEADING.match(line)):
        return Block("heading", match[2], len(match[1]) - 1)
    if len(line) <= _LONGEST_HEADING and "\n" not in line and policy.drops_section(line):
        return Block("heading", line, 1)
    return Block("paragraph", paragraph)
