"""The `cleaning` section of the configuration: which parts of an article to keep."""

from dataclasses import dataclass

from utils.options import option

_DROP_OR_KEEP = ("drop", "keep")


_DROPPED_SECTIONS = (
    "References",
    "See also",
    "External links",
    "Further reading",
    "Notes",
    "Footnotes",
    "Citations",
    "Sources",
    "Bibliography",
    "Works cited",
    "Notes and references",
    "References and notes",
    "Explanatory notes",
    "General references",
    "Gallery",
)


@dataclass(frozen=True)
class CleaningConfig:
    """The cleaning policy: which parts of an article to keep. Preview the effect with `python3 cleaner.py --show 5`."""

    workers: int = option(4, "files cleaned in parallel, one process each", minimum=1)
    test_articles: int = option(50_000, "articles read from each file with `--test`", minimum=1)
    title: str = option("keep", "the title as the article's first paragraph", choices=_DROP_OR_KEEP)
    headings: str = option("keep", "section headings, each a paragraph", choices=_DROP_OR_KEEP)
    drop_sections: tuple[str, ...] = option(
        _DROPPED_SECTIONS, "headings of sections to drop, with their subsections; case does not matter"
    )
    redirects: str = option("drop", "pages that only point to another page", choices=_DROP_OR_KEEP)
    disambiguations: str = option("drop", "pages that list the meanings of a name", choices=_DROP_OR_KEEP)
    min_characters: int = option(100, "articles with less text below the title are dropped as stubs", minimum=0)
    lists: str = option("keep", "list items, each a line that starts with `- ` or its number", choices=_DROP_OR_KEEP)
    tables: str = option("drop", "tables; if kept, each row is a line with ` | ` between cells", choices=_DROP_OR_KEEP)
    infoboxes: str = option("drop", "infoboxes; if kept, each field is a line `name: value`", choices=_DROP_OR_KEEP)
    captions: str = option("drop", "captions of images and galleries", choices=_DROP_OR_KEEP)
    maths: str = option("keep", "formulas, kept as `$TeX$`", choices=_DROP_OR_KEEP)
    markup: bool = option(
        True, "remove leftover markup, citation marks, coordinates and stray spaces; false: leave the text unchanged"
    )
