"""pipeline/formats/raw_files.py: every format and compression gives the same records, and damage is reported."""

import bz2
import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.formats import raw_files
from pipeline.formats.raw_files import RawFile, find_raw_files
from pipeline.preparation.input_shards import record_shards
from utils.errors import PipelineError

ARTICLES = [{"title": f"Article {i}", "text": f"Montréal ☃ {i}\n\nsecond\u2028line"} for i in range(200)]
JSON_LINES = "".join(json.dumps(record, ensure_ascii=i % 2 == 0) + "\n" for i, record in enumerate(ARTICLES)).encode()
PAGE = "<page><title>{}</title><ns>{}</ns>{}<revision><text>old</text></revision>"
PAGE += "<revision><text>{}</text></revision></page>"


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        sink = io.BytesIO()
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):  # two frames, as parallel compressors write
            sink.write(pa.compress(half, codec="zstd", asbytes=True))
        return sink.getvalue()
    return {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix](data)


def read(path, **options) -> list:
    with RawFile(path) as file:
        return list(file.records(**options))


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zst"])
def test_json_lines_in_every_compression(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(JSON_LINES, suffix))
    with RawFile(path) as file:
        records = list(file.records())
        assert file.position == file.size
    assert [record.value for record in records] == ARTICLES
    assert [record.number for record in records] == list(range(1, 201))
    assert [record.value for record in read(path, start=150)] == ARTICLES[150:]


def test_parquet_rows_columns_and_start(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(ARTICLES), path, row_group_size=70)
    assert [record.value for record in read(path)] == ARTICLES
    assert [record.number for record in read(path, start=71)] == list(range(72, 201))
    assert read(path, columns=["text", "missing"])[3].value == {"text": ARTICLES[3]["text"]}


def test_non_object_lines_are_reported(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        b"\xef\xbb\xbf" + b'{"text": "bom"}',
        b'{"text": ',
        b"",
        b"[1]",
        b'{"text": "\\ud800"}',
        b"\xff\xfe",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":1}',
    ]
    path.write_bytes(b"\r\n".join(lines))
    records = read(path)
    assert [record.number for record in records] == [1, 2, 4, 5, 6, 7, 8]
    assert [bool(record.problem) for record in records] == [False, True, True, True, True, True, False]
    assert records[0].value == {"text": "bom"}
    assert records[1].problem.startswith("not JSON: ")
    assert records[2].problem == "a JSON list, expected an object"
    assert records[4].problem == "not UTF-8: invalid start byte at byte 0"


def test_overlong_line_is_reported_and_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "MAX_LINE_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 1000}) + '\n{"text": "short"}\n')
    first, second = read(path)
    assert "longer than 100 B" in first.problem
    assert (second.number, second.value) == (2, {"text": "short"})


@pytest.mark.parametrize("namespace", [' xmlns="http://www.mediawiki.org/xml/export-0.10/"', ""])
@pytest.mark.parametrize("suffix", ["", ".bz2"])
def test_mediawiki_pages(tmp_path, suffix, namespace):
    pages = PAGE.format("A &amp; B", 0, "", "new &lt;b&gt;") + PAGE.format(
        "Talk:A", 1, '<redirect title="B"/>', "#REDIRECT"
    )
    path = tmp_path / f"dump.xml{suffix}"
    xml = f"<mediawiki{namespace}><siteinfo/>{pages}</mediawiki>"
    path.write_bytes(compress(xml.encode(), suffix))
    first, second = [record.value for record in read(path)]
    assert first == {"title": "A & B", "namespace": 0, "redirect": None, "wikitext": "new <b>"}
    assert (second["namespace"], second["redirect"]) == (1, "B")


