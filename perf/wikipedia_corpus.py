"""Raw articles for benchmarks, in the format of Wikimedia's structured contents.

The text is source code of Python and the installed packages, which does not repeat itself. Everything around it
(versions, licences, links, infoboxes) is made up in the proportions of real articles, in which text is about 40% of the
bytes.
"""

import random
from collections.abc import Iterator
from typing import Any

from perf.corpus import package_texts
from utils.arithmetic import ceil_div

_HEADINGS = ("Abstract", "History", "Geography", "Economy", "Culture", "See also", "References", "External links")
_SITE = "https://en.wikipedia.org/wiki/"


def structured_articles(megabytes: float) -> Iterator[dict[str, Any]]:
    """Articles with `megabytes` of text in all, from a few hundred characters to a few hundred thousand."""
    draw = random.Random(0)
    for number, article in enumerate(package_texts(megabytes)):
        paragraphs = [" ".join(part.split()) for part in article.split("\n\n") if part.strip()]
        size = max(1, ceil_div(len(paragraphs), len(_HEADINGS)))
        sections = [
            {"type": "section", "name": heading, "has_parts": [_part(text, draw) for text in paragraphs[start:][:size]]}
            for heading, start in zip(_HEADINGS, range(0, len(paragraphs), size), strict=False)
        ]
        yield _article(number, sections, draw)


def _part(text: str, draw: random.Random) -> dict[str, Any]:
    words = text.split(" ")
    links = [_link(draw.choice(words)) for _ in range(len(text) // 160)]
    if len(words) < 12:
        return {"type": "list", "has_parts": [{"type": "list_item", "value": text, "links": links}]}
    return {"type": "paragraph", "value": text, "links": links}


def _link(word: str) -> dict[str, str]:
    return {"url": f"{_SITE}{word}", "text": word}


def _article(number: int, sections: list[dict[str, Any]], draw: random.Random) -> dict[str, Any]:
    name = f"Article {number}"
    fields = [{"type": "field", "name": f"field {i}", "value": str(draw.random())} for i in range(12)]
    return {
        "name": name,
        "identifier": str(number),
        "version": {"identifier": str(number), "comment": "x" * 60, "tags": ["a", "b"], "scores": {"revertrisk": 0.1}},
        "event": {
            "identifier": f"{draw.getrandbits(128):032x}",
            "type": "update",
            "date_created": "2024-04-23T16:53:56Z",
        },
        "url": _SITE + name,
        "date_created": "2024-04-23T16:50:32Z",
        "is_part_of": {"identifier": "enwiki", "url": "https://en.wikipedia.org"},
        "license": [{"name": "Creative Commons Attribution-ShareAlike 4.0", "identifier": "CC-BY-SA-4.0"}],
        "infoboxes": [{"name": "Infobox", "type": "infobox", "has_parts": fields}],
        "sections": sections,
    }
