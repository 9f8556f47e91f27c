"""cleaner.py: what of an article stays, what is counted, and that no half file is ever taken for a whole one."""

import json
import os

import pytest

import cleaner
from utils.cleaned_files import cleaned_files
from utils.errors import PipelineError
from utils.text import from_line

LONG = "A sentence that is long enough to be more than a stub, with Unicode: Montréal, 東京, naïve — and so on. "


def part(kind, value=None, *parts, **more):
    fields = {"type": kind, "value": value, "has_parts": list(parts) or None, **more}
    return {key: content for key, content in fields.items() if content is not None}


def section(name, *parts):
    return part("section", None, *parts, name=name)


def article(name, *sections, **more):
    return {"name": name, "identifier": "1", "sections": list(sections), **more}


def write_jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in records)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def clean(tmp_path):
    """Cleans records; gives the articles and the report."""

    def run(records, *options, name="raw.jsonl"):
        write_jsonl(tmp_path / "raw" / name, records)
        return run_cleaner(tmp_path, *options)

    return run


def run_cleaner(tmp_path, *options):
    code = cleaner.main(["--input", str(tmp_path / "raw"), "--output", str(tmp_path / "out"), *options])
    assert code == 0
    return articles_of(tmp_path), json.loads((tmp_path / "out" / "cleaning_report.json").read_text())


def articles_of(tmp_path):
    articles = []
    for path in sorted((tmp_path / "out").glob("cleaned_*.txt")):
        with path.open(encoding="utf-8", newline="\n") as lines:
            articles += map(from_line, lines)
    return articles


def test_structured_article_keeps_title_headings_paragraphs_and_lists(clean):
    nested = part(
        "list",
        None,
        part("list_item", "one", part("ordered_list", None, part("list_item", "first"), part("list_item", "second"))),
        part("list_item", "two"),
    )
    raw = article(
        "Montréal",
        section("Abstract", part("paragraph", LONG), part("paragraph")),
        section("History", section("Early", section("Deep", part("paragraph", "Deep text.")), nested)),
    )
    articles, report = clean([raw])
    listed = "- one\n  1. first\n  2. second\n- two"
    assert articles == [f"Montréal\n\n{LONG.strip()}\n\nHistory\n\nEarly\n\nDeep\n\nDeep text.\n\n{listed}"]
    assert report["totals"]["articles"] == report["totals"]["read"] == 1


def test_code_like_text_keeps_its_lines_and_its_brackets(clean):
    code = "Usage::\n\n    >>> values[0] = f(x)[1]\n    {'a': {{1}}}\n\n  <tag> and  two  spaces"
    raw = article("bisect.insort", section("Abstract", part("paragraph", LONG), part("paragraph", code)))
    articles, _ = clean([raw], "--set", "cleaning.markup=false")
    assert articles[0].endswith(code)


def test_sections_go_with_all_below_them_and_are_counted(clean):
    raw = article(
        "A",
        section("Abstract", part("paragraph", LONG)),
        section(
            "see  also", part("list", None, part("list_item", "Other")), section("Below", part("paragraph", "gone"))
        ),
        section("Life", part("paragraph", "stays"), section("References", part("paragraph", "gone too"))),
        section("Empty"),
    )
    articles, report = clean([raw])
    assert articles == [f"A\n\n{LONG.strip()}\n\nLife\n\nstays"]
    assert report["totals"]["removed_parts"] == {"section See also": 1, "section References": 1}


def test_articles_are_left_out_by_reason(clean):
    redirect = section("Abstract", part("list", None, part("list_item", "REDIRECT Other page")))
    may_refer = section(
        "Abstract", part("paragraph", "Mercury may refer to:"), part("list", None, part("list_item", LONG * 3))
    )
    records = [
        article("Redirect", redirect, abstract="REDIRECT Other page"),
        article("Mercury", may_refer),
        article("X (disambiguation)", section("Abstract", part("paragraph", LONG))),
        article("Empty", section("Abstract")),
        article("Short", section("Abstract", part("paragraph", "Too short."))),
        article("Good", section("Abstract", part("paragraph", LONG))),
        {"title": "Plain", "text": "#REDIRECT [[Elsewhere]]"},
    ]
    articles, report = clean(records)
    assert articles == [f"Good\n\n{LONG.strip()}"]
    assert report["totals"]["removed_articles"] == {"redirect": 2, "disambiguation": 2, "empty": 1, "stub": 1}


def test_rules_are_configurable(clean):
    records = [article("X (disambiguation)", section("Abstract", part("paragraph", "Short.")))]
    settings = ["cleaning.disambiguations=keep", "cleaning.min_characters=0", "cleaning.title=drop"]
    articles, _ = clean(records, *(word for setting in settings for word in ("--set", setting)))
    assert articles == ["Short."]


