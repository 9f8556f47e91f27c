"""pipeline/formats/cleaned_text.py: articles survive the round trip through a line."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.cleaned_text import from_line, printable_name, to_line, with_plain_newlines

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
BREAKS = st.text(alphabet=st.sampled_from("a \n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029é\0"))


@given(ANY_TEXT | BREAKS)
def test_every_text_comes_back_with_plain_newlines(text):
    assert from_line(to_line(text)) == with_plain_newlines(text)
    assert from_line(to_line(text) + "\n") == with_plain_newlines(text)


@given(ANY_TEXT | BREAKS)
def test_no_reader_cuts_a_line(text):
    line = to_line(text)
    assert "\n" not in line
    assert len(line.replace("\u2028", "").replace("\u2029", "").splitlines()) <= 1


def test_paragraphs_and_lines_have_their_own_characters():
    assert to_line("Title\n\nFirst\nsecond\n\n\nlast") == "Title\u2029First\u2028second\u2029\u2028last"


def test_foreign_line_breaks_become_newlines():
    assert with_plain_newlines("a\r\nb\rc\vd\fe\x85f\u2028g\u2029h") == "a\nb\nc\nd\ne\nf\ng\n\nh"


def test_line_count_is_article_count(tmp_path):
    articles = ["one\r\n\r\ntwo", "three\x0cfour", "\n", ""]
    path = tmp_path / "cleaned_x.txt"
    path.write_text("".join(to_line(article) + "\n" for article in articles), encoding="utf-8", newline="\n")
    assert path.read_bytes().count(b"\n") == len(articles)
    with path.open(encoding="utf-8", newline="\n") as lines:
        assert [from_line(line) for line in lines] == ["one\n\ntwo", "three\nfour", "\n", ""]


def test_file_names_that_are_not_utf8_can_be_printed():
    assert printable_name(Path(os.fsdecode(b"caf\xe9/\xc3\xa9.txt"))) == "caf%E9/é.txt"
