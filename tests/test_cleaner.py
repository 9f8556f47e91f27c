"""cleaner.py: what is kept and counted, and that partial files are never mistaken for complete ones."""

import bz2
import gzip
import json
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

import cleaner
from pipeline.configuration import CHECKOUT
from pipeline.formats.cleaned_text import cleaned_files, from_line
from pipeline.jobs.runner import claimed
from utils.errors import PipelineError

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
    lines = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def clean(tmp_path):
    """Clean records; returns the articles and the report."""

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


def test_removed_articles_are_counted_by_reason(clean):
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


def test_only_short_introductions_of_lists_are_disambiguations(clean):
    items = part("list", None, part("list_item", LONG))
    records = [
        article("No list", section("Abstract", part("paragraph", "Mercury may refer to:"), part("paragraph", LONG))),
        article("Long", section("Abstract", part("paragraph", f"{LONG * 3}It may refer to:"), items)),
    ]
    articles, report = clean(records)
    assert len(articles) == 2
    assert report["totals"]["removed_articles"] == {}


def test_values_that_are_numbers_become_text(clean):
    articles, _ = clean([article("A", section("Abstract", part("paragraph", LONG), part("paragraph", 1905)))])
    assert articles == [f"A\n\n{LONG.strip()}\n\n1905"]


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


def test_plain_articles_end_at_their_references(clean):
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
    assert [reject["text"] for reject in rejects] == records[1:2] + [json.dumps(record) for record in records[3:]]
    with pytest.raises(PipelineError, match=r"raw\.jsonl, record 2: not JSON"):
        clean([*records, good], "--strict")
    assert not list((tmp_path / "out").glob("cleaned_*.tmp"))


def test_a_missing_or_empty_raw_folder_is_one_clear_error(tmp_path):
    with pytest.raises(PipelineError, match="does not exist"):
        run_cleaner(tmp_path)
    (tmp_path / "raw").mkdir()
    with pytest.raises(PipelineError, match="contains nothing"):
        run_cleaner(tmp_path)


def test_finished_files_are_skipped_until_something_changes(clean, tmp_path):
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
    with pytest.raises(PipelineError, match="1 of 2 files have been cleaned"):
        cleaned_files(tmp_path / "out")
    (tmp_path / "raw" / "b.jsonl.gz").unlink()
    assert len(run_cleaner(tmp_path)[0]) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("cut"), "has 3 bytes, but the report says"),
        (lambda path: path.write_bytes(path.read_bytes().swapcase()), "has changed since it was cleaned"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_changed_output_is_noticed_and_made_again(clean, tmp_path, capsys, damage, message):
    record = article("A", section("Abstract", part("paragraph", LONG)))
    articles, _ = clean([record])
    damage(tmp_path / "out" / "cleaned_raw.txt")
    with pytest.raises(PipelineError, match=message):
        cleaned_files(tmp_path / "out")
    assert run_cleaner(tmp_path)[0] == articles
    assert message in capsys.readouterr().out


def test_a_copied_folder_is_still_complete(clean, tmp_path):
    clean([article("A", section("Abstract", part("paragraph", LONG)))])
    path = tmp_path / "out" / "cleaned_raw.txt"
    os.utime(path, ns=(1, 1))
    assert cleaned_files(tmp_path / "out") == [path]
    run_cleaner(tmp_path)
    assert path.stat().st_mtime_ns == 1


@pytest.mark.parametrize("content", ["{", '{"version": 2}', '{"version": 2, "files": 3}', "[" * 100_000])
def test_a_damaged_report_is_named(tmp_path, content):
    (tmp_path / "cleaning_report.json").write_text(content)
    with pytest.raises(PipelineError, match=r"cleaning_report\.json is .*; delete it and run: python3 cleaner\.py"):
        cleaned_files(tmp_path)


def test_only_the_cleaner_s_own_leftovers_are_removed(clean, tmp_path):
    (tmp_path / "out" / "rejects").mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = [".mydata.tmp", ".lock", "rejects/.mine.tmp", f".cleaned_raw.txt.{ended.pid}.tmp"]
    for name in names:
        (tmp_path / "out" / name).write_text("content")
    clean([article("A", section("Abstract", part("paragraph", LONG)))])
    assert [(tmp_path / "out" / name).exists() for name in names] == [True, True, True, False]
    assert (tmp_path / "out" / ".lock").read_text() == "content"


def test_the_cleaner_refuses_to_read_its_own_output(clean, tmp_path):
    clean([article("A", section("Abstract", part("paragraph", LONG))), "no JSON"])
    raw, out = tmp_path / "raw", tmp_path / "out"
    (tmp_path / "link").symlink_to(raw, target_is_directory=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.txt").symlink_to(out / "cleaned_raw.txt")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    for source, target in [
        (raw, raw),
        (raw, raw / "deep" / "cleaned"),
        (raw, tmp_path / "link"),
        (tmp_path / "link", raw),
        (out / "cleaned_raw.txt", out),
        (out / "rejects", out),
        (tmp_path / "notes", out),
    ]:
        with pytest.raises(PipelineError, match=r"own output|written by the cleaner"):
            cleaner.main(["--input", str(source), "--output", str(target)])
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert [path.name for path in raw.iterdir()] == ["raw.jsonl"]


def test_a_file_name_that_is_not_utf8_is_cleaned_too(clean, tmp_path):
    name = os.fsdecode(b"caf\xe9.jsonl")
    articles, report = clean([article("A", section("Abstract", part("paragraph", LONG))), "{"], name=name)
    assert len(articles) == 1
    assert list(report["files"]) == ["cleaned_caf%E9.txt"]
    assert "caf%E9.jsonl" in (tmp_path / "out" / "rejects" / "caf%E9.jsonl").read_text()
    assert len(run_cleaner(tmp_path)[0]) == 1


def test_input_without_a_usable_record_is_an_error(clean, tmp_path, capsys):
    with pytest.raises(PipelineError, match=r"record 1: not JSON.*; none of its 2 records are usable"):
        clean(["no", "JSON"])
    with pytest.raises(PipelineError, match="is incomplete"):
        cleaned_files(tmp_path / "out")
    with pytest.raises(PipelineError, match=r"raw contains no records; expected articles in raw\.jsonl"):
        clean([])
    assert "cleaned_raw.txt: 0 of 0 articles kept; raw.jsonl has no records" in capsys.readouterr().out


def test_every_kind_of_input_in_one_folder(tmp_path):
    raw = tmp_path / "raw"
    sections = [section("Abstract", part("paragraph", LONG))]
    write_jsonl(raw / "more" / "a.jsonl", [article("Jsonl", *sections)])
    (raw / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps({"title": "Gz", "text": LONG}).encode()))
    rows = [{"name": "Parquet", "sections": json.dumps(sections), "infoboxes": "", "tables": None, "license": "x"}]
    parquet.write_table(pa.Table.from_pylist(rows), raw / "c.parquet")
    parquet.write_table(pa.Table.from_pylist([{"id": "1", "title": "Plain", "text": LONG}]), raw / "d.parquet")
    page = f"<page><title>Xml</title><ns>0</ns><revision><text>'''X''' {LONG}</text></revision></page>"
    other = page.replace("<ns>0", "<ns>1")
    (raw / "e.xml.bz2").write_bytes(bz2.compress(f'<mediawiki xmlns="http://x/">{page}{other}</mediawiki>'.encode()))
    articles, report = run_cleaner(tmp_path)
    assert articles == [f"{name}\n\n{LONG.strip()}" for name in ("Gz", "Parquet", "Plain")] + [
        f"Xml\n\nX {LONG.strip()}",
        f"Jsonl\n\n{LONG.strip()}",
    ]
    assert list(report["files"])[-1] == "cleaned_more__a.txt"
    assert report["totals"]["removed_articles"] == {"no article": 1}


