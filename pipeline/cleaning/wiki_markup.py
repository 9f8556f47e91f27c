"""Parse articles in wikitext (MediaWiki XML dumps) into blocks.

mwparserfromhell finds templates, links, tags and tables. This module decides how to render each of them, and cuts the
resulting plain text into blocks line by line, as MediaWiki does.
"""

import itertools
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.cleaning import templates
from pipeline.cleaning.policy import Block, Page, Policy
from pipeline.cleaning.text_cleanup import MAGIC_WORD

# Removed before parsing, because they contain half of an article's markup and none of it is kept.
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_REFERENCE = re.compile(r"<ref\b[^<>]*/>|<ref\b[^<>]*>.{0,20000}?</ref *>", re.DOTALL | re.IGNORECASE)
_GALLERY = re.compile(
    r"<(gallery|timeline|imagemap|score|graph|mapframe)\b[^<>]*>.{0,50000}?</\1 *>", re.DOTALL | re.IGNORECASE
)
_REDIRECT = re.compile(r"\s*#\s*(?:REDIRECT|WEITERLEITUNG|REDIRECTION|REDIRECCIÓN)\b", re.IGNORECASE)
_QUOTES = re.compile(r"'{2,5}")
_LIST_LINE = re.compile(r"([*#:;]{1,12})[ \t]*(.*)")
_FILE = re.compile(r"\s*(?:file|image|media|datei|fichier|archivo)\s*:", re.IGNORECASE)
_HIDDEN_LINK = re.compile(r"\s*(?:category|[a-z]{2,3}|[a-z]{2,3}-[a-z-]+|simple)\s*:\s*\S", re.IGNORECASE)
_PICTURE_OPTION = re.compile(
    r"(?:thumb|thumbnail|frame|frameless|border|left|right|center|none|upright|baseline|middle|top|bottom"
    r"|\d*x?\d+ ?px|(?:alt|link|upright|class|page|lang|start|end)\s*=.*)$",
    re.IGNORECASE,
)
_PREFORMATTED = {"pre", "source", "syntaxhighlight"}
_NOTHING = {"ref", "references", "gallery", "timeline", "imagemap", "score", "indicator", "templatestyles", "section"}
_SUPERSCRIPT = re.compile(r"[-−+\d]+")
_SUPERSCRIPTS = str.maketrans("0123456789+-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻")
_LEFTOVER = ("|", "{|", "}}")  # from an unclosed table or template
_HARD_BREAK = "\x01"
_MARK = "\x02"  # a line of _MARK and a number is a placeholder for a non-text block


def read_page(record: dict[str, Any], policy: Policy, removed: Counter[str]) -> Page:
    """The page of a dump record; everything dropped in rendering is counted in `removed`."""
    source = record["wikitext"] or ""
    title = record["title"]
    if record["namespace"] != 0:
        return Page(title, [], is_article=False)
    if record.get("redirect") is not None or _REDIRECT.match(source):
        return Page(title, [], is_redirect=True)
    reader = _Reader(policy, removed)
    blocks = reader.blocks(source)
    is_disambiguation = reader.is_disambiguation or title.endswith("(disambiguation)")
    return Page(title, blocks, is_disambiguation=is_disambiguation, is_rendered=True)


def _without_quotes(text: str) -> str:
    """Remove italic and bold marks; of four quotes, MediaWiki shows one."""
    return _QUOTES.sub(lambda match: "'" if len(match[0]) == 4 else "", text)


