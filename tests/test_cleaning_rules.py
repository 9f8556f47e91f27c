"""The rules of cleaning one by one: sections, plain text, templates, and how files are grouped."""

import json
import os
from collections import Counter

import pytest

from pipeline.cleaning import plan, structured_contents, wiki_markup
from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.plain_text import read_page
from pipeline.cleaning.plan import plan_jobs
from pipeline.cleaning.policy import Block, Page, Policy, Removals, tidy
from pipeline.cleaning.templates import is_disambiguation, render
from tests.expected_text import assert_expected

TEXT = "A paragraph that is kept."


def blocks(*texts: str) -> list[Block]:
    """``== Head`` is a heading of level 1, ``=== Head`` of level 2; anything else is a paragraph."""
    found = []
    for text in texts:
        marks, _, name = text.partition(" ")
        is_heading = set(marks) == {"="}
        found.append(Block("heading", name, len(marks) - 1) if is_heading else Block("paragraph", text))
    return found


def cleaned(*texts: str, **settings: object) -> tuple[list[str], Removals]:
    removals = Removals()
    config = CleaningConfig(**{"min_characters": 0, "title": "drop", **settings})
    return Policy(config).apply(Page("Title", blocks(*texts)), removals).split("\n\n"), removals


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["== One", "== Two", TEXT], ["Two", TEXT]),
        (["== One", "=== Two", TEXT], ["One", "Two", TEXT]),
        (["=== One", "== Two", TEXT], ["Two", TEXT]),
        (["== One", "=== Two", "=== Three", TEXT], ["One", "Three", TEXT]),
        (["== One", TEXT, "== Two"], ["One", TEXT]),
        (["== References", "gone", "=== Web", "gone", "== Two", TEXT], ["Two", TEXT]),
        (["== One", TEXT, "=== References", "gone", "== Two", TEXT], ["One", TEXT, "Two", TEXT]),
        (["== One", "=== references :", "gone", "=== Two", TEXT], ["One", "Two", TEXT]),
        (["== One", TEXT, "== Two", TEXT], ["One", TEXT, "Two", TEXT]),
    ],
)
def test_headings_are_kept_with_what_is_below_them(given, kept):
    assert cleaned(*given)[0] == kept


def test_dropped_headings_leave_their_text():
    assert cleaned("== One", TEXT, headings="drop")[0] == [TEXT]


@pytest.mark.parametrize(("characters", "reason"), [(25, {}), (26, {"stub": 1}), (10_000, {"stub": 1})])
def test_an_article_with_exactly_the_least_characters_is_kept(characters, reason):
    assert cleaned(TEXT, min_characters=characters)[1].articles == reason


@pytest.mark.parametrize("kind", ["list", "table", "infobox", "caption", "maths"])
@pytest.mark.parametrize("choice", ["keep", "drop"])
def test_kinds_of_blocks_are_kept_or_counted(kind, choice):
    removals = Removals()
    setting = {"list": "lists", "table": "tables", "infobox": "infoboxes", "caption": "captions", "maths": "maths"}[
        kind
    ]
    policy = Policy(CleaningConfig(**{setting: choice, "min_characters": 0}))
    text = policy.apply(Page(" T ", [Block(kind, "a  b"), Block("preformatted", "c  d [[e]] \n")]), removals)
    shown = {"keep": ["T", "a b", "c  d [[e]]"], "drop": ["T", "c  d [[e]]"]}[choice]
    assert text.split("\n\n") == shown
    assert removals.parts == ({} if choice == "keep" else {kind: 1})


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page("T", [], is_article=False), "no article"),
        (Page("T", [], is_redirect=True), "redirect"),
        (Page("T", [], is_disambiguation=True), "disambiguation"),
        (Page("T", []), "empty"),
    ],
)
def test_a_removed_article_has_one_reason(page, reason):
    removals = Removals()
    assert Policy(CleaningConfig(min_characters=0)).apply(page, removals) == ""
    assert removals.articles == {reason: 1}


def test_white_space_is_collapsed_where_it_means_nothing():
    assert tidy("  a   b ") == "a b"
    assert tidy("a   b\n  c   d \n\n\n\n\te\t\n", is_list=False) == "a   b\n  c   d\n\n\te"
    assert tidy("- a   b\n  - c   d", is_list=True) == "- a b\n  - c d"


