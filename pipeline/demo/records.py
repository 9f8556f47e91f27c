"""Articles in the structured-contents schema of Wikipedia dumps, as input for the real cleaner.

record = article("France", [section("Abstract", paragraph("France is in Europe."))], identifier=1)
"""

from collections.abc import Sequence

Part = dict[str, object]
URL = "https://example.org/wiki/"


def article(name: str, sections: Sequence[Part], *, identifier: int, abstract: str = "", description: str = "") -> Part:
    return {
        "name": name,
        "identifier": identifier,
        "abstract": abstract,
        "description": description,
        "url": URL + name.replace(" ", "_"),
        "in_language": {"identifier": "en"},
        "sections": list(sections),
    }


def redirect(name: str, target: str, *, identifier: int) -> Part:
    """A redirect page, which the cleaner drops."""
    text = f"REDIRECT {target}"
    return article(name, [section("Abstract", paragraph(text))], identifier=identifier, abstract=text)


def disambiguation(name: str, targets: Sequence[str], *, identifier: int) -> Part:
    """A disambiguation page, which the cleaner drops."""
    parts = [paragraph(f"{name} may refer to:"), bullets(targets)]
    return article(f"{name} (disambiguation)", [section("Abstract", *parts)], identifier=identifier)


def section(name: str, *parts: Part) -> Part:
    return {"type": "section", "name": name, "has_parts": list(parts)}


def paragraph(text: str) -> Part:
    return {"type": "paragraph", "value": text}


def bullets(texts: Sequence[str]) -> Part:
    return {"type": "list", "has_parts": [{"type": "list_item", "value": text} for text in texts]}


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Part:
    return {"type": "table", "headers": [list(headers)], "rows": [list(row) for row in rows]}
