"""Conversations for tuning and questions for the exam, from the same facts.

    conversations = training_conversations(tables, seed=0)      # {"messages": [{"role", "content"}, …]}
    questions = held_out_questions(tables, seed=0)              # for pipeline.evaluation.questions

Each fact holds out one of its relation's wordings: neither the articles nor the conversations ask for the fact in it.
The questions do, and they also ask about names that are in no table and no conversation.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pipeline.demo.stories import tell_story
from pipeline.demo.tables import Fact, Relation, Table, fill, with_article
from pipeline.demo.unknown_names import unknown_names

NUM_QUESTIONS = 300
NUM_UNKNOWN = 50
NUM_STORIES = 160
NUM_TRAINING_UNKNOWNS = 600
WORDINGS_PER_FACT = 2  # the articles have them all
SMALL_TALK_REPEATS = 4
FOLLOW_UPS = 0.25  # share of conversations with a second or third turn

UNKNOWN_ANSWER = "I do not know."
STORY_REQUESTS = (
    "Tell me a story about {}.",
    "Please tell me a story about {}.",
    "Can you tell me a story about {}?",
    "I would like a story about {}.",
)
SMALL_TALK = (
    ("Hello.", "Hello! Ask me something."),
    ("Hello!", "Hello! Ask me something."),
    ("Hi.", "Hello! Ask me something."),
    ("Good morning.", "Good morning! Ask me something."),
    ("Good evening.", "Good evening! Ask me something."),
    ("How are you?", "I am well, thank you. Ask me something."),
    ("Who are you?", "I am a small language model. I have read a tiny encyclopedia."),
    ("What are you?", "I am a small language model. I have read a tiny encyclopedia."),
    ("What is your name?", "I have no name. I am a small language model."),
    ("What can you do?", "I can answer short questions and tell small stories."),
    ("Can you help me?", "Yes. I can answer short questions and tell small stories."),
    ("What do you know?", "I know some facts about countries, elements, animals and other things."),
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Goodbye.", "Goodbye!"),
    ("Bye.", "Goodbye!"),
)

Turn = tuple[str, str]
Conversation = dict[str, list[dict[str, str]]]


def training_conversations(tables: Sequence[Table], *, seed: int) -> list[Conversation]:
    draw = random.Random(f"{seed} conversations")
    conversations = [*_about_facts(tables, draw), *_about_unknowns(tables, draw, seed), *_stories(draw)]
    conversations += [[turn] for turn in SMALL_TALK] * SMALL_TALK_REPEATS
    draw.shuffle(conversations)
    return [_messages(turns) for turns in conversations]


def training_unknowns(tables: Sequence[Table], *, seed: int) -> list[str]:
    """Questions about unknown names in known wordings."""
    draw = random.Random(f"{seed} unknowns")
    names = unknown_names(tables, seed=seed).for_training
    questions: dict[str, None] = {}
    while len(questions) < NUM_TRAINING_UNKNOWNS:
        source, relation = _draw_relation(tables, draw)
        questions[fill(draw.choice(relation.ask), names[source.unknown].draw(draw))] = None
    return list(questions)


def held_out_questions(tables: Sequence[Table], *, seed: int) -> list[dict[str, object]]:
    """300 random facts, 50 unknown ones, and the values of each relation, which count as rivals."""
    draw = random.Random(f"{seed} questions")
    facts = [fact for table in tables for fact in table.facts()]
    asked: list[dict[str, object]] = [
        {"question": fact.held_out, "answers": list(fact.values), "kind": fact.relation.kind}
        for fact in draw.sample(facts, NUM_QUESTIONS)
    ]
    return [*asked, *_unknown_questions(tables, draw, seed), *_values_by_kind(facts)]


def _unknown_questions(tables: Sequence[Table], draw: random.Random, seed: int) -> Iterator[dict[str, object]]:
    """Each name once, alternating between the lists, and between real and invented names."""
    names = unknown_names(tables, seed=seed).for_questions
    sources = [table for table in tables if table.unknown]
    for number in range(NUM_UNKNOWN):
        turn, place = divmod(number, len(sources))
        source = sources[place]
        listed = names[source.unknown].real if turn % 2 else names[source.unknown].invented
        question = fill(draw.choice(draw.choice(source.relations).ask), listed[turn // 2])
        yield {"question": question, "answers": [], "kind": "unknown", "unknown": True}


def _values_by_kind(facts: Sequence[Fact]) -> Iterator[dict[str, object]]:
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for fact in facts:
        values[fact.relation.kind].update(dict.fromkeys(fact.values))
    for kind, names in values.items():
        yield {"kind": kind, "rivals": list(names)}


def _draw_relation(tables: Sequence[Table], draw: random.Random) -> tuple[Table, Relation]:
    source = draw.choice([table for table in tables if table.unknown])
    return source, draw.choice(source.relations)


def _about_facts(tables: Sequence[Table], draw: random.Random) -> Iterator[list[Turn]]:
    """Every fact in some of its wordings; a few are followed by the same question about another subject."""
    for table in tables:
        by_relation: dict[Relation, list[Fact]] = defaultdict(list)
        for fact in table.facts():
            by_relation[fact.relation].append(fact)
        for relation, facts in by_relation.items():
            for fact in facts:
                for question in draw.sample(fact.questions, WORDINGS_PER_FACT):
                    turns = [(question, fact.answer)]
                    if draw.random() < FOLLOW_UPS:
                        others = draw.sample(facts, min(draw.choice((1, 1, 2)), len(facts)))
                        turns += [(follow_up(relation, other.subject), other.answer) for other in others]
                    yield turns


def follow_up(relation: Relation, subject: str) -> str:
    """``And of Spain?`` after ``What is the capital of France?``"""
    name = relation.subject_form
    return fill(f"And of {name}?" if f" of {name}" in relation.ask[0] else f"And {name}?", subject)


def _about_unknowns(tables: Sequence[Table], draw: random.Random, seed: int) -> Iterator[list[Turn]]:
    facts = [fact for table in tables for fact in table.facts()]
    for question in training_unknowns(tables, seed=seed):
        turns = [(question, UNKNOWN_ANSWER)]
        if draw.random() < FOLLOW_UPS:
            fact = draw.choice(facts)
            turns.insert(draw.randrange(2), (draw.choice(fact.questions), fact.answer))
        yield turns


def _stories(draw: random.Random) -> Iterator[list[Turn]]:
    for _ in range(NUM_STORIES):
        story = tell_story(draw)
        yield [(draw.choice(STORY_REQUESTS).format(with_article(story.subject)), story.text)]


def _messages(turns: Sequence[Turn]) -> Conversation:
    messages = []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}
