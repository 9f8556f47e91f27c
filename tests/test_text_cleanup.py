"""pipeline/cleaning/text_cleanup.py: leftover markup is removed, and other text is unchanged."""

from collections import Counter

import pytest

from pipeline.cleaning.policy import tidy
from pipeline.cleaning.text_cleanup import mend_spacing, without_markup


def mend(text):
    return tidy(mend_spacing(without_markup(text, Counter())))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("It ended.[1][23] Then[citation needed] more.[note 2]", "It ended. Then more."),
        ("{\\displaystyle E=mc^{2}} holds", "$E=mc^{2}$ holds"),
        ("{\\displaystyle {\\frac {a}{b}", "{\\displaystyle {\\frac {a}{b}"),
        ("See [[a|b]] and [[c]] {{cite|x{{y}}}}.", "See b and c."),
        ("[[File:x.png|thumb|a [[b]] c]]Text", "Text"),
        ("a<ref name=x>gone</ref> b<br />c &amp; <i>d</i>", "a b\nc & d"),
        ("Coordinates: 45°30′N 73°34′W\nText", "Text"),
        ("at 48°51′24″N 2°21′8″E\ufeff / \ufeff48.85°N 2.35°E\ufeff / 48.85; 2.35.", "at 48°51′24″N 2°21′8″E."),
        ("Safdie 's house , built ( 1967 ) .", "Safdie's house, built (1967)."),
        ("Montreal ( ; French: Montréal) () is", "Montreal (French: Montréal) is"),
        ("Text __NOTOC__more", "Text more"),
        ("It holds:Apples and pears", "It holds: Apples and pears"),
        ("He (a sculptor,) sang", "He (a sculptor) sang"),
        ("She (a painter;) sang", "She (a painter) sang"),
        ("Before\n{| class=x\n|-\n| cell\n|}\nafter", "Before\n\nafter"),
        ("the century.The French came", "the century. The French came"),
        ("thin\u2009space soft\u00adhyphen zero\u200bwidth nb\u00a0sp", "thin space softhyphen zerowidth nb sp"),
        ("thumb|A caption\nText", "Text"),
        ("''Iliad'' and '''bold'''", "Iliad and bold"),
        ("two  spaces", "two spaces"),
    ],
)
def test_leftovers_are_cleaned_up(before, after):
    assert mend(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "values[0] and matrix[1][2] = f(x)[3]",
        "A well-known word -- and another; said: yes (or no).",
        "मराठी ‌लिपी 👩‍👩‍👧 naïve 東京、日本。",
        "version 2.0, .NET and 3.5 ... goes on ... (see [x])",
        "temperatures of 26 to 27 °C (79 to 81 °F)",
        "a < b and c > d",
        "first line\n    indented  code\nlast",
    ],
)
def test_left_as_it_is(text):
    assert mend(text) == text


@pytest.mark.parametrize(
    "unit",
    ["(", "[[", "{{", "<ref>", " ", " \n", "[[File:a ", "{\\displaystyle ", "[//a", "<!--", "( ", "{|\n", "1°", "(;"],
)
def test_no_text_takes_more_than_linear_time(unit):
    # Quadratic rules took minutes here; the suite's timeout is the limit.
    mend(unit * (40_000 // len(unit)))


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("It ended.[1] Then[citation needed] more.[note 2]", {"citation mark": 3}),
        ("a<ref name=x>gone</ref> b <i>d</i>", {"reference": 1, "tag": 2}),
        ("Coordinates: 45°30′N 73°34′W\nText", {"coordinates": 1}),
        ("[[File:x.png|thumb|a]]Text {{cite|{{y}}}}", {"file link": 1, "template": 2}),
        ("{| class=x\n|}\nthumb|A caption", {"table": 1, "caption": 1}),
        ("a < b & c; [d] {e} |", {}),
    ],
)
def test_removed_parts_are_counted_by_kind(text, counts):
    removed = Counter()
    without_markup(text, removed)
    assert removed == counts
    assert 0 not in removed.values()
