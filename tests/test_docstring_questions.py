"""Conversations from docstrings: short questions and answers, deterministic."""

import json

from pipeline.demo.docstring_questions import write_conversations


def section(name, text):
    return {"type": "section", "name": name, "has_parts": [{"type": "paragraph", "value": text}]}


ARTICLES = [
    {
        "name": "textwrap",
        "abstract": "A help topic or a module: no question is asked about it.",
        "sections": [section("dedent(text)", "Not asked for, as modules without a dot are left out.")],
    },
    {
        "name": "string.Template",
        "abstract": "A string class for supporting $-substitutions.",
        "sections": [
            section("substitute(self, mapping)", "Replaces every placeholder by its value in the mapping."),
            section("Notes", "This is prose and no function, though it is long enough."),
            section("short(self)", "Too short."),
        ],
    },
    {"name": "string._Private", "abstract": "Nobody asks about what is private to a module.", "sections": []},
]


def test_documented_names_become_questions_with_signatures(tmp_path):
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(article) + "\n" for article in ARTICLES))
    assert write_conversations(tmp_path, tmp_path / "chats") == 2
    texts = [json.loads(line)["conversations"] for line in (tmp_path / "chats").read_text().splitlines()]
    texts.sort(key=len)
    assert texts[0][1:] == ["A string class for supporting $-substitutions."]
    assert "string.Template" in texts[0][0]
    assert texts[1][1:] == [
        "Replaces every placeholder by its value in the mapping.",
        "How do I call it?",
        "string.Template.substitute(self, mapping)",
    ]
    first = (tmp_path / "chats").read_bytes()
    write_conversations(tmp_path, tmp_path / "chats")
    assert (tmp_path / "chats").read_bytes() == first
    assert write_conversations(tmp_path, tmp_path / "chats", limit=1) == 1