def test_own_text_stays_as_it_is(tmp_path):
    text = "# Notes\r\n\r\nReferences\r\n\r\n    x[1]  = <b>{{y}}</b>  \r\n\r\n\r\n" + LONG
    for name in ("one.txt", "two.md", "deep/three.txt"):
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    write_jsonl(tmp_path / "raw" / "web.jsonl", [{"text": text, "url": "https://example.org"}])
    articles, report = run_cleaner(tmp_path)
    assert articles == ["# Notes\n\nReferences\n\n    x[1]  = <b>{{y}}</b>\n\n" + LONG.strip()] * 4
    assert list(report["files"]) == ["cleaned_text_000.txt", "cleaned_web.txt"]


def test_two_files_of_one_name_are_refused(tmp_path):
    write_jsonl(tmp_path / "raw" / "a.jsonl", [])
    (tmp_path / "raw" / "a.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(PipelineError, match=r"a\.jsonl and a\.jsonl\.gz .* would both be written to cleaned_a\.txt"):
        run_cleaner(tmp_path)


def test_output_does_not_depend_on_the_workers(tmp_path):
    for name in "abc":
        records = [article(f"{name}{i}", section("Abstract", part("paragraph", LONG * (i + 1)))) for i in range(20)]
        write_jsonl(tmp_path / "raw" / f"{name}.jsonl", records)
    one = run_cleaner(tmp_path, "--workers", "1")
    for path in (tmp_path / "out").glob("*"):
        path.unlink()
    three = run_cleaner(tmp_path, "--workers", "3")
    for _, report in (one, three):
        del report["checksum"]
        for file in report["files"].values():
            del file["modified"]
    assert three == one


def test_dataset_ignores_files_from_other_input(clean, tmp_path, capsys):
    good = [article("Good", section("Abstract", part("paragraph", LONG)))]
    clean(good, name="old.jsonl")
    (tmp_path / "raw" / "old.jsonl").unlink()
    clean(good, name="new.jsonl")
    assert "cleaned_old.txt is not from this input" in capsys.readouterr().out
    assert cleaned_files(tmp_path / "out") == [tmp_path / "out" / "cleaned_new.txt"]


def test_users_own_cleaned_files_need_no_report(tmp_path):
    with pytest.raises(PipelineError, match=r"run: python3 cleaner\.py"):
        cleaned_files(tmp_path)
    (tmp_path / "cleaned_mine.txt").write_text("one\n")
    assert cleaned_files(tmp_path) == [tmp_path / "cleaned_mine.txt"]


def test_show_prints_before_and_after_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    gone = section("References", part("paragraph", "A book."))
    raw = article("Title", section("Abstract", part("paragraph", LONG)), gone)
    write_jsonl(tmp_path / "raw" / "a.jsonl", [article("Stub"), raw])
    assert cleaner.main(["--input", str(tmp_path / "raw"), "--output", str(tmp_path / "out"), "--show", "1"]) == 0
    out = capsys.readouterr().out
    assert "dropped, empty: Stub" in out
    lines = [line for line in out.splitlines() if "│" in line]
    assert any(line.startswith("[paragraph] A book.") and line.endswith("│") for line in lines)
    assert any(line.count("A sentence that is long") == 2 for line in lines)
    assert not (tmp_path / "out").exists()


def test_show_prints_a_screen_of_each_article_or_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write_jsonl(
        tmp_path / "a.jsonl", [article("Long", *(section(f"S{i}", part("paragraph", LONG)) for i in range(40)))]
    )
    shown = []
    for more in ([], ["--all"]):
        assert cleaner.main(["--input", str(tmp_path), "--show", "1", *more]) == 0
        shown.append(capsys.readouterr().out)
    assert len(shown[0].splitlines()) < 24
    assert "81 paragraphs before, 81 after;" in shown[0]
    assert "[section] S39" in shown[1]
    with pytest.raises(SystemExit):
        cleaner.main(["--all"])


def test_killed_at_work_it_leaves_nothing_that_looks_whole(tmp_path):
    sections = [section(f"S{i}", part("paragraph", LONG * 5)) for i in range(20)]
    write_jsonl(tmp_path / "raw" / "a.jsonl", [article("Done", *sections)])
    write_jsonl(tmp_path / "raw" / "b.jsonl", [article(f"A{i}", *sections) for i in range(1000)])
    command = [sys.executable, cleaner.__file__, "--input", tmp_path / "raw", "--output", tmp_path / "out"]
    output = tmp_path / "out" / "cleaned_b.txt"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(output.parent.glob(f".{output.name}.*.tmp")) and process.poll() is None:
            pass
        process.kill()
    assert not output.exists()
    with pytest.raises(PipelineError, match="is incomplete"):
        cleaned_files(tmp_path / "out", test=True)
    articles, report = run_cleaner(tmp_path)
    assert len(articles) == 1001
    assert report["complete"]


def test_workers_neither_see_ctrl_c_nor_outlive_their_parent(tmp_path):
    work = tmp_path / "work.py"
    work.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipeline.jobs.local_processes import LocalProcesses\n"
        "def work(report):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getppid(), signal.SIGKILL) if sys.argv[1:] else None\n"
        "    while report('here') is None and sys.argv[1:]: pass\n"
        "if __name__ == '__main__':\n"
        "    print(list(LocalProcesses(1, Path('.')).outcomes({'a': work, 'b': work}, print)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, work], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a here\nb here\n[('a', None), ('b', None)]\n", "")
    killed = subprocess.run([sys.executable, work, "kill"], env=environment, capture_output=True, text=True)
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, "")


