"""The quickstart's terminal output: finished lines, and below them a live line with a bar and the time left.

    screen = Screen(sys.stdout)
    screen.live(0.4, "train 420/850", [5.1, 3.2, 2.9], seconds_left=160)     # only in a terminal; overwrites itself
    screen.line("✓ train    850 steps, validation loss 5.10 → 1.90", "green")

Nothing is wider than 79 columns.
"""

import re
import textwrap
from collections.abc import Sequence
from typing import TextIO

from utils.terminal import format_seconds, styled, visible
from utils.text_layout import shorten

WIDTH = 79
_BAR_WIDTH = 20
_HEIGHTS = "▁▂▃▄▅▆▇█"
_SPARKS = 12  # number of validations shown, the latest ones


class Screen:
    def __init__(self, output: TextIO) -> None:
        self.output = output
        self.is_terminal = output.isatty()
        self._live = 0  # columns of the live line

    def line(self, text: str = "", *styles: str) -> None:
        """Print a permanent line."""
        self._wipe()
        print(styled(fit(text), *styles, stream=self.output), file=self.output, flush=True)

    def sample(self, label: str, prompt: str, written: str) -> None:
        """Print a generated text on one line: the prompt in bold, the model's words in colour."""
        self._wipe()
        room = WIDTH - len(label) - len(prompt) - 2
        own = shorten(visible(" ".join(written.split())), max(2, room))
        styles = (styled(prompt, "bold", stream=self.output), styled(own, "cyan", stream=self.output))
        print(f"{styled(label, 'dim', stream=self.output)} {' '.join(styles)}", file=self.output, flush=True)

    def live(self, share: float, text: str, losses: Sequence[float], seconds_left: float | None) -> None:
        if not self.is_terminal:
            return
        left = "measuring the speed" if seconds_left is None else f"{format_seconds(max(1.0, seconds_left))} left"
        shown = fit("  ".join(filter(None, (f"{bar(share)} {share:4.0%}", text, sparkline(losses), left))))
        self.output.write(f"\r{shown.ljust(self._live)}")
        self.output.flush()
        self._live = len(shown)

    def _wipe(self) -> None:
        if self._live:
            self.output.write(f"\r{' ' * self._live}\r")
            self._live = 0


def bar(share: float) -> str:
    full = round(min(1.0, max(0.0, share)) * _BAR_WIDTH)
    return "█" * full + "░" * (_BAR_WIDTH - full)


def sparkline(values: Sequence[float]) -> str:
    """One bar per value, scaled to the largest: ``█▅▃▂▁``."""
    shown = values[-_SPARKS:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_HEIGHTS) - 1) / (high - low) if high > low else 0.0
    return "".join(_HEIGHTS[round((value - low) * scale)] for value in shown)


def fit(text: str) -> str:
    """`text` on one line of at most `WIDTH` columns."""
    return shorten(" ".join(text.splitlines()), WIDTH)


def without_styles(text: str) -> str:
    """`text` without the colours added by `styled`, for a file."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def wrapped(text: str, *, indent: int) -> str:
    """Wrap paragraphs into indented lines of at most `WIDTH` columns."""
    space = " " * indent
    lines = [textwrap.fill(part, WIDTH, initial_indent=space, subsequent_indent=space) for part in text.splitlines()]
    return "\n".join(line for line in lines if line.strip())
