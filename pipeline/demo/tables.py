"""The tables of facts in `facts/*.tsv`, and the wordings used to state and ask each fact.

    tables = read_tables()
    facts = [fact for table in tables for fact in table.facts()]

Each table is one file, so to add a table, add a file. Its header has the source of the facts and their wordings:

    # title = Countries
    # capital.answer = The capital of {subject} is {value}.     the statement, which is also the answer
    # capital.also = {value} is the capital of {subject}.       another statement
    # capital.ask = What is the capital of {subject}?           a question; there are several

The column names and the rows follow, separated by tabs. Several values in a cell are separated by "; ", and an empty
cell means no fact. In a wording, `{a_subject}` and `{a_value}` add "a" or "an".

For each fact, one of its relation's questions is held out; which one varies by row. A model trained on the rest has
read the fact and has seen the wording with other subjects, but never the two together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from utils.errors import PipelineError

FACTS = Path(__file__).parent / "facts"
WORDINGS = ("answer", "also", "ask")
REQUIRED = ("source", "licence", "title", "noun")


@dataclass(frozen=True)
class Relation:
    """A column of a table and its wordings."""

    table: str
    name: str
    answer: str
    also: tuple[str, ...]
    ask: tuple[str, ...]

    @property
    def subject_form(self) -> str:
        """The placeholder for the subject in its questions: ``{subject}`` or ``{a_subject}``."""
        return "{a_subject}" if "{a_subject}" in self.ask[0] else "{subject}"

    @property
    def kind(self) -> str:
        """``countries capital``: the kind under which its questions are counted."""
        return f"{self.table} {self.name}"


@dataclass(frozen=True)
class Fact:
    """One subject, one relation, and its values.

    Args:
        held_out_index: the question of the relation that is never trained on.
    """

    relation: Relation
    subject: str
    values: tuple[str, ...]
    held_out_index: int

    def word(self, wording: str) -> str:
        return fill(wording, self.subject, join_words(self.values))

    @property
    def answer(self) -> str:
        return self.word(self.relation.answer)

    @property
    def statements(self) -> list[str]:
        return [self.answer, *(self.word(wording) for wording in self.relation.also)]

    @property
    def questions(self) -> list[str]:
        """Those to train on."""
        return [self.word(wording) for number, wording in enumerate(self.relation.ask) if number != self.held_out_index]

    @property
    def held_out(self) -> str:
        return self.word(self.relation.ask[self.held_out_index])


@dataclass(frozen=True)
class Table:
    """A file of facts. `rows` are the cells by column; the first column is the subject."""

    name: str
    title: str
    noun: str
    source: str
    licence: str
    unknown: str  # the list in `unknown_names.py` for unanswerable questions, or ""
    relations: tuple[Relation, ...]
    rows: tuple[tuple[str, ...], ...]

    def facts_by_subject(self) -> Iterator[list[Fact]]:
        """The facts of each row that has any."""
        for number, row in enumerate(self.rows):
            facts = [
                Fact(relation, row[0], tuple(cell.split("; ")), held_out_index=(number + column) % len(relation.ask))
                for column, (relation, cell) in enumerate(zip(self.relations, row[1:], strict=True))
                if cell
            ]
            if facts:
                yield facts

    def facts(self) -> Iterator[Fact]:
        for facts in self.facts_by_subject():
            yield from facts


@cache
def read_tables(folder: Path = FACTS) -> tuple[Table, ...]:
    return tuple(read_table(path) for path in sorted(folder.glob("*.tsv")))


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        PipelineError: a header or a wording is missing, or a row has too many cells.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    header: dict[str, list[str]] = {}
    for line in lines:
        key, equals, value = line.removeprefix("#").partition(" = ")
        if line.startswith("#") and equals:
            header.setdefault(key.strip(), []).append(value.strip())
    if missing := [key for key in REQUIRED if key not in header]:
        raise PipelineError(f"{path}: missing `# {missing[0]} = …` in the header")
    columns, *rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return Table(
        name=path.stem,
        **{key: header[key][0] for key in REQUIRED},
        unknown=header.get("unknown", [""])[0],
        relations=tuple(_relation(path, name, header) for name in columns[1:]),
        rows=tuple(_padded(path, row, len(columns)) for row in rows),
    )


def fill(wording: str, subject: str, value: str = "") -> str:
    """The sentence with a capital first letter."""
    text = wording.format(
        subject=subject, value=value, a_subject=with_article(subject), a_value=with_article(value or "thing")
    )
    return text[0].upper() + text[1:]


def with_article(words: str) -> str:
    return f"an {words}" if words[0].lower() in "aeiou" and not words.startswith(("eu", "uni")) else f"a {words}"


def join_words(words: tuple[str, ...]) -> str:
    """``a``, ``a and b``, ``a, b and c``"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _relation(path: Path, name: str, header: dict[str, list[str]]) -> Relation:
    found = {wording: tuple(header.get(f"{name}.{wording}", ())) for wording in WORDINGS}
    for wording in ("answer", "ask"):
        if not found[wording]:
            raise PipelineError(f"{path}: missing `# {name}.{wording} = …` for the column {name}")
    return Relation(path.stem, name, found["answer"][0], found["also"], found["ask"])


def _padded(path: Path, row: list[str], length: int) -> tuple[str, ...]:
    if len(row) > length:
        raise PipelineError(f"{path}: the row of {row[0]} has {len(row)} cells; expected {length}")
    return tuple(row + [""] * (length - len(row)))
