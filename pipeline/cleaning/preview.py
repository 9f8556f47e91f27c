"""`cleaner.py --show N`: show articles before and after cleaning, side by side, for judging the policy."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.cleaning.articles import MALFORMED, Counts, clean_article, iter_raw_articles, value_of
from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.plan import CleaningJob
from pipeline.cleaning.policy import Policy
from pipeline.cleaning.structured_contents import SECTION_KEYS, is_structured, parts_of
from pipeline.formats.cleaned_text import with_plain_newlines
from utils.terminal import say, styled, terminal_width, visible
from utils.text_layout import pad, wrap

_LONGEST_PARAGRAPH = 400
_LOOK_AHEAD = 12
_WORDS = 12
_ROWS_OF_A_SCREEN = 18
_MARKUP = re.compile(r"<ref[^<>]*/>|<ref.*?</ref>|<[^<>]*>|\[\[[^\]|]*\||^\[[a-z_]+\] ", re.DOTALL | re.MULTILINE)


def side_by_side(record: dict[str, Any], article: str, *, whole: bool = True) -> str:
    """An article with the raw paragraphs on the left and the cleaned ones on the right. Unless it is shown `whole`, it
    fits on a screen, and the last line counts the rest."""
    width = max(24, (terminal_width(120) - 3) // 2)
    pairs = list(_aligned(_raw_paragraphs(record), article.split("\n\n")))
    rows = [row for pair in pairs for row in _rows(*pair, width)]
    header = f"{styled(pad('before', width), 'bold')} │ {styled('after', 'bold')}"
    lines = [header, f"{'─' * width}─┼─{'─' * width}", *rows]
    num_hidden = len(rows) - _ROWS_OF_A_SCREEN
    if whole or num_hidden <= 0:
        return "\n".join(lines)
    num_raw, num_kept = (sum(bool(pair[side]) for pair in pairs) for side in (0, 1))
    counts = f"{num_raw:,} paragraphs before, {num_kept:,} after; {num_hidden:,} more rows (--all shows them)"
    return "\n".join([*lines[:-num_hidden], styled(counts, "dim")])


def _rows(before: str, after: str, width: int) -> Iterator[str]:
    left = _wrapped(before, width)
    right = _wrapped(after, width)
    style = () if after else ("dim",)  # dim removed paragraphs, so that losses stand out
    for number in range(max(len(left), len(right)) + 1):  # plus an empty row
        cells = [column[number] if number < len(column) else "" for column in (left, right)]
        yield f"{styled(pad(cells[0], width), *style)} │ {cells[1]}".rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) > _LONGEST_PARAGRAPH:
        text = f"{text[:_LONGEST_PARAGRAPH]} … ({len(text) - _LONGEST_PARAGRAPH:,} more)"
    return wrap(visible(text), width)


def _aligned(before: list[str], after: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of corresponding paragraphs; paragraphs without a counterpart are paired with an empty string."""
    position = 0
    for paragraph in before:
        ahead = after[position : position + _LOOK_AHEAD]
        match = next((index for index, other in enumerate(ahead) if _is_same(paragraph, other)), None)
        if match is None:
            yield paragraph, ""
            continue
        for other in ahead[:match]:
            yield "", other
        yield paragraph, ahead[match]
        position += match + 1
    for other in after[position:]:
        yield "", other


def _is_same(before: str, after: str) -> bool:
    """Whether `before` contains the start of `after`, apart from markup."""
    first, second = (re.findall(r"\w+", _MARKUP.sub("", text[:20_000]).lower()) for text in (before, after))
    beginning = second[:_WORDS]
    if len(beginning) < 4:
        return first == second
    return sum(word in first[: 4 * _WORDS] for word in beginning) > 0.8 * len(beginning)


def _raw_paragraphs(record: dict[str, Any]) -> list[str]:
    if is_structured(record):
        lines = [str(record.get("name") or record.get("title") or "")]
        for key in ("infoboxes", *SECTION_KEYS, "tables"):
            for part in parts_of(record, key):
                lines += _outline(part, "table" if key == "tables" else "")
        return lines
    text = record.get("wikitext") or record.get("text") or record.get("content") or ""
    title = record.get("title") or record.get("name") or ""
    return [title, *(part for part in re.split(r"\n\s*\n|\n(?==)|(?<==)\n", with_plain_newlines(text)) if part.strip())]


def _outline(part: dict[str, Any], kind: str = "") -> Iterator[str]:
    kind = kind or str(part.get("type"))
    text = " ".join(str(part[key]) for key in ("name", "value", "caption") if part.get(key))
    if kind == "list":
        yield "\n".join(f"[{child.get('type')}] {child.get('value') or ''}" for child in part.get("has_parts") or ())
        return
    yield f"[{kind}] {text}"
    for child in part.get("has_parts") or ():
        yield from _outline(child)


def show(jobs: Sequence[CleaningJob], config: CleaningConfig, number: int, *, whole: bool) -> None:
    """Print the first `number` kept articles before and after cleaning, and why others before them were dropped."""
    policy = Policy(config)
    records = (record for job in jobs for path in job.files for record in iter_raw_articles(path))
    for record in records:
        counts = Counts()
        try:
            fields = value_of(record)
            article = clean_article(fields, policy, counts)
        except MALFORMED as error:
            say(visible(f"record {record.number} is malformed: {error}"))
            continue
        if not article:
            title = fields.get("title") or fields.get("name")
            say(visible(f"dropped, {next(iter(counts.removals.articles))}: {title}"))
            continue
        print(side_by_side(fields, article, whole=whole), end="\n\n")
        number -= 1
        if not number:
            return
