"""Parse articles in Wikimedia's structured contents format (`sections` or `article_sections`, nested) into blocks.

Newer releases have sections, infoboxes and tables as JSON strings; both forms are supported. Parts of unknown type are
counted, their text is kept as a paragraph, and their parts are read.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.cleaning.policy import Block, Page

SECTION_KEYS = ("sections", "article_sections")
COLUMNS = ("name", "title", "abstract", "description", "infoboxes", "tables", *SECTION_KEYS)

_LISTS = {"list", "unordered_list", "ordered_list", "definition_list"}
_ITEMS = {"list_item", "definition_term", "definition"}
_CAPTIONS = {"image", "gallery", "video", "audio"}
_PREFORMATTED = {"preformatted", "pre", "code"}
_SPACE_BEFORE_SUFFIX = re.compile(r" (?=-[a-z])")
_DISAMBIGUATION = re.compile(
    r"\b(?:may|can|could|might)(?: also)? (?:refer|be short|stand)(?: to| for)?\b[^.]{0,40}:?\s*$"
)
_DISAMBIGUATION_DESCRIPTIONS = ("topics referred to by the same term", "wikimedia disambiguation page")

Part = dict[str, Any]


def is_structured(record: Part) -> bool:
    return any(key in record for key in SECTION_KEYS) or ("abstract" in record and "text" not in record)


def read_page(record: Part, unknown: Counter[str]) -> Page:
    """The page of a record. Unknown types are counted in `unknown`.

    Raises:
        ValueError: a field is not JSON, or does not match the schema.
    """
    title = record.get("name") or record.get("title") or ""
    sections = parts_of(record, next((key for key in SECTION_KEYS if record.get(key)), SECTION_KEYS[0]))
    reader = _Reader(unknown, tables={table.get("identifier"): table for table in parts_of(record, "tables")})
    blocks = [block for part in parts_of(record, "infoboxes") for block in _infobox(part)]
    for section in sections:
        blocks += reader.blocks(section, level=0)
    blocks += (_table(table) for table in reader.tables.values())
    if not isinstance(title, str):
        raise ValueError(f"name is of type {type(title).__name__}, expected a string")
    return Page(title, blocks, _is_redirect(record, blocks), _is_disambiguation(title, record, blocks))


def parts_of(record: Part, key: str) -> list[Part]:
    """The list of parts in `key`, in either form."""
    value = record.get(key)
    if isinstance(value, (str, bytes)) and value:
        import orjson

        value = orjson.loads(value)
    if value is None or value == "":
        return []
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise ValueError(f"{key} is not a list of objects")
    return value


class _Reader:
    """Walk the parts of an article. `tables` are those not yet referenced by any part."""

    def __init__(self, unknown: Counter[str], tables: dict[Any, Part]) -> None:
        self.unknown = unknown
        self.tables = tables

    def blocks(self, part: Part, level: int) -> Iterator[Block]:
        kind = part.get("type")
        if kind == "section":
            yield from self._section(part, level)
        elif kind == "paragraph":
            yield from self._paragraph(part)
            yield from self._children(part, level)
        elif kind in _LISTS:
            if text := "\n".join(self._list_lines(part, indent="")):
                yield Block("list", text)
        elif kind in _ITEMS:
            yield Block("list", "\n".join(self._item_lines(part, "- ", indent="")))
        elif kind in _PREFORMATTED:
            yield Block("preformatted", _value(part))
        elif kind == "table":
            yield _table(part)
        elif kind in _CAPTIONS:
            yield Block("caption", str(part.get("caption") or _value(part)))
        elif kind == "infobox":
            yield from _infobox(part)
        else:
            self.unknown[str(kind)] += 1
            yield from self._paragraph(part)
            yield from self._children(part, level)
        for reference in part.get("table_references") or ():
            if table := self.tables.pop(reference.get("identifier"), None):
                yield _table(table)

    def _children(self, part: Part, level: int) -> Iterator[Block]:
        for child in part.get("has_parts") or ():
            yield from self.blocks(child, level)

    def _section(self, part: Part, level: int) -> Iterator[Block]:
        name = part.get("name")
        # The abstract is the start of the article and not a section of its own.
        if name and not (level == 0 and name == "Abstract"):
            yield Block("heading", name, level + 1)
        yield from self._paragraph(part)
        yield from self._children(part, level + 1)

    def _paragraph(self, part: Part) -> Iterator[Block]:
        if text := _value(part):
            yield Block("paragraph", text)

    def _list_lines(self, part: Part, indent: str) -> Iterator[str]:
        is_ordered = part.get("type") == "ordered_list"
        number = 0
        if text := _value(part):
            yield indent + text
        for child in part.get("has_parts") or ():
            if child.get("type") in _LISTS:
                yield from self._list_lines(child, indent + "  ")
                continue
            number += 1
            bullet = (
                f"{number}. "
                if is_ordered
                else {"definition_term": "", "definition": "  "}.get(child.get("type"), "- ")
            )
            yield from self._item_lines(child, bullet, indent)

    def _item_lines(self, part: Part, bullet: str, indent: str) -> Iterator[str]:
        """A list item, with further lines indented under its text and nested lists one level deeper."""
        if text := _value(part).strip():
            yield f"{indent}{bullet}" + text.replace("\n", "\n" + indent + " " * len(bullet))
        for child in part.get("has_parts") or ():
            if child.get("type") in _LISTS:
                yield from self._list_lines(child, indent + "  " if text else indent)
            elif child.get("type") not in _CAPTIONS:
                yield from self._item_lines(child, "  " if text else bullet, indent)


def _value(part: Part) -> str:
    """The text of a part, without citation marks and without stray spaces after links."""
    value = part.get("value")
    if value is None:
        values = part.get("values")
        value = "\n".join(map(str, values)) if isinstance(values, list) else ""
    if not isinstance(value, str):
        value = str(value)
    for citation in part.get("citations") or ():
        mark = citation.get("text")
        if mark and mark.startswith("["):
            value = value.replace(mark, "")
    return _closed_up(value, part.get("links") or ()) if " -" in value else value


def _closed_up(value: str, links: Sequence[Part]) -> str:
    """`Academy Award -winning` → `Academy Award-winning` if the words before the space are a link."""
    texts = tuple(link["text"] for link in links if link.get("text"))
    for match in reversed(list(_SPACE_BEFORE_SUFFIX.finditer(value))):
        if value.endswith(texts, 0, match.start()):
            value = value[: match.start()] + value[match.end() :]
    return value


def _infobox(part: Part) -> Iterator[Block]:
    lines = list(_field_lines(part))
    if lines:
        yield Block("infobox", "\n".join(lines))


def _field_lines(part: Part) -> Iterator[str]:
    if part.get("type") == "field":
        name, value = part.get("name"), _value(part)
        if value:
            yield f"{name}: {value}" if name else value
    for child in part.get("has_parts") or ():
        yield from _field_lines(child)


def _table(table: Part) -> Block:
    """Headers and rows, with ` | ` between cells. Cells are strings or parts with a value."""
    rows = [*(table.get("headers") or ()), *(table.get("rows") or ()), *(table.get("footers") or ())]
    if not rows:
        return Block("table", "\n".join(_item_texts(table)))
    return Block("table", "\n".join(" | ".join(map(_cell, row)) for row in rows if isinstance(row, list)))


def _item_texts(part: Part) -> Iterator[str]:
    if text := _value(part):
        yield text
    for child in part.get("has_parts") or ():
        yield from _item_texts(child)


def _cell(cell: Any) -> str:
    return " ".join((_value(cell) if isinstance(cell, dict) else str(cell)).split())


def _is_redirect(record: Part, blocks: list[Block]) -> bool:
    abstract = record.get("abstract") or ""
    first = next((block.text for block in blocks if block.kind != "heading"), "")
    return any(text.lstrip("-# ").startswith("REDIRECT") for text in (abstract, first))


def _is_disambiguation(title: str, record: Part, blocks: list[Block]) -> bool:
    description = (record.get("description") or "").casefold()
    if title.endswith("(disambiguation)") or description.startswith(_DISAMBIGUATION_DESCRIPTIONS):
        return True
    first = next((block for block in blocks if block.kind not in ("heading", "infobox")), None)
    has_list = any(block.kind == "list" for block in blocks)
    return bool(first and has_list and len(first.text) < 200 and _DISAMBIGUATION.search(first.text))
