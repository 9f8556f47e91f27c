"""Clean up the text of a block: remove leftover wiki markup, citation marks, coordinates and stray spaces.

Each rule first checks with `in`, because nearly every paragraph needs no fix and a failed search costs a tenth of a
regular expression. All patterns run in linear time on any text: their repetitions are bounded, or end where the next
match could start. Removals of content are counted under the rule's name.
"""

import html
import re
from collections import Counter

_CITATION_WORDS = (
    "citation needed|clarification needed|failed verification|better source needed|original research|dubious|disputed"
    "|by whom|according to whom|who|when|where|which|why|how|update|update needed|verification needed|page needed"
    "|full citation needed|dead link|permanent dead link|non-primary source needed|unreliable source|edit|sic"
)
_NAMED_MARK = re.compile(
    rf" ?\[(?:(?:{_CITATION_WORDS})(?: ?[–—-] ?discuss)?\??|(?:note|nb|n|lower-alpha|a|b|c) \d{{1,3}})\]", re.IGNORECASE
)
# Directly after a sentence or another mark; `list[0]` is not a citation.
_NUMBER_MARK = re.compile(r'(?<=[.,;!?…”"])(?:\[\d{1,3}\])+(?=\s|$|[A-Z])')
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_FILE_LINK = re.compile(
    r"\[\[(?:File|Image|Category|Datei|Fichier):[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]", re.IGNORECASE
)
_URL_LINK = re.compile(r"\[(?:https?:)?//[^\s\[\]]+(?: ([^\[\]\n]*))?\]")
_DEEPEST_TEMPLATE = 20
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_TABLE = re.compile(r"^\{\|.{0,50000}?^\|\}", re.DOTALL | re.MULTILINE)
_STYLED_MATHS = re.compile(r"\{\\(?:displaystyle|textstyle) ")
_REFERENCE = re.compile(r"<ref\b[^<>]*/>|<ref\b[^<>]*>.{0,4000}?</ref>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:abbr|b|big|blockquote|br|center|cite|code|div|em|font|gallery|i|includeonly|kbd|li|math|noinclude|nowiki|ol"
    r"|onlyinclude|p|poem|pre|q|s|small|span|strike|strong|sub|sup|table|tbody|td|th|tr|tt|u|ul|var|wbr)\b[^<>]*>"
    r"|<!--.{0,4000}?-->",
    re.DOTALL | re.IGNORECASE,
)
_LINE_TAG = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
_DEGREES = r"\d+(?:\.\d+)?°(?: ?\d+(?:\.\d+)?[′'])?(?: ?\d+(?:\.\d+)?[″\"])? ?[NSEW]"
_OTHER_COORDINATES = re.compile(
    rf"(?<=[NSEW]) ?/ ?{_DEGREES},? {_DEGREES}(?: ?/ ?-?\d+\.\d+; -?\d+\.\d+)?|(?<=[NSEW]) ?/ ?-?\d+\.\d+; -?\d+\.\d+"
)
_COORDINATES_LINE = re.compile(
    rf"(?:^|(?<=\n))Coordinates: ?(?:{_DEGREES},? ?{_DEGREES}|-?\d+\.\d+; -?\d+\.\d+)[^\n]*\n?"
)
MAGIC_WORD = re.compile(r"__(?:NO|FORCE)?(?:TOC|EDITSECTION|INDEX|GALLERY)__")
# These start with the character to find and look behind it afterwards. A pattern that starts with a lookbehind is tried
# at every character, which is 20 times slower.
_GLUED_SENTENCE = re.compile(
    r"[.!?](?<=[a-z0-9)”\"].)(?=(?:The|In|It|A|An|On|At|He|She|They|This|These|Those|Since|During|After|As|By|For|From"
    r"|With|While|Although|However|Its|His|Her|Their|There|Some|Many|Most|When|Under|According|Other|Both|One|To)\s)"
)
_GLUED_LIST = re.compile(r":(?<=[a-z]{3}:)(?=[A-Z][a-z])")
_QUOTES = re.compile(r"(?<!')'{2,3}(?!')")
_PICTURE = re.compile(r"(?:^|(?<=\n))(?:thumb|thumbnail|left|right|frame|upright)\|[^\n]*")
_EMPTY_BRACKETS = re.compile(r" \((?:\s|[;,/:])*\)")
_BRACKET_START = re.compile(r"\((?:\s*[;,:] ?)+")
_BRACKET_END = re.compile(r"[,;]\)(?<=[^\W\d]{2}..)")
_BRACKET_TO_MEND = re.compile(r"\([\s;,:/)]")
_SPACE_BEFORE = re.compile(r" {1,4}(?=[,)](?:[\s.,;:)]|$)|\.(?:\s|$))")
_POSSESSIVE = re.compile(r" (?='s\b)")
_SPACES = dict.fromkeys(map(ord, "\xa0\u2002\u2003\u2007\u2009\u200a\u202f"), " ")
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
_TYPOGRAPHY = _SPACES | _INVISIBLE