@pytest.mark.parametrize(
    ("text", "kind", "level"),
    [
        ("== Head ==", "heading", 1),
        ("=== Head ===", "heading", 2),
        ("References", "heading", 1),
        ("References" + " " * 60 + ".", "paragraph", 0),
        ("References\nand more", "paragraph", 0),
        ("== Head", "paragraph", 0),
    ],
)
def test_headings_of_plain_text_are_found(text, kind, level):
    page = read_page({"title": "A", "text": f"{text}\n \nText"}, Policy(CleaningConfig()))
    assert [(block.kind, block.level) for block in page.blocks] == [(kind, level), ("paragraph", 0)]


def test_a_line_as_long_as_a_heading_may_be_is_one():
    name = "x" * 80
    for length, kind in ((80, "heading"), (81, "paragraph")):
        policy = Policy(CleaningConfig(drop_sections=[name, f"{name}x"]))
        page = read_page({"title": "A", "text": "x" * length}, policy)
        assert page.blocks[0].kind == kind


def test_plain_records_are_redirects_disambiguations_or_own_texts():
    policy = Policy(CleaningConfig())
    assert read_page({"title": "A", "text": " #redirect [[B]]"}, policy).is_redirect
    assert not read_page({"title": "A", "text": "The #REDIRECT"}, policy).is_redirect
    assert read_page({"name": "A (disambiguation)", "content": "x"}, policy).is_disambiguation
    assert read_page({"text": "== a ==\n\n\n b"}, policy).blocks == [
        Block("preformatted", "== a =="),
        Block("preformatted", " b"),
    ]
    with pytest.raises(ValueError, match=r"text is a int; .*keys found: text, a, b, c, d, e, f, g\)"):
        read_page({"text": 1} | dict.fromkeys("abcdefghi"), policy)
    with pytest.raises(ValueError, match=r"text is missing; .*keys found: \)"):
        read_page({}, policy)


