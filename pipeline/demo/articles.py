"""The encyclopedia's articles: one per subject, lists, quizzes, stories, redirects and disambiguations.

for record in encyclopedia(read_tables(), num_characters=2_300_000, seed=0): …

The model must see a fact many times to learn it, and not right after the fact was already stated. So an article states
a fact once or twice, and most repetitions come from quizzes, which ask about facts from all tables in random order, in
the form of a conversation. A fact's held-out question never appears.
"""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pipeline.demo.conversations import UNKNOWN_ANSWER, training_unknowns
from pipeline.demo.records import Part, article, bullets, disambiguation, paragraph, redirect, section, table
from pipeline.demo.stories import tell_story
from pipeline.demo.tables import Fact, Table, with_article

STORY_SHARE = 0.10
QUIZ_LENGTH = 10
LIST_LENGTH = 20
UNKNOWN_SHARE = 0.07  # share of the questions in a quiz
SEE_ALSO_LENGTH = 3
NUM_REDIRECTS = 40


def encyclopedia(tables: Sequence[Table], *, num_characters: int, seed: int) -> list[Part]:
    """Records with about `num_characters` of cleaned text, in random order."""
    draw = random.Random(seed)
    records = list(_subjects(tables, draw)) + list(_lists(tables, draw))
    records += _until(num_characters * STORY_SHARE, _stories(draw))
    written = sum(map(text_length, records))
    records += _until(num_characters - written, _quizzes(tables, draw, seed))
    records += [*_redirects(tables, draw), *_disambiguations(tables)]
    draw.shuffle(records)
    return [record | {"identifier": number} for number, record in enumerate(records, 1)]


def text_length(part: Part) -> int:
    """The approximate number of characters left after cleaning, which drops tables and See-also sections."""
    if part.get("type") == "table" or part.get("name") == "See also":
        return 0
    children = part.get("sections") or part.get("has_parts") or []
    texts = len(str(part.get("value", ""))) + len(str(part.get("name", "")))
    return texts + sum(text_length(child) for child in children) if isinstance(children, list) else texts


def turn_text(question: str, answer: str) -> str:
    """A question and its answer as in the chat template; BOS and EOS are ids, never text."""
    return f"User: {question}\nAssistant: {answer}"


def _until(num_characters: float, records: Iterator[Part]) -> Iterator[Part]:
    """Take records until they have this many characters."""
    while num_characters > 0:
        record = next(records)
        num_characters -= text_length(record)
        yield record


def _subjects(tables: Sequence[Table], draw: random.Random) -> Iterator[Part]:
    for source in tables:
        for facts in source.facts_by_subject():
            yield _subject(source, facts, draw)


def _subject(source: Table, facts: list[Fact], draw: random.Random) -> Part:
    """An article about a row: an abstract with the answers, the other statements, a question for each fact, a table."""
    subject = facts[0].subject
    abstract = " ".join(fact.answer for fact in facts)
    more = [statement for fact in facts for statement in fact.statements[1:]]
    others = [row[0] for row in draw.sample(source.rows, min(SEE_ALSO_LENGTH, len(source.rows)))]
    cells = [[fact.relation.name.capitalize(), ", ".join(fact.values)] for fact in facts]
    parts = [section("Abstract", paragraph(abstract))]
    if more:
        parts.append(section("Facts", bullets(draw.sample(more, len(more)))))
    questions = [paragraph(turn_text(draw.choice(fact.questions), fact.answer)) for fact in facts]
    named = facts[0].relation.subject_form.format(subject=subject, a_subject=with_article(subject))
    parts.append(section(f"Questions about {named}", *questions))
    parts.append(section("Overview", table([source.noun.capitalize(), subject], cells)))
    parts.append(section("See also", bullets([title_of(other) for other in others])))
    return article(title_of(subject), parts, identifier=0, abstract=abstract, description=f"{source.title}: {subject}")


def title_of(subject: str) -> str:
    name = subject.removeprefix("the ").removeprefix("a ").removeprefix("an ")
    return name[0].upper() + name[1:]


def _lists(tables: Sequence[Table], draw: random.Random) -> Iterator[Part]:
    """Lists of each relation's statements in random order, a few dozen per article."""
    for source in tables:
        by_relation: dict[str, list[Fact]] = defaultdict(list)
        for fact in source.facts():
            by_relation[fact.relation.name].append(fact)
        for name, facts in by_relation.items():
            draw.shuffle(facts)
            for number, start in enumerate(range(0, len(facts), LIST_LENGTH), 1):
                lines = [draw.choice(fact.statements) for fact in facts[start : start + LIST_LENGTH]]
                abstract = f"This is part {number} of a list of facts. It is about {source.title.lower()}: {name}."
                parts = [section("Abstract", paragraph(abstract)), section("List", bullets(lines))]
                yield article(f"{source.title}: {name}, list {number}", parts, identifier=0)


def _stories(draw: random.Random) -> Iterator[Part]:
    told: set[str] = set()
    while True:
        story = tell_story(draw)
        if story.text not in told:
            told.add(story.text)
            parts = [paragraph(text) for text in story.paragraphs]
            yield article(story.title, [section("Abstract", *parts)], identifier=0, abstract=story.paragraphs[0])


def _quizzes(tables: Sequence[Table], draw: random.Random, seed: int) -> Iterator[Part]:
    """Endless quizzes: every round asks about every fact once, with new wordings in a new order."""
    turns = _quiz_turns(tables, draw, seed)
    for number in itertools.count(1):
        texts = [paragraph(turn_text(*turn)) for turn in itertools.islice(turns, QUIZ_LENGTH)]
        yield article(f"Quiz {number}", [section("Abstract", *texts)], identifier=0)


def _quiz_turns(tables: Sequence[Table], draw: random.Random, seed: int) -> Iterator[tuple[str, str]]:
    facts = [fact for source in tables for fact in source.facts()]
    unknowns = training_unknowns(tables, seed=seed)
    for round_number in itertools.count():
        draw.shuffle(facts)
        for fact in facts:
            if draw.random() < UNKNOWN_SHARE:
                yield draw.choice(unknowns), UNKNOWN_ANSWER
            yield fact.questions[(round_number + len(fact.subject)) % len(fact.questions)], fact.answer


def _redirects(tables: Sequence[Table], draw: random.Random) -> Iterator[Part]:
    subjects = [row[0] for source in tables for row in source.rows]
    for subject in draw.sample(subjects, NUM_REDIRECTS):
        yield redirect(f"{title_of(subject)} (article)", title_of(subject), identifier=0)


def _disambiguations(tables: Sequence[Table]) -> Iterator[Part]:
    """A disambiguation page for every title in more than one table, such as Mercury."""
    titles: dict[str, list[str]] = defaultdict(list)
    for source in tables:
        for row in source.rows:
            titles[title_of(row[0])].append(f"{title_of(row[0])}, a {source.noun}")
    for title, meanings in titles.items():
        if len(meanings) > 1:
            yield disambiguation(title, meanings, identifier=0)
