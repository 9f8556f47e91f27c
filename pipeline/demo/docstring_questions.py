"""Questions and answers from the quickstart's corpus: what a class or function does, and how it is called.

num = write_conversations(Path("quickstart/raw"), Path("quickstart/conversations.jsonl"))
"""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from utils.files import write_text

MAX_CONVERSATIONS = 800
SHORTEST_ANSWER, LONGEST_ANSWER = 30, 260  # characters: a small model learns short answers
_QUESTIONS = ("What does {} do?", "What is {} for?", "Explain {}.", "Tell me about {}.")
_CALLABLE = re.compile(r"(\w+)(\(.*\))")


def write_conversations(raw_dir: Path, path: Path, *, limit: int = MAX_CONVERSATIONS) -> int:
    """Write up to `limit` conversations, one a line, and return how many; the same corpus gives the same bytes."""
    found = [texts for file in sorted(raw_dir.glob("*.jsonl")) for texts in iter_conversations(file)]
    # By a checksum of the question: a mix of the whole corpus, the same each time.
    chosen = sorted(found, key=lambda texts: (zlib.crc32(texts[0].encode()), texts[0]))[:limit]
    write_text(path, "".join(json.dumps({"conversations": texts}, ensure_ascii=False) + "\n" for texts in chosen))
    return len(chosen)


def iter_conversations(file: Path) -> Iterator[list[str]]:
    """Texts in turn, question first. A documented function's conversation continues with how it is called."""
    with file.open(encoding="utf-8") as lines:
        for article in map(json.loads, lines):
            if re.search(r"(^|\.)_", article["name"]) or "." not in article["name"]:  # private, or a help topic
                continue
            answer = _answer(article["abstract"])
            if answer:
                yield [_question(article["name"]), answer]
            for section in article["sections"]:
                match = _CALLABLE.fullmatch(section["name"])
                answer = _answer(next((part.get("value", "") for part in section["has_parts"]), ""))
                if match and answer:
                    name = f"{article['name']}.{match[1]}"
                    yield [_question(name), answer, "How do I call it?", f"{name}{match[2]}"]


def _question(name: str) -> str:
    return _QUESTIONS[zlib.crc32(name.encode()) % len(_QUESTIONS)].format(name)


def _answer(paragraph: str) -> str:
    """A paragraph that says something in a line or two, else an empty string."""
    text = " ".join(paragraph.split())
    return text if SHORTEST_ANSWER <= len(text) <= LONGEST_ANSWER and text[0].isalpha() else ""
