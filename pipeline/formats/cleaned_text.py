"""An article as one line of a `cleaned_*.txt` file, and back.

Inside a line a paragraph break is U+2029 and a line break U+2028, so `wc -l` counts articles and no shape is lost.
"""

import os
import re
from pathlib import PurePath

PARAGRAPH_BREAK, LINE_BREAK = "\u2029", "\u2028"

# Everything else that `str.splitlines` takes for the end of a line: VT, FF, FS, GS, RS, NEL.
_OTHER_BREAKS = ("\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", LINE_BREAK)


def with_plain_newlines(text: str) -> str:
    r"""`text` with ``\n`` as its only line break: every other one becomes ``\n``, U+2029 becomes two."""
    for line_break in _OTHER_BREAKS:  # a replace() that finds nothing is 500 times as fast as translate()
        text = text.replace(line_break, "\n")
    return text.replace(PARAGRAPH_BREAK, "\n\n")


def to_line(article: str) -> str:
    r"""`article` as one line, without a newline at its end.

    ``from_line(to_line(article)) == with_plain_newlines(article)`` for every text, so an article whose only line break
    is ``\n`` comes back exactly.
    """
    return with_plain_newlines(article).replace("\n\n", PARAGRAPH_BREAK).replace("\n", LINE_BREAK)


def from_line(line: str) -> str:
    r"""The article that `line` holds; a ``\n`` that ends the line in its file is not part of it."""
    return line.removesuffix("\n").replace(PARAGRAPH_BREAK, "\n\n").replace(LINE_BREAK, "\n")


def printable_name(path: str | PurePath) -> str:
    """A file's name as text: each byte of it that is not UTF-8 becomes ``%XX``."""
    return re.sub("[\udc80-\udcff]", lambda match: f"%{os.fsencode(match[0]).hex().upper()}", str(path))
