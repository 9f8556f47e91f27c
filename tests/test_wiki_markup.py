"""pipeline/cleaning/wiki_markup.py: rendering wikitext."""

from collections import Counter
from dataclasses import replace

import pytest

from pipeline.cleaning import wiki_markup
from pipeline.cleaning.config import CleaningConfig
from pipeline.cleaning.policy import Policy, Removals

CONFIG = CleaningConfig(title="drop", min_characters=0)


def clean(source, **settings):
    policy, removals = Policy(replace(CONFIG, **settings)), Removals()
    record = {"title": "T", "namespace": 0, "redirect": None, "wikitext": source}
    return policy.apply(wiki_markup.read_page(record, policy, removals.parts), removals)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("'''Bold''' and ''italic'' l''''amour'' ", "Bold and italic l'amour"),
        ("[[Target]], [[Target|shown]], [[tree]]s, [[:fr:Montréal]]", "Target, shown, trees, fr:Montréal"),
        ("Text[[Category:Things]] [[fr:Chose]]", "Text"),
        ("[http://a.b shown] and [http://a.b]", "shown and"),
        ("one<ref>{{cite book|title=x}}</ref> two<ref name=a /> three", "one two three"),
        ("a<!-- [[hidden]] -->b<br/>c &mdash; &lt;ref&gt;", "ab\nc — <ref>"),
        ("It is {{convert|1300|mi|km}} and {{convert|3|to|5|km2}}.", "It is 1,300 miles and 3 to 5 km²."),
        ("Born {{birth date|1879|3|14}}; {{as of|2014|7|lc=y}}.", "Born March 14, 1879; as of July 2014."),
        ("({{IPAc-en|lang|ə|b}}; {{lang-fr|Montréal}})", "(/əb/; Montréal)"),
        ("Foo ({{unknown|x}}; born 1900) ({{unknown}}) ends.", "Foo (born 1900) ends."),
        ("{{val|6.24|e=18|u=C}}, {{chem|H|2|O}}, 10<sup>-3</sup> m<sup>2</sup>", "6.24×10^18 C, H2O, 10⁻³ m²"),
        ("Let <math>a < b</math> and <math>{{x}}</math>.", "Let $a < b$ and ${{x}}$."),
        ("[[File:a.jpg|thumb|200px|A [[linked]] caption]]Text", "Text"),
        ("Text\n{| class=x\n|-\n! a !! b\n|-\n| 1 || 2\n|}\nmore", "Text\n\nmore"),
        ("<gallery>\nFile:a.jpg|b\n</gallery>Text", "Text"),
        ("one\ntwo\n\nthree", "one two\n\nthree"),
        ("* a\n** b\n# x\n# y\n;term\n:told", "- a\n  - b\n1. x\n2. y\nterm\ntold"),
        (" if x:\n   y\n   z = a  + b", "if x:\n  y\n  z = a  + b"),
        (" only one indented line", "only one indented line"),
        ("<pre>\n{{kept}} <b>\n</pre>", "{{kept}} <b>"),
        ("{{unclosed\n\nText goes on.", "{{unclosed\n\nText goes on."),
        ("{{coord|1|2|N|3|4|E|display=title}}Text", "Text"),
        ("__NOTOC__Text", "Text"),
    ],
)
def test_source_becomes_text(source, text):
    assert clean(source) == text


def test_sections_by_level():
    source = (
        "Lead\n== A ==\n=== ''B'' ===\nb\n== See also ==\n* x\n=== C ===\nc\n== D ==\nd\n== References ==\n{{reflist}}"
    )
    assert clean(source) == "Lead\n\nA\n\nB\n\nb\n\nD\n\nd"


def test_dropped_parts_can_be_kept():
    source = "{{Infobox x|name=N|area={{convert|5|km2}}}}\n[[File:a.jpg|thumb|Said ''so'']]\n"
    source += "{|\n! a !! b\n|-\n| 1 || [[x|2]]\n|}"
    text = clean(source, infoboxes="keep", captions="keep", tables="keep")
    assert text == "name: N\narea: 5 km²\n\nSaid so\n\na | b\n1 | 2"
    assert clean("a <math>x</math> b", maths="drop") == "a b"


def test_page_kinds():
    policy = Policy(CONFIG)

    def page(**changes):
        record = {"title": "T", "namespace": 0, "redirect": None, "wikitext": "Text", **changes}
        return wiki_markup.read_page(record, policy, Counter())

    assert page(redirect="X").is_redirect
    assert page(wikitext=" #redirect [[X]]").is_redirect
    assert page(wikitext="May be: {{hndis|x}}").is_disambiguation
    assert page(title="X (disambiguation)").is_disambiguation
    assert not page(namespace=10).is_article
    assert page().is_article


def test_removals_are_counted():
    policy, removed = Policy(CONFIG), Counter()
    source = "a<ref>x</ref><ref name=b/> {{Infobox}} {{cn}} {{coord|1|2}} [[File:x.jpg]] <!-- c -->\n{|\n|a\n|}"
    wiki_markup.read_page({"title": "T", "namespace": 0, "redirect": None, "wikitext": source}, policy, removed)
    counts = {"reference": 2, "infobox": 1, "template": 1, "coordinates": 1, "caption": 1, "comment": 1, "table": 1}
    assert removed == counts