def test_a_page_without_a_namespace_number_is_named(tmp_path):
    path = tmp_path / "dump.xml"
    path.write_text(f"<mediawiki>{PAGE.format('A', 'abc', '', 'x')}{PAGE.format('B', 0, '', 'y')}</mediawiki>")
    first, second = read(path)
    assert first.problem == "<ns> is 'abc', expected a number"
    assert "<title>A</title>" in first.excerpt
    assert second.value["wikitext"] == "y"


def test_xml_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "feed.xml"
    path.write_text("<rss><channel><item>text</item></channel></rss>")
    with pytest.raises(
        PipelineError, match=r"the root element is <rss>, and there is no <page>; expected a MediaWiki export"
    ):
        read(path)
    path.write_text("<mediawiki><siteinfo/></mediawiki>")
    assert read(path) == []


def test_text_files_whole_or_in_pieces(tmp_path, monkeypatch):
    path = tmp_path / "book.txt"
    text = "".join(f"Absatz {i} äöü\nnoch eine Zeile\n\n" for i in range(50))
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert [record.value for record in read(path)] == [{"text": text}]
    monkeypatch.setattr(raw_files, "TEXT_PIECE_BYTES", 200)
    pieces = [record.value["text"] for record in read(path)]
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert all(piece.endswith("\n\n") for piece in pieces)
    path.write_text("ä😀" * 5000, encoding="utf-8")
    assert "".join(record.value["text"] for record in read(path)) == "ä😀" * 5000


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_truncated_file_is_damaged(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(JSON_LINES, suffix)[:-9])
    with pytest.raises(PipelineError, match=r"a\.jsonl\.\w+ is damaged .*; download the file again"):
        read(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.xml", "a.jsonl.gz"])
def test_file_with_the_wrong_extension_is_damaged(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"hello, this is something else entirely")
    with pytest.raises(PipelineError, match=f"{name} is damaged at the start"):
        read(path)


def test_a_flipped_byte_in_parquet_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["The quick brown fox"]})
    options = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    parquet.write_table(table, path, write_page_checksum=True, **options)
    assert read(path)[0].value == {"text": "The quick brown fox"}
    path.write_bytes(path.read_bytes().replace(b"brown", b"green", 1))
    with pytest.raises(PipelineError, match=r"a\.parquet is damaged at the start: .*checksum"):
        read(path)
    [shard] = record_shards([path], lambda fields: None)
    with pytest.raises(PipelineError, match=r"a\.parquet is not a Parquet file or is damaged: .*checksum"):
        list(shard.rows(0, None))


def test_finding_files(tmp_path):
    with pytest.raises(PipelineError, match="does not exist"):
        find_raw_files(tmp_path / "missing")
    with pytest.raises(PipelineError, match=r"contains nothing; expected \.jsonl"):
        find_raw_files(tmp_path)
    for name in ("b.jsonl", "a/x.md", ".cache/y.txt", "notes.pdf", "c.XML.BZ2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in find_raw_files(tmp_path)] == ["x.md", "b.jsonl", "c.XML.BZ2"]
    with pytest.raises(PipelineError, match="has an unknown format"):
        find_raw_files(tmp_path / "notes.pdf")


def test_the_pieces_of_a_dump_are_found(tmp_path):
    for name in ("a1.xml-p1p9.bz2", "a2.xml-p10p19", "a2.xml-p20p29.bz2.part", "index1.xml-pages.bz2"):
        (tmp_path / name).touch()
    assert [path.name for path in find_raw_files(tmp_path)] == ["a1.xml-p1p9.bz2", "a2.xml-p10p19"]
    assert raw_files.bare_name(tmp_path / "a1.xml-p1p9.bz2") == "a1-p1p9.xml"


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "dump.xml.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write('<mediawiki xmlns="http://x/">')
        for i in range(400):
            file.write(PAGE.format(i, 0, "", "wikitext " * 10_000))
        file.write("</mediawiki>")
    tracemalloc.start()
    with RawFile(path) as file:
        assert sum(1 for _ in file.records()) == 400
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20  # the dump is 36 MB


def test_a_line_as_long_as_allowed_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "MAX_LINE_BYTES", 20)
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": "x" * length}) for length in (7, 8, 30, 7)]
    assert [len(line) for line in lines] == [19, 20, 42, 19]
    path.write_text("\n".join(lines))
    problems = [(record.number, record.problem) for record in read(path)]
    assert problems == [(1, ""), (2, ""), (3, "longer than 20 B"), (4, "")]


