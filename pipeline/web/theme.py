"""The theme's style sheet, for pages that are served and for reports that contain it."""

from pathlib import Path

THEME_FILE = Path(__file__).with_name("theme.css")


def theme_css() -> str:
    """The style sheet as text, for a page in a single file."""
    return THEME_FILE.read_text(encoding="utf-8")
