"""Write the offline corpus of raw articles, conversations and questions, from tables of facts and a story grammar.

    python3 -m pipeline.demo.corpus FOLDER
    python3 -m pipeline.demo.corpus FOLDER --characters 3000000 --seed 1

FOLDER/raw/*.jsonl go through the stages like a Wikipedia dump; FOLDER/conversations.jsonl is for
lima_tokenizer.py --input, FOLDER/questions.jsonl for benchmark.py --questions. The output depends only on the seed.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.demo.articles import encyclopedia
from pipeline.demo.conversations import held_out_questions, training_conversations
from pipeline.demo.tables import read_tables
from utils.files import write_text

NUM_CHARACTERS = 2_300_000
NUM_FILES = 2  # so that several workers can clean them


@dataclass(frozen=True)
class Corpus:
    """The files and their counts."""

    raw: tuple[Path, ...]
    conversations: Path
    questions: Path
    num_articles: int
    num_conversations: int
    num_facts: int

    def summary(self) -> str:
        return f"{self.num_articles:,} articles, {self.num_conversations:,} conversations, {self.num_facts:,} facts"


def write_corpus(folder: Path, *, num_characters: int = NUM_CHARACTERS, seed: int = 0) -> Corpus:
    """Write everything below `folder`, replacing files of an earlier corpus."""
    tables = read_tables()
    records = encyclopedia(tables, num_characters=num_characters, seed=seed)
    conversations = training_conversations(tables, seed=seed)
    raw = tuple(folder / "raw" / f"enwiki_namespace_0_{number}.jsonl" for number in range(NUM_FILES))
    for number, path in enumerate(raw):
        _write_lines(path, records[number::NUM_FILES])
    _write_lines(folder / "conversations.jsonl", conversations)
    _write_lines(folder / "questions.jsonl", held_out_questions(tables, seed=seed))
    return Corpus(
        raw,
        folder / "conversations.jsonl",
        folder / "questions.jsonl",
        num_articles=len(records),
        num_conversations=len(conversations),
        num_facts=sum(1 for table in tables for _ in table.facts()),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--characters", type=int, default=NUM_CHARACTERS, help="approximate size of the cleaned text (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    print(write_corpus(args.folder, num_characters=args.characters, seed=args.seed).summary())
    return 0


def _write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


if __name__ == "__main__":
    sys.exit(main())
