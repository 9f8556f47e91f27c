"""The tables of facts are well-formed, and no training text asks what the exam asks."""

import json
import random
import re
from collections import Counter

import pytest

from pipeline.demo.articles import encyclopedia, text_length
from pipeline.demo.conversations import (
    NUM_QUESTIONS,
    NUM_UNKNOWN,
    WORDINGS_PER_FACT,
    held_out_questions,
    training_conversations,
)
from pipeline.demo.corpus import write_corpus
from pipeline.demo.stories import ANIMALS, tell_story
from pipeline.demo.tables import join_words, read_table, read_tables
from pipeline.demo.unknown_names import REAL, unknown_names
from tests.expected_text import assert_expected
from utils.checksums import sha256_of
from utils.errors import PipelineError

CHARACTERS = 900_000
TABLES = read_tables()
FACTS = [fact for table in TABLES for fact in table.facts()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    write_corpus(path, num_characters=CHARACTERS)
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def values(section):
    return [part for part in section["has_parts"] if part["type"] == "paragraph"]


def training_text(folder):
    paths = [*sorted((folder / "raw").iterdir()), folder / "conversations.jsonl"]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def test_a_subject_has_one_answer_for_a_relation():
    counts = Counter((fact.relation.kind, fact.subject) for fact in FACTS)
    assert [key for key, count in counts.items() if count > 1] == []


def test_facts_have_no_stray_white_space():
    cells = [cell for table in TABLES for row in table.rows for value in row for cell in value.split("; ")]
    assert [cell for cell in cells if cell != cell.strip() or "|" in cell or "  " in cell] == []


def test_there_are_as_many_facts_as_promised():
    assert len(FACTS) >= 1500
    assert sum(fact.relation.table == "definitions" for fact in FACTS) >= 300


def test_no_two_definitions_are_alike():
    definitions = [fact.values for fact in FACTS if fact.relation.table == "definitions"]
    assert len(set(definitions)) == len(definitions)


def test_every_relation_can_be_asked_in_six_wordings():
    relations = [relation for table in TABLES for relation in table.relations]
    assert all(len(set(relation.ask)) == len(relation.ask) >= 6 for relation in relations)


def test_every_wording_names_its_subject():
    for table in TABLES:
        for relation in table.relations:
            wordings = (relation.answer, *relation.also, *relation.ask)
            assert all("subject}" in wording for wording in wordings), relation.kind
            assert all("value}" not in wording for wording in relation.ask), relation.kind


def test_neighbours_border_each_other():
    neighbours = {fact.subject: fact.values for fact in FACTS if fact.relation.name == "neighbours"}
    for subject, values in neighbours.items():
        assert all(subject in neighbours[value] for value in values if value in neighbours)


def test_days_and_months_go_round():
    for kind in ("days", "months"):
        following = {f.subject: f.values[0] for f in FACTS if f.relation.kind == f"{kind} next"}
        previous = {f.subject: f.values[0] for f in FACTS if f.relation.kind == f"{kind} previous"}
        assert all(previous[value] == subject for subject, value in following.items())


def test_symbols_and_numbers_are_unique():
    for name in ("symbol", "number"):
        values = [fact.values for fact in FACTS if fact.relation.kind == f"elements {name}"]
        assert len(set(values)) == len(values)


def test_a_table_without_a_wording_is_refused(tmp_path):
    path = tmp_path / "lakes.tsv"
    path.write_text("# source = s\n# licence = l\n# title = Lakes\n# noun = lake\nlake\tplace\nBaikal\tAsia\n")
    with pytest.raises(PipelineError, match=r"missing `# place.answer = …` for the column place"):
        read_table(path)


def test_a_table_without_a_licence_is_refused(tmp_path):
    path = tmp_path / "lakes.tsv"
    path.write_text("# source = s\n# title = Lakes\n# noun = lake\nlake\nBaikal\n")
    with pytest.raises(PipelineError, match="licence"):
        read_table(path)


def test_held_out_questions_are_never_trained_on(folder):
    text = training_text(folder)
    asked = {question["question"] for question in read_lines(folder / "questions.jsonl") if "question" in question}
    trained_on = set(re.findall(r'(?:User: |"role": "user", "content": ")(.*?)(?:\\n|")', text))
    assert {FACTS[0].questions[0], FACTS[-1].questions[0]} <= trained_on
    assert asked.isdisjoint(trained_on)


def test_every_wording_is_trained_on_with_other_subjects():
    for table in TABLES:
        for relation in table.relations:
            facts = [fact for fact in table.facts() if fact.relation == relation]
            wordings = range(len(relation.ask))
            trained_on = {wording for fact in facts for wording in wordings if wording != fact.held_out_index}
            assert trained_on == set(wordings), relation.kind


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unknown_names_are_never_trained_on(seed):
    records = [*encyclopedia(TABLES, num_characters=CHARACTERS, seed=seed), *training_conversations(TABLES, seed=seed)]
    text = json.dumps(records, ensure_ascii=False).lower()
    names = unknown_names(TABLES, seed=seed)
    asked = [record["question"] for record in held_out_questions(TABLES, seed=seed) if record.get("unknown")]
    listed = [name for names in names.for_questions.values() for name in (*names.real, *names.invented)]
    used = [name for name in listed if any(name.lower() in question.lower() for question in asked)]
    assert len(used) >= NUM_UNKNOWN
    assert [name for name in used if name.lower() in text and re.search(rf"\b{name.lower()}[?: ]", text)] == []


def test_unknown_names_are_not_in_tables():
    known = {row[0].lower() for table in TABLES for row in table.rows}
    listed = [name.lower() for names in REAL.values() for name in names.split("; ")]
    assert known.isdisjoint(listed)


def test_questions_are_300_and_50_all_different():
    asked = [record for record in held_out_questions(TABLES, seed=0) if "question" in record]
    assert Counter(bool(record.get("unknown")) for record in asked) == {False: NUM_QUESTIONS, True: NUM_UNKNOWN}
    assert len({record["question"] for record in asked}) == len(asked)


def test_some_conversations_have_several_turns():
    lengths = Counter(len(record["messages"]) for record in training_conversations(TABLES, seed=0))
    assert lengths[2] > lengths[4] > lengths[6] > 0


def test_every_fact_is_asked_in_several_wordings():
    asked = {message["content"] for record in training_conversations(TABLES, seed=0) for message in record["messages"]}
    assert all(len(asked & set(fact.questions)) >= WORDINGS_PER_FACT for fact in FACTS)


def test_same_seed_gives_the_same_bytes(folder, tmp_path):
    corpus = write_corpus(tmp_path, num_characters=CHARACTERS)
    assert corpus.num_facts == len(FACTS)
    assert corpus.num_articles == sum(len(read_lines(path)) for path in corpus.raw)
    assert corpus.num_conversations == len(read_lines(corpus.conversations))
    for path in sorted(folder.rglob("*.jsonl")):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_another_seed_gives_other_text(folder, tmp_path):
    write_corpus(tmp_path, num_characters=CHARACTERS, seed=1)
    assert training_text(tmp_path) != training_text(folder)


def test_the_corpus_has_the_size_asked_for(folder):
    records = [record for path in (folder / "raw").iterdir() for record in read_lines(path)]
    assert CHARACTERS <= sum(map(text_length, records)) < 1.1 * CHARACTERS


def test_articles_state_every_fact(folder):
    records = [record for path in (folder / "raw").iterdir() for record in read_lines(path)]
    paragraphs = [part["value"] for record in records for section in record["sections"] for part in values(section)]
    answered = {paragraph.partition("\nAssistant: ")[2] for paragraph in paragraphs}
    assert {fact.answer for fact in FACTS} <= answered


def test_stories_give_a_colour_once():
    for seed in range(100):
        text = tell_story(random.Random(seed)).text
        assert all(text.count(f" {colour} ") <= 1 for colour in ("red", "golden", "striped")), text


def test_lost_things_are_found_in_stories():
    for seed in range(300):
        story = tell_story(random.Random(seed))
        assert story.text.count(story.subject) >= 2
        others = [name for name in ANIMALS if f"the {name}" in story.text and name != story.subject]
        assert len(others) <= 1


def test_the_corpus_is_the_one_that_scores_were_measured_on(folder):
    sums = {path.relative_to(folder): sha256_of(path) for path in sorted(folder.rglob("*.jsonl"))}
    assert_expected("demo_corpus.txt", "".join(f"{sha256}  {path}\n" for path, sha256 in sums.items()))


def test_values_are_listed_as_in_a_sentence():
    assert [join_words(words) for words in (("a",), ("a", "b"), ("a", "b", "c"))] == ["a", "a and b", "a, b and c"]