@pytest.mark.parametrize("character", ["a", "é", "☃", "😀"])
@pytest.mark.parametrize("before", range(8))
def test_a_forced_cut_does_not_split_a_character(tmp_path, monkeypatch, character, before):
    monkeypatch.setattr(raw_files, "TEXT_PIECE_BYTES", 1)
    path = tmp_path / "a.txt"
    text = "x" * before + character * 6
    path.write_text(text, encoding="utf-8")
    records = read(path)
    assert [record.problem for record in records] == [""] * len(records)
    assert "".join(record.value["text"] for record in records) == text
    assert [record.number for record in read(path, start=1)] == list(range(2, len(records) + 1))


def test_pieces_of_text_end_at_blank_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "TEXT_PIECE_BYTES", 6)
    path = tmp_path / "a.txt"
    path.write_text("abc\n\ndef\n\nghijkl\nmno\n\np")
    assert [record.value["text"] for record in read(path)] == ["abc\n\ndef\n\n", "ghijkl\nmno\n\n", "p"]


def test_rows_of_some_groups_are_read_from_any_row(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"n": list(range(20)), "m": list(range(20))}), path, row_group_size=6)
    with path.open("rb") as stream, raw_files.ParquetRows(stream, at_once=4) as file:
        sizes = file.group_sizes
        assert len(sizes) == 4
        for start in range(21):
            rows = list(file.rows(["n", "x"], start=start))
            assert [(row.number, row.fields) for row in rows] == [(n + 1, {"n": n}) for n in range(start, 20)]
            assert [row.size for row in rows] == [sizes[n // 6] // (2 if n >= 18 else 6) for n in range(start, 20)]
        some = [row.fields["n"] for row in file.rows(None, start=2, first_group=1, last_group=3)]
        assert some == list(range(8, 18))
        assert sum(sizes) == sum(
            file._file.metadata.row_group(group).column(column).total_compressed_size
            for group in range(4)
            for column in range(2)
        )


def test_the_position_in_parquet_is_its_share_of_rows(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"n": [1, 2, 3, 4]}), path)
    with RawFile(path) as file:
        positions = [file.position for _ in file.records()]
        assert positions == [round(file.size * share) for share in (0.25, 0.5, 0.75, 1)]


@pytest.mark.parametrize(("stated", "number"), [("<ns>-2</ns>", -2), ("<ns> 14 </ns>", 14), ("", 0), ("<ns/>", 0)])
def test_namespaces_are_whole_numbers(tmp_path, stated, number):
    path = tmp_path / "dump.xml"
    path.write_text(f"<mediawiki><page><title>A</title>{stated}</page><page><redirect/></page></mediawiki>")
    first, second = [record.value for record in read(path)]
    assert first == {"title": "A", "namespace": number, "redirect": None, "wikitext": ""}
    assert (second["title"], second["redirect"]) == ("", "")
    assert [record.number for record in read(path, start=1)] == [2]


def test_damage_is_placed_after_the_last_record(tmp_path):
    path = tmp_path / "dump.xml"
    path.write_text("<mediawiki><page/><page/></mediawi")
    with pytest.raises(PipelineError, match="is damaged after record 2: "):
        read(path)


def test_other_files_in_a_folder_are_counted(tmp_path):
    for name in ("b.pdf", "a.png"):
        (tmp_path / name).touch()
    with pytest.raises(PipelineError, match=r"contains 2 files, such as a\.png; expected"):
        find_raw_files(tmp_path)
