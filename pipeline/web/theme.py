"""What all pages share: the style sheet, which reports contain too, and the helpers that build elements."""

from pathlib import Path

THEME_FILE = Path(__file__).with_name("theme.css")
SHARED_FILES = (THEME_FILE, Path(__file__).with_name("dom.js"))


def theme_css() -> str:
    """The style sheet as text, for a page in a single file."""
    return THEME_FILE.read_text(encoding="utf-8")