def test_two_cleaners_in_one_folder_are_refused(tmp_path):
    def nothing():
        pass

    with (
        claimed(tmp_path, nothing),
        pytest.raises(PipelineError, match="is in use by another run"),
        claimed(tmp_path, nothing, patience=0),
    ):
        pass
    with claimed(tmp_path, nothing):
        pass


def test_real_articles(real_data, tmp_path):
    options = ["--output", str(tmp_path / "out")]
    assert cleaner.main(["--input", str(real_data / "structured_contents"), *options]) == 0
    not_again, first_montreal, second_montreal = articles_of(tmp_path)
    assert not_again.startswith("Not Again SU\n\nIntroduction:\n\nThe hashtag and student led organization #NotAgainSU")
    assert first_montreal.startswith(
        "Montreal\n\nMontreal (CA: /ˌ m ʌ n t r i ˈ ɔː l / MUN -tree-AWL; French: Montréal)"
    )
    assert "\n\nInternational relations\n\n" in first_montreal
    assert " 's " not in first_montreal + second_montreal
    assert cleaner.main(["--input", str(real_data / "wiki_text" / "enwiki_shortened.xml.bz2"), *options]) == 0
    totals = json.loads((tmp_path / "out" / "cleaning_report.json").read_text())["totals"]
    assert (totals["read"], totals["articles"]) == (206, 98)
    assert totals["removed_articles"] == {"redirect": 99, "disambiguation": 8, "no article": 1}
    cleaned = (tmp_path / "out" / "cleaned_enwiki_shortened.txt").read_text(encoding="utf-8")
    for leftover in ("[[", "<ref", "''", "Category:", "{|", "\u2029References\u2029"):
        assert leftover not in cleaned
