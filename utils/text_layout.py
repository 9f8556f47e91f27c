"""Lay out text for a terminal of a given width. Standard library only, except for emoji and CJK, which rich measures.

columns("你好")                        # 4
wrap("one two three", 8)              # ["one two", "three"]
fold("a long line …", 80)             # the same text, broken at spaces
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol

from utils.packages import is_installed

# Latin, Greek and Cyrillic letters, punctuation, arrows, mathematics and boxes: one column each.
_NARROW = re.compile(
    r"[\x20-\x7e\xa0-\u02ff\u0370-\u0482\u048a-\u058f\u2010-\u2027\u2030-\u205e\u20a0-\u20bf\u2190-\u2319\u2500-\u25fc]*"
)
_STYLE_CODES = re.compile(r"\x1b\[[\d;]*m")
_INDENT = re.compile(r" *(?:[-•*] |\d+\. )?")
NARROWEST = 20


def columns(text: str) -> int:
    """The terminal columns that `text` takes: none for colour codes and accents, two for CJK and emoji."""
    text = _STYLE_CODES.sub("", text)
    if _NARROW.fullmatch(text):
        return len(text)
    if is_installed("rich"):
        from rich.cells import cell_len

        return cell_len(text)
    return sum(_character_columns(character) for character in text)  # training runs without rich


def _character_columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me", "Cc"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, width: int, *, right: bool = False) -> str:
    """`text` with spaces after it (`right`: before it) up to `width` columns."""
    space = " " * max(0, width - columns(text))
    return space + text if right else text + space


def cut(text: str, width: int) -> str:
    """The longest prefix of `text` that fits into `width` columns, at least one character."""
    if _NARROW.fullmatch(text):
        return text[: max(1, width)]
    end = 1
    while end < len(text) and columns(text[: end + 1]) <= width:
        end += 1
    return text[:end]


def shorten(text: str, width: int) -> str:
    """`text`, ending in ``…`` if it had to be cut to `width` columns."""
    return text if columns(text) <= width else cut(text, width - 1) + "…"


def wrap(text: str, width: int, *, indent: str = "", chop: bool = True) -> list[str]:
    """Lines of at most `width` columns, broken at spaces.

    Args:
        indent: starts every line but the first of each paragraph.
        chop: break words longer than a line too. Paths and commands are easier to copy if they are left whole.
    """
    lines = []
    for paragraph in text.expandtabs(4).split("\n"):
        line = ""
        for word in _words(paragraph):
            if line.strip() and columns(line + word.rstrip()) > width:
                lines.append(line.rstrip())
                line, word = indent, word.lstrip()
            while chop and columns(line + word.rstrip()) > width:
                head = cut(word, width - columns(line))
                lines.append(line + head)
                line, word = indent, word[len(head) :]
            line += word
        lines.append(line.rstrip())
    return lines


def fold(text: str, width: int) -> str:
    """`text` with every line that is too wide broken at spaces; what follows keeps the line's indentation."""
    lines = []
    for line in text.split("\n"):
        if columns(line) <= width:
            lines.append(line)
        else:
            match = _INDENT.match(line)
            indent = " " * len(match[0] if match else "")
            lines += wrap(line, max(width, NARROWEST), indent=indent, chop=False)
    return "\n".join(lines)


def join_fitting(parts: Sequence[str], width: int) -> str:
    """The first of `parts`, joined by commas, as many as fit into `width` columns; at least one."""
    text = parts[0]
    for part in parts[1:]:
        if columns(f"{text}, {part}") > width:
            break
        text = f"{text}, {part}"
    return text


def _words(paragraph: str) -> list[str]:
    """Words with the spaces that follow them; leading spaces form a separate word."""
    words = []
    start = 0
    for index in range(1, len(paragraph)):
        if paragraph[index - 1] == " " and paragraph[index] != " ":
            words.append(paragraph[start:index])
            start = index
    return [*words, paragraph[start:]]


def fit_columns(rows: Sequence[Sequence[str]], width: int, *, gap: int = 2) -> list[int]:
    """Column widths for a table of at most `width` columns: the widest columns shrink, down to their longest word."""
    cells = list(zip(*rows, strict=True))
    widths = [max(map(columns, column)) for column in cells]
    smallest = [max((columns(word) for cell in column for word in cell.split()), default=1) for column in cells]
    while sum(widths) + gap * (len(widths) - 1) > width:
        shrinkable = [index for index in range(len(widths)) if widths[index] > smallest[index]]
        if not shrinkable:
            break
        widths[max(shrinkable, key=lambda index: widths[index])] -= 1
    return widths


class Output(Protocol):
    """What a text stream can do."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class WrappingOutput:
    """A stream that breaks lines at spaces, for text that arrives in pieces. Holds a word back until it is complete."""

    def __init__(self, output: Output, width: int, column: int = 0) -> None:
        self.output = output
        self.width = width
        self._column = column
        self._word = ""

    def write(self, text: str) -> None:
        for part in re.split(r"(\n| )", text):
            if part in ("\n", " "):
                self._finish_word()
                self._space(part)
            else:
                self._word += part

    def flush(self) -> None:
        self.output.flush()

    def close(self) -> None:
        """Write the last word."""
        self._finish_word()
        self.output.flush()

    def _space(self, part: str) -> None:
        if part == "\n":
            self._column = 0
        elif self._column >= self.width:
            return  # the next word starts a new line anyway
        else:
            self._column += 1
        self.output.write(part)

    def _finish_word(self) -> None:
        size = columns(self._word)
        if self._column and self._column + size > self.width:
            self.output.write("\n")
            self._column = 0
        self.output.write(self._word)
        self._column = (self._column + size) if size <= self.width else size % self.width
        self._word = ""