TEMPLATES = {
    "convert|5|km|mi": "5 km",
    "convert|5|to|10|km|mi": "5 to 10 km",
    "convert|12345|x|2|mi": "12,345 × 2 miles",
    "convert|1+1/2|in": "1 1/2 inches",
    "convert|to|5": "",
    "convert|5": "5",
    "convert": "",
    "val|6.2|0.1|9|e=18|u=C": "6.2 ± 0.1×10^18 C",
    "val|7|ul=km": "7 km",
    "frac|1|2": "1/2",
    "frac|3|1|2": "3 1/2",
    "nihongo|Tea|茶|cha|x": "Tea (茶, cha)",
    "nihongo||茶": "茶",
    "nihongo|Tea": "Tea",
    "ipac en|lang|ˌ|æ|l|.|ə": "/ˌælə/",
    "ipac en|US": "",
    "birth date|1879|3|14": "March 14, 1879",
    "birth date|1879|3": "March 1879",
    "birth date|1879|1": "January 1879",
    "birth date|1879|12|1|df=y": "December 1, 1879",
    "birth date|1879|13": "13 1879",
    "birth date|1879|0|2": "2 0 1879",
    "birth date": "",
    "oldstyledate|1 May|1700|20 April": "1 May, 1700",
    "ubl|a||b": "\n* a\n* b\n",
    "quote| Words |Who": "\n\nWords\n\n",
    "quote": "",
    "lang|de|Haus": "Haus",
    "lang|de": "",
    "lang-de|Haus|x": "Haus",
    "langx|de|Haus": "Haus",
    "transl|ja|Hepburn|cha": "cha",
    "as of|1999|lc=y": "as of 1999",
    "circa|1900": "c. 1900",
    "circa": "",
    "reign|1|2|3": "r. 1–2",
    "angbr|a": "⟨a⟩",
    "hlist|a||b": "a, b",
    "nowrap": "",
    "hover title|a|b": "b",
    "columns list|a|b": "\nb\n",
    "unknown|a": None,
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_are_rendered_as_text(template):
    name, *parts = template.split("|")
    named = dict(part.split("=") for part in parts if "=" in part)
    assert render(name, [part for part in parts if "=" not in part], named) == TEMPLATES[template]


def test_templates_of_disambiguation_pages_are_known():
    assert [is_disambiguation(name) for name in ("disambiguation", "hndis", "nowrap")] == [True, True, False]


@pytest.mark.parametrize(("limit", "groups"), [(10, [2, 1, 1]), (9, [1, 1, 1, 1]), (100, [4])])
def test_text_files_share_an_output_up_to_a_size(tmp_path, monkeypatch, limit, groups):
    monkeypatch.setattr(plan, "TEXT_BYTES_TOGETHER", limit)
    for name, size in (("a", 5), ("b", 5), ("c", 7), ("d", 12)):
        (tmp_path / f"{name}.txt").write_text("x" * size)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e.jsonl.gz").touch()
    jobs = plan_jobs(tmp_path)
    assert [job.name for job in jobs] == ["cleaned_sub__e.txt"] + [
        f"cleaned_text_00{n}.txt" for n in range(len(groups))
    ]
    assert [len(job.files) for job in jobs[1:]] == groups
    assert sum(job.size for job in jobs) == 29
    assert jobs[1].input_names == ("a.txt" if groups[0] == 1 else f"a.txt and {groups[0] - 1} more")


@pytest.mark.parametrize("change", ["name", "time", "start", "end", "size", None])
def test_a_changed_file_has_another_fingerprint(tmp_path, monkeypatch, change):
    monkeypatch.setattr(plan, "_SAMPLE_BYTES", 4)
    content = {"start": b"012X456789", "end": b"012345X789", "size": b"0123456789!"}.get(change, b"0123456789")
    found = []
    for folder, name, data, time in (("a", "f", b"0123456789", 5), ("b", "g" if change == "name" else "f", content, 5)):
        path = tmp_path / folder / f"{name}.jsonl"
        path.parent.mkdir()
        path.write_bytes(data)
        os.utime(path, ns=(time, 6 if change == "time" and folder == "b" else time))
        found.append(plan_jobs(path)[0].fingerprint)
    assert Counter(found).most_common(1)[0][1] == (2 if change is None else 1)
    assert {len(fingerprint) for fingerprint in found} == {32}


def shown(page: Page) -> str:
    facts = f"{page.title!r} redirect={page.is_redirect} disambiguation={page.is_disambiguation}"
    return "\n".join([f"{facts} rendered={page.is_rendered}", *map(str, page.blocks)]) + "\n"


WIKITEXT = """\
Lead ''it'' and ''''four'''' {{nobr|a b}} &amp; {{{argument|default}}}{{{none}}}.<br>Second line
same paragraph

 x = 1
   y = 2
 z = 3

[[Target#Part]] [[#Part]] [[Target|shown]] [[:Category:Shown]] [[category:hidden|x]] [[fr:Caché]] [[simple:x]]
http://bare.example [http://a.b] [http://a.b shown ''it'']
== Head ''one'' ==
=== Two ===
* one<br>more
** two
*# first
*# second
** three
*# again
# top
#: note
# next
; term
: told
*
----
{|
! a !! b
| c<br>d
|-
| 1 || [[x|2]]
|}
{{Infobox person|name=N|empty=|area={{convert|5|km2}}}}{{ Template:Taxobox | a = b}}
[[File:a.jpg|thumb|upright=1.2|200x100px|left|First|A [[linked]] caption]][[File:b.jpg]][[Image:c.png|thumb]]
<syntaxhighlight lang="c">
''kept''
</syntaxhighlight>
<poem>
line one
line two
</poem>
<blockquote>Quoted</blockquote><div>inline</div><div>
block
</div>x<sup>2+1</sup> y<sup>nd</sup> <math>a  =
b</math><references/><ref name=x/>
| leftover
}}
{{text|text=given|1=first|named=second}} {{lang|de|Haus}} {{hndis}}
"""


def test_every_kind_of_wikitext_is_read_as_approved():
    settings = dict.fromkeys(("tables", "infoboxes", "captions", "maths"), "keep")
    pages = []
    for config in (CleaningConfig(**settings), CleaningConfig(**dict.fromkeys(settings, "drop"))):
        removed: Counter[str] = Counter()
        record = {"title": "T", "namespace": 0, "redirect": None, "wikitext": WIKITEXT}
        pages.append(shown(wiki_markup.read_page(record, Policy(config), removed)) + f"{sorted(removed.items())}\n")
    assert_expected("wikitext.txt", "\n".join(pages))


def item(value: str | None, *parts: dict[str, object], kind: str = "list_item") -> dict[str, object]:
    return {"type": kind, "value": value, "has_parts": list(parts)}


def test_every_kind_of_structured_part_is_read_as_approved():
    nested = item("two\nlines", item("deep", kind="list_item"), item(None, item("inner"), kind="unordered_list"))
    cited = {
        "type": "paragraph",
        "value": "Said[1] so, Award -winning.",
        "citations": [{"text": "[1]"}, {"text": "x"}, {}],
    }
    cited |= {"links": [{"text": "Award"}, {}], "table_references": [{"identifier": "t1"}, {"identifier": "none"}]}
    parts = [
        cited,
        {"type": "paragraph", "values": ["a", 1]},
        {"type": "paragraph", "value": 1905},
        {"type": "ordered_list", "value": "Intro", "has_parts": [nested, item("b"), item("", item("child"))]},
        {
            "type": "definition_list",
            "has_parts": [item("term", kind="definition_term"), item("told", kind="definition")],
        },
        item("alone", {"type": "image", "value": "x"}),
        {"type": "code", "value": "a  = [1]"},
        {"type": "table", "headers": [["h", {"value": "i  j"}]], "rows": [[1, 2], "no row"], "footers": [["f"]]},
        {"type": "table", "value": "v", "has_parts": [{"value": "w"}]},
        {"type": "image", "caption": "Caption"},
        {"type": "video", "value": "Film"},
        {
            "type": "infobox",
            "has_parts": [{"type": "field", "name": "n", "value": "v"}, {"type": "field", "value": "w"}],
        },
        {"type": "infobox", "has_parts": [{"type": "field", "name": "empty"}]},
        {"type": "odd", "value": "Odd", "has_parts": [{"type": "paragraph", "value": "inside"}]},
        {"type": "section", "name": "Abstract", "has_parts": [{"type": "section", "name": "Deep", "has_parts": []}]},
    ]
    record = {
        "name": "N",
        "abstract": "About.",
        "sections": [
            {"type": "section", "name": "Abstract", "value": "Own", "has_parts": parts[:2]},
            {"type": "section", "name": "Other", "has_parts": parts[2:]},
        ],
        "tables": json.dumps([{"identifier": "t1", "rows": [["one"]]}, {"identifier": "t2", "rows": [["two"]]}]),
        "infoboxes": {"type": "infobox", "has_parts": [{"type": "field", "name": "top", "value": "box"}]},
    }
    unknown: Counter[str] = Counter()
    text = shown(structured_contents.read_page(record, unknown)) + f"{dict(unknown)}\n"
    assert_expected("structured.txt", text)


MAY_REFER = {"type": "paragraph", "value": "T may refer to:"}


@pytest.mark.parametrize(
    ("record", "redirect", "disambiguation"),
    [
        ({"abstract": "REDIRECT B"}, True, False),
        ({"abstract": "# REDIRECT B"}, True, False),
        ({"abstract": "No REDIRECT"}, False, False),
        ({"sections": [{"type": "section", "name": "H", "value": "- REDIRECT B"}]}, True, False),
        ({"name": "T (disambiguation)", "sections": []}, False, True),
        ({"sections": [], "description": "Topics referred to by the same term"}, False, True),
        ({"sections": [MAY_REFER, {"type": "list", "has_parts": [item("a")]}]}, False, True),
        ({"sections": [MAY_REFER]}, False, False),
        (
            {"sections": [{"type": "paragraph", "value": "T is."}, {"type": "list", "has_parts": [item("a")]}]},
            False,
            False,
        ),
        ({"sections": [], "tables": [], "name": ""}, False, False),
    ],
)
def test_structured_redirects_and_disambiguations_are_known(record, redirect, disambiguation):
    assert structured_contents.is_structured(record)
    page = structured_contents.read_page(record, Counter())
    assert (page.is_redirect, page.is_disambiguation) == (redirect, disambiguation)


def test_only_short_introductions_make_a_disambiguation():
    for length, expected in ((199, True), (200, False)):
        text = "x" * (length - 15) + ". May refer to:".replace("M", "m")
        assert len(text) == length
        sections = [{"type": "paragraph", "value": text}, {"type": "list", "has_parts": [item("a")]}]
        assert structured_contents.read_page({"sections": sections}, Counter()).is_disambiguation == expected


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"sections": [1]}, "sections is not a list"),
        ({"sections": 5}, "sections"),
        ({"sections": [], "name": 5}, "name is of type int"),
    ],
)
def test_structured_records_of_another_shape_are_malformed(record, said):
    with pytest.raises(ValueError, match=said):
        structured_contents.read_page(record, Counter())