class _Reader:
    """Render an article."""

    def __init__(self, policy: Policy, removed: Counter[str]) -> None:
        self.policy = policy
        self.removed = removed
        self.special: list[Block] = []
        self.is_disambiguation = False

    def blocks(self, source: str) -> list[Block]:
        import mwparserfromhell

        source = self._without(_COMMENT, source, "comment")
        source = self._without(_REFERENCE, source, "reference")
        source = self._without(_GALLERY, source, "caption")
        text = self.render(mwparserfromhell.parse(source, skip_style_tags=True))
        return list(_blocks_of(_without_quotes(text), self.special))

    def _without(self, pattern: re.Pattern[str], source: str, name: str) -> str:
        source, count = pattern.subn("", source)
        if count:
            self.removed[name] += count
        return source

    def render(self, code: Any) -> str:
        return "".join([self._node(node) for node in code.nodes]) if code is not None else ""

    def _node(self, node: Any) -> str:
        render: Callable[[_Reader, Any], str] = _RENDERERS[type(node).__name__]
        return render(self, node)

    def _text(self, node: Any) -> str:
        text: str = node.value
        return MAGIC_WORD.sub("", text) if "__" in text else text

    def _comment(self, node: Any) -> str:
        return ""

    def _argument(self, node: Any) -> str:
        return self.render(node.default) if node.default is not None else ""

    def _htmlentity(self, node: Any) -> str:
        return str(node.normalize())

    def _heading(self, node: Any) -> str:
        return self._block("heading", self.render(node.title).strip(), level=max(1, node.level - 1))

    def _externallink(self, node: Any) -> str:
        if node.title is not None:
            return self.render(node.title)
        return "" if node.brackets else str(node.url)

    def _wikilink(self, node: Any) -> str:
        target = str(node.title)
        if _FILE.match(target):
            return self._picture(node)
        if node.text is not None:
            return "" if target.lower().lstrip().startswith("category:") else self.render(node.text)
        if _HIDDEN_LINK.match(target) and not target.startswith(":"):
            return ""
        return self.render(node.title).lstrip(":").partition("#")[0] or target.lstrip("#:")

    def _picture(self, node: Any) -> str:
        if "caption" in self.policy.dropped_kinds or node.text is None:
            self.removed["caption"] += 1
            return ""
        options = [option.strip() for option in self.render(node.text).split("|")]
        captions = [option for option in options if option and not _PICTURE_OPTION.match(option)]
        return self._block("caption", captions[-1]) if captions else ""

    def _tag(self, node: Any) -> str:
        name = str(node.tag).strip().lower()
        if node.wiki_markup and name in ("li", "dd", "dt"):
            return str(node.wiki_markup)
        if name == "br":
            return _HARD_BREAK
        if name == "hr":
            return "\n\n"
        if name == "math":
            return self._maths(str(node.contents))
        if name == "table":
            return self._table(node)
        if name in _PREFORMATTED:
            return self._block("preformatted", str(node.contents).strip("\n"))
        if name in _NOTHING or node.contents is None:
            return ""
        text = self.render(node.contents)
        if name == "sup":
            return text.translate(_SUPERSCRIPTS) if _SUPERSCRIPT.fullmatch(text) else text
        if name == "poem":
            return "\n\n" + text.strip("\n").replace("\n", _HARD_BREAK) + "\n\n"
        if name in ("blockquote", "p", "center") or (name == "div" and "\n" in text):
            return f"\n\n{text}\n\n"
        return text

    def _maths(self, source: str) -> str:
        if "maths" in self.policy.dropped_kinds:
            self.removed["maths"] += 1
            return ""
        return f"${' '.join(source.split())}$"

    def _table(self, node: Any) -> str:
        if "table" in self.policy.dropped_kinds:
            self.removed["table"] += 1
            return "\n\n"
        # The cells before the first `|-` are in the table itself.
        rows = [node, *(row for row in node.contents.nodes if getattr(row, "tag", None) == "tr")]
        return self._block("table", "\n".join(filter(None, map(self._row, rows))))

    def _row(self, row: Any) -> str:
        cells = (cell for cell in row.contents.nodes if getattr(cell, "tag", None) in ("td", "th"))
        return " | ".join(" ".join(self.render(cell.contents).replace(_HARD_BREAK, " ").split()) for cell in cells)

    def _template(self, node: Any) -> str:
        name = " ".join(str(node.name).replace("_", " ").split()).lower().removeprefix("template:")
        if templates.is_disambiguation(name):
            self.is_disambiguation = True
        if name.startswith(templates.INFOBOX_PREFIXES):
            return self._infobox(node)
        if name in templates.COORDINATES:
            self.removed["coordinates"] += 1
            return ""
        arguments: list[str] = []
        named: dict[str, str] = {}
        for parameter in node.params:
            key = str(parameter.name).strip()
            if parameter.showkey and not key.isdigit() and key != "text":
                named[key] = self.render(parameter.value).strip()
            else:
                arguments.append(self.render(parameter.value))
        text = templates.render(name, arguments, named)
        if text is None:
            self.removed["template"] += 1
        return text or ""

    def _infobox(self, node: Any) -> str:
        if "infobox" in self.policy.dropped_kinds:
            self.removed["infobox"] += 1
            return ""
        fields = ((str(field.name).strip(), " ".join(self.render(field.value).split())) for field in node.params)
        return self._block("infobox", "\n".join(f"{name}: {value}" for name, value in fields if value))

    def _block(self, kind: str, text: str, level: int = 0) -> str:
        """Store a block and return its placeholder line, which `_blocks_of` resolves."""
        if kind != "preformatted":
            text = _without_quotes(text)
        self.special.append(Block(kind, text.replace(_HARD_BREAK, "\n"), level))
        return f"\n\n{_MARK}{len(self.special) - 1}\n\n"


