"""The section `cleaning` of the configuration: what of an article stays."""

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
    """The cleaner and its policy: what of an article stays. `python3 cleaner.py --show 5` shows what it does."""

    workers: int = option(4, "files cleaned at once, one process each", minimum=1)
    test_articles: int = option(50_000, "articles of each file that `--test` takes", minimum=1)
    title: str = option("keep", "the title as the article's first paragraph", choices=_DROP_OR_KEEP)
    headings: str = option("keep", "section headings, each a paragraph", choices=_DROP_OR_KEEP)
    drop_sections: tuple[str, ...] = option(
        _DROPPED_SECTIONS, "headings of sections that go, with all below them; case does not matter"
    )
    redirects: str = option("drop", "pages that only point to another", choices=_DROP_OR_KEEP)
    disambiguations: str = option("drop", "pages that list what a name may mean", choices=_DROP_OR_KEEP)
    min_characters: int = option(100, "an article with less text below its title goes as a stub", minimum=0)
    lists: str = option("keep", "list items, each a line that starts with `- ` or its number", choices=_DROP_OR_KEEP)
    tables: str = option("drop", "tables; kept, a row is a line with ` | ` between cells", choices=_DROP_OR_KEEP)
    infoboxes: str = option("drop", "infoboxes; kept, a field is a line `name: value`", choices=_DROP_OR_KEEP)
    captions: str = option("drop", "captions of images and galleries", choices=_DROP_OR_KEEP)
    maths: str = option("keep", "formulas, kept as `$TeX$`", choices=_DROP_OR_KEEP)
    markup: bool = option(
        True, "mend text: leftover markup, citation marks, coordinates and stray spaces go; false: text stays as it is"
    )