def test_unknown_part_types_are_kept_and_counted(clean):
    raw = article("A", section("Abstract", part("hologram", LONG, part("paragraph", "inside"))))
    articles, report = clean([raw])
    assert articles == [f"A\n\n{LONG.strip()}\n\ninside"]
    assert report["totals"]["unknown_types"] == {"hologram": 1}


def test_article_sections_and_json_strings_are_read_too(clean):
    sections = [section("Abstract", part("paragraph", LONG))]
    records = [{"name": "A", "article_sections": sections}, {"name": "B", "sections": json.dumps(sections)}]
    articles, _ = clean(records)
    assert articles == [f"{name}\n\n{LONG.strip()}" for name in "AB"]


def test_plain_articles_end_where_their_references_begin(clean):
    text = f"{LONG}\n\nHistory\n\nIt was.\n\nReferences\n\nSmith, J. (1999).\n\nCategory:Things\nCategory:Others"
    articles, report = clean([{"name": "A", "text": text}, {"title": "B", "text": f"{LONG}\n\nCategory:Things"}])
    assert articles == [f"A\n\n{LONG.strip()}\n\nHistory\n\nIt was.", f"B\n\n{LONG.strip()}"]
    assert report["totals"]["removed_parts"] == {"section References": 1}


def test_malformed_lines_are_written_down_and_strict_stops(clean, tmp_path):
    good = article("Good", section("Abstract", part("paragraph", LONG)))
    records = [good, '{"name": "cut', good, {"title": "no text"}, {"name": "A", "sections": [1]}]
    articles, report = clean(records)
    assert len(articles) == 2
    assert report["totals"]["rejected"] == 3
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects" / "raw.jsonl").open()]
    assert [reject["line"] for reject in rejects] == [2, 4, 5]
    assert all(reject["file"].endswith("raw.jsonl") and reject["reason"] for reject in rejects)
    with pytest.raises(PipelineError, match=r"raw\.jsonl, record 2: not JSON"):
        clean([*records, good], "--strict")
    assert not list((tmp_path / "out").glob("cleaned_*.tmp"))


def test_a_missing_or_empty_raw_folder_is_one_clear_error(tmp_path):
    with pytest.raises(PipelineError, match="does not exist"):
        run_cleaner(tmp_path)
    (tmp_path / "raw").mkdir()
    with pytest.raises(PipelineError, match="holds nothing"):
        run_cleaner(tmp_path)


def test_a_done_file_is_not_done_again_until_input_limit_or_policy_change(clean, tmp_path):
    records = [article(str(i), section("Abstract", part("paragraph", LONG + str(i)))) for i in range(5)]
    output = tmp_path / "out" / "cleaned_raw.txt"
    test_run = ["--test", "--set", "cleaning.test_articles=3"]
    assert len(clean(records, *test_run)[0]) == 3
    with pytest.raises(PipelineError, match="from a test run"):
        cleaned_files(tmp_path / "out")
    assert cleaned_files(tmp_path / "out", test=True) == [output]
    first = output.stat().st_mtime_ns
    run_cleaner(tmp_path, *test_run)
    assert output.stat().st_mtime_ns == first
    assert len(run_cleaner(tmp_path)[0]) == 5
    assert cleaned_files(tmp_path / "out") == [output]
    whole = output.stat().st_mtime_ns
    run_cleaner(tmp_path, *test_run)  # a whole file is not replaced by its beginning
    assert output.stat().st_mtime_ns == whole
    assert run_cleaner(tmp_path, "--set", "cleaning.title=drop")[0][0].startswith("A sentence")
    os.utime(tmp_path / "raw" / "raw.jsonl", ns=(1, 1))
    changed = output.stat().st_mtime_ns
    run_cleaner(tmp_path, "--set", "cleaning.title=drop")
    assert output.stat().st_mtime_ns != changed


def test_an_unfinished_cleaning_is_not_complete(tmp_path):
    write_jsonl(tmp_path / "raw" / "a.jsonl", [article("A", section("Abstract", part("paragraph", LONG)))])
    (tmp_path / "raw" / "b.jsonl.gz").write_bytes(b"no gzip file")
    with pytest.raises(PipelineError, match=r"b\.jsonl\.gz is damaged"):
        run_cleaner(tmp_path)
    with pytest.raises(PipelineError, match="1 of 2 files are cleaned"):
        cleaned_files(tmp_path / "out")
    (tmp_path / "raw" / "b.jsonl.gz").unlink()
    assert len(run_cleaner(tmp_path)[0]) == 1
    path = cleaned_files(tmp_path / "out")[0]
    path.write_text("cut")
    with pytest.raises(PipelineError, match="the report says"):
        cleaned_files(tmp_path / "out")
