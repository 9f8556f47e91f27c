"""Terminal output and input: colour, tables, numbers with units, questions."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO

from utils.errors import UsageError
from utils.packages import is_installed
from utils.text_layout import Output, WrappingOutput, columns, fit_columns, fold, pad, wrap

# C0, DEL, and C1, which some terminals obey too: U+009B starts an escape sequence like ESC [.
_WRITTEN_OUT = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_STYLES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}


def use_colour(stream: TextIO | None = None) -> bool:
    """True if `stream` (default: standard output) is a terminal and ``NO_COLOR`` is not set (no-color.org)."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """`text` in the named styles (``bold``, ``dim`` or a colour), or unchanged if colour is off."""
    if not styles or not use_colour(stream):
        return text
    codes = ";".join(str(_STYLES[style]) for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m"


def visible(text: str) -> str:
    """`text` with control characters escaped (ESC becomes ``\\x1b``), except newlines and tabs.

    Use it to print text from a model or a file, because a terminal would obey the characters.
    """
    return text.translate(_WRITTEN_OUT)


def terminal_width(default: int = 100) -> int:
    return shutil.get_terminal_size((default, 24)).columns


def fitted(text: str, *, stream: TextIO | None = None) -> str:
    """`text`, with lines wider than the terminal broken at spaces; unchanged if `stream` is not a terminal."""
    return fold(text, terminal_width()) if (stream or sys.stdout).isatty() else text


def say(*texts: str, stream: TextIO | None = None) -> None:
    """Print lines that fit the terminal, at once."""
    for text in texts:
        print(fitted(text, stream=stream), file=stream or sys.stdout, flush=True)


def fitting_output(column: int = 0) -> Output:
    """Standard output that breaks lines at spaces if it is a terminal; its cursor is at `column`."""
    return WrappingOutput(sys.stdout, terminal_width(), column) if sys.stdout.isatty() else sys.stdout


def short_path(path: Path) -> str:
    """`path`, relative to the working directory if it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def ask(question: str, *, history: str = "menu", complete: Callable[[str], Iterable[str]] | None = None) -> str:
    """An answer from the user. On a terminal, Ctrl-D answers ``q``.

    Args:
        history: the name of the list of earlier answers that the up arrow goes through.
        complete: the candidates for the last word of the text before the cursor, for the Tab key.

    Raises:
        UsageError: the end of an input that is not a terminal.
    """
    try:
        return _read_line(question, history, complete).strip()
    except EOFError:
        print()
        if sys.stdin.isatty():
            return "q"
        raise UsageError("input ended before a choice was made; pass the choice as arguments (see --help)") from None


def _read_line(question: str, history: str, complete: Callable[[str], Iterable[str]] | None) -> str:
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal and use_colour() and is_installed("prompt_toolkit"):
        from utils.line_editor import edit_line  # only here: importing it takes longer than the rest of main.py

        return edit_line(question, history=history, complete=complete)
    if is_terminal and is_installed("readline"):
        import readline  # noqa: F401  # gives `input` the arrow keys
    try:
        return input(question)
    except KeyboardInterrupt:
        print()  # the terminal shows ^C after the question
        raise


def format_table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int | None = None) -> str:
    """`rows` in aligned columns; the first row is the header. Columns in `right` are right-aligned.

    Args:
        width: the widest line; by default the terminal's width, or unlimited if the output is not a terminal. Cells of
            columns that must shrink are wrapped.
    """
    limit = width or (terminal_width() if sys.stdout.isatty() else sys.maxsize)
    widths = fit_columns(rows, limit)

    def lines(row: Sequence[str]) -> list[str]:
        cells = [wrap(cell, size) if columns(cell) > size else [cell] for cell, size in zip(row, widths, strict=True)]
        return [
            "  ".join(
                pad(cell[number] if number < len(cell) else "", size, right=column in right)
                for column, (cell, size) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for number in range(max(map(len, cells)))
        ]

    rule = "  ".join("─" * size for size in widths)
    return "\n".join([*lines(rows[0]), rule, *(line for row in rows[1:] for line in lines(row))])


def format_bytes(count: float) -> str:
    """1536 → ``1.5 KB``; powers of 1024."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def format_count(count: float) -> str:
    """1234567 → ``1.2M``; below 10,000, the number itself with separators."""
    if abs(count) < 10_000:
        return f"{count:,.0f}"
    for unit in ("K", "M", "B"):
        count /= 1000
        if abs(count) < 1000:
            return f"{count:.1f}{unit}"
    return f"{count / 1000:.1f}T"


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2,000 files``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_seconds(seconds: float) -> str:
    """75 → ``1m 15s``; below ten seconds with a decimal."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"
