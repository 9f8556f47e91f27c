"""Questions and answers from the docstring corpus: what a class or function does, and how to call it.

num = write_conversations(Path("quickstart/raw"), Path("quickstart/conversations.jsonl"))
"""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from utils.files import write_text

MAX_CONVERSATIONS = 800
SHORTEST_ANSWER, LONGEST_ANSWER = 30, 260  # characters; a small model can learn only short answers
_QUESTIONS = ("What does {} do?", "What is {} for?", "Explain {}.", "Tell me about {}.")
_CALLABLE = re.compile(r"(\w+)(\(.*\))")


def write_conversations(raw_dir: Path, path: Path, *, limit: int = MAX_CONVERSATIONS) -> int:
    """Write up to `limit` conversations, one per line, and return their number. Deterministic for the same corpus."""
    found = [texts for file in sorted(raw_dir.glob("*.jsonl")) for texts in iter_conversations(file)]
    # Sorted by a checksum of the question, for a reproducible sample of the whole corpus.
    chosen = sorted(found, key=lambda texts: (zlib.crc32(texts[0].encode()), texts[0]))[:limit]
    write_text(path, "".join(json.dumps({"conversations": texts}, ensure_ascii=False) + "\n" for texts in chosen))
    return len(chosen)


def iter_conversations(file: Path) -> Iterator[list[str]]:
    """Alternating texts, starting with a question. For documented functions, a second turn shows how to call them."""
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
    """A paragraph of a line or two, or an empty string."""
    text = " ".join(paragraph.split())
    return text if SHORTEST_ANSWER <= len(text) <= LONGEST_ANSWER and text[0].isalpha() else ""