# By mwparserfromhell's node classes.
_RENDERERS: dict[str, Callable[[_Reader, Any], str]] = {
    "Text": _Reader._text,
    "Comment": _Reader._comment,
    "Argument": _Reader._argument,
    "HTMLEntity": _Reader._htmlentity,
    "Heading": _Reader._heading,
    "ExternalLink": _Reader._externallink,
    "Wikilink": _Reader._wikilink,
    "Tag": _Reader._tag,
    "Template": _Reader._template,
}


def _blocks_of(text: str, special: list[Block]) -> Iterator[Block]:
    """Cut rendered text into blocks of consecutive lines of the same kind."""
    for kind, group in itertools.groupby(text.split("\n"), key=_kind_of_line):
        lines = list(group)
        if kind == "indented" and len(lines) > 1:
            yield Block("preformatted", textwrap.dedent("\n".join(lines)))
        elif kind in ("prose", "indented"):
            yield Block("paragraph", " ".join(map(str.strip, lines)).replace(_HARD_BREAK, "\n"))
        elif kind == "list":
            yield Block("list", "\n".join(_items(lines)))
        elif kind == "special":
            yield from (special[int(line[1:])] for line in lines)


def _kind_of_line(line: str) -> str:
    if match := _LIST_LINE.match(line):
        return "list" if match[2].strip() else "empty"
    if not line.strip() or line.startswith(_LEFTOVER):
        return "empty"
    if line.startswith(_MARK):
        return "special"
    # A single indented line is left over from a template at its start; several are code.
    return "indented" if line.startswith(" ") else "prose"


def _items(lines: list[str]) -> Iterator[str]:
    """`**` → a dash at depth two; `#` → the next number at its depth; `:` and `;` have no bullet."""
    numbers: list[tuple[str, int]] = []  # (marker, items so far) at each depth
    for line in lines:
        match = _LIST_LINE.match(line)
        assert match, line
        markers, text = match[1], match[2].strip().replace(_HARD_BREAK, " ")
        depth, marker = len(markers), markers[-1]
        is_next = len(numbers) >= depth and numbers[depth - 1][0] == marker
        number = numbers[depth - 1][1] + 1 if is_next else 1
        numbers[depth - 1 :] = [("", 0)] * (depth - 1 - len(numbers)) + [(marker, number)]
        bullet = {"*": "- ", "#": f"{number}. "}.get(marker, "")
        yield "  " * (depth - 1) + bullet + text