def without_markup(text: str, removed: Counter[str]) -> str:
    """Remove the markup, citation marks and coordinates left over from rendering."""
    if "°" in text:
        text = _counted(_OTHER_COORDINATES, "", _typography(text), removed, "coordinates")
    if "Coordinates:" in text:
        text = _counted(_COORDINATES_LINE, "", text, removed, "coordinates")
    if "&" in text and ";" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _counted(_REFERENCE, "", text, removed, "reference")
        text = _counted(_TAG, "", _LINE_TAG.sub("\n", text), removed, "tag")
    if "{" in text:
        text = _without_braces(text, removed)
    if "[" in text:
        text = _without_brackets(text, removed)
    if "''" in text:
        text = _QUOTES.sub("", text)
    if "|" in text:
        text = _counted(_PICTURE, "", text, removed, "caption")
    return MAGIC_WORD.sub("", text) if "__" in text else text


def mend_spacing(text: str) -> str:
    """Fix the spacing around links and removed parts: `Toronto 's`, `( ; French)`, `end.The next`."""
    if not text.isascii():
        text = _typography(text)
    if "(" in text:
        if _BRACKET_TO_MEND.search(text):
            text = _BRACKET_START.sub("(", _EMPTY_BRACKETS.sub("", text)).replace("( ", "(")
        if ",)" in text or ";)" in text:
            text = _BRACKET_END.sub(")", text)
    if " 's" in text:
        text = _POSSESSIVE.sub("", text)
    if " ," in text or " ." in text or " )" in text:
        text = _SPACE_BEFORE.sub("", text)
    if ":" in text:
        text = _GLUED_LIST.sub(": ", text)
    return _GLUED_SENTENCE.sub(r"\g<0> ", text) if _GLUED_SENTENCE.search(text) else text


def _counted(pattern: re.Pattern[str], replacement: str, text: str, removed: Counter[str], name: str) -> str:
    text, count = pattern.subn(replacement, text)
    if count:
        removed[name] += count
    return text


def _typography(text: str) -> str:
    # str.translate costs more than all other rules together; replace() of a missing character costs nothing.
    for code, replacement in _TYPOGRAPHY.items():
        text = text.replace(chr(code), replacement or "")
    return text


def _without_braces(text: str, removed: Counter[str]) -> str:
    while match := _STYLED_MATHS.search(text):
        end = _closing_brace(text, match.start())
        if end == len(text):
            break
        text = f"{text[: match.start()]}${text[match.end() : end].strip()}${text[end + 1 :]}"
    if "{{" in text:
        for _ in range(_DEEPEST_TEMPLATE):  # innermost first
            if not _TEMPLATE.search(text):
                break
            text = _counted(_TEMPLATE, "", text, removed, "template")
    return _counted(_TABLE, "", text, removed, "table") if "{|" in text and "|}" in text else text


def _closing_brace(text: str, start: int) -> int:
    """The index of the brace that closes the one at `start`, or the end of the text if there is none."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if not depth:
            return index
    return len(text)


def _without_brackets(text: str, removed: Counter[str]) -> str:
    if "[[" in text:
        text = _LINK.sub(r"\1", _counted(_FILE_LINK, "", text, removed, "file link"))
    if "//" in text:
        text = _URL_LINK.sub(r"\1", text)
    text = _counted(_NUMBER_MARK, "", text, removed, "citation mark")
    return _counted(_NAMED_MARK, "", text, removed, "citation mark")
