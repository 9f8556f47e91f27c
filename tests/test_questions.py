"""What counts as a correct answer, and how question files are read."""

import json
from dataclasses import replace

import pytest

from pipeline.demo.tables import read_tables
from pipeline.evaluation.questions import (
    Count,
    Question,
    admits,
    ask,
    format_score,
    is_right,
    read_questions,
    score,
    summary,
)
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.errors import PipelineError

FRANCE = Question("What is the capital of France?", ("Paris",), "capitals")
RIVALS = ("Paris", "Rome", "Madrid", "Mexico City", "Mexico")


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("The capital of France is Paris.", True),
        ("paris", True),
        ("It's PARIS!", True),
        ("The capital of France is Rome.", False),
        ("Paris, Rome and Madrid.", False),
        ("Parisian food is good.", False),
        ("I do not know.", False),
        ("", False),
    ],
)
def test_answers_match_whole_words(reply, expected):
    assert is_right(FRANCE, reply, RIVALS) is expected


def test_longer_answer_may_hold_a_rival():
    question = Question("What is the currency of Australia?", ("Australian dollar",))
    assert is_right(question, "It is the Australian dollar.", ("dollar", "euro"))


def test_a_rival_may_hold_the_answer():
    question = Question("What kind of element is tin?", ("metal",))
    rivals = ("metal", "alkali metal", "noble gas")
    assert is_right(question, "Tin is a metal.", rivals)
    assert not is_right(question, "Tin is an alkali metal.", rivals)


def test_words_of_the_question_are_not_rivals():
    question = Question("What is the opposite of hot?", ("cold",))
    assert is_right(question, "The opposite of hot is cold.", ("hot", "cold", "wet"))


def test_any_accepted_answer_is_enough():
    question = Question("Which countries border Mongolia?", ("China", "Russia"))
    assert is_right(question, "Mongolia borders Russia.", ("China", "Russia", "Spain"))


def test_articles_commas_and_punctuation_are_ignored():
    assert is_right(Question("What is in a kilometre?", ("1,000 metres",)), "1000 metres")
    assert is_right(Question("Where does a fox live?", ("a den",)), "In the den.")
    assert is_right(Question("The capital?", ("Washington, D.C.",)), "Washington D.C")


@pytest.mark.parametrize("reply", ["I do not know.", "I don't know", "Sorry, I don’t know.", "I have no idea."])
def test_admissions(reply):
    assert admits(reply)
    assert is_right(Question("Capital of Zornia?", (), unknown=True), reply)


def test_the_encyclopedia_own_answers_are_right():
    facts = [fact for table in read_tables() for fact in table.facts()]
    for kind in {fact.relation.kind for fact in facts}:
        group = [fact for fact in facts if fact.relation.kind == kind]
        rivals = {value for fact in group for value in fact.values}
        for fact, other in zip(group, group[1:] + group[:1], strict=True):
            question = Question(fact.held_out, fact.values, kind)
            assert is_right(question, fact.answer, rivals), fact.answer
            wrong = replace(fact, values=other.values).answer
            assert set(fact.values) & set(other.values) or not is_right(question, wrong, rivals), wrong


def test_a_guess_is_not_an_admission():
    assert not is_right(Question("Capital of Zornia?", (), unknown=True), "The capital of Zornia is Rome.")
    assert not admits("I know.")


def test_wilson_interval_against_published_values():
    assert Count(8, 10).interval() == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Count(0, 10).interval() == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_rivals_come_from_the_kind(tmp_path):
    records = [
        {"question": "Capital of France?", "answers": ["Paris"], "kind": "capitals"},
        {"question": "Capital of Zornia?", "unknown": True},
        {"kind": "capitals", "rivals": ["Oslo"]},
    ]
    questions = read_questions(write(tmp_path / "questions.jsonl", *records))
    assert questions.rivals["capitals"] == {"Paris", "Oslo"}
    result = score(questions, ["Paris or Oslo", "I do not know."])
    assert summary(result) == "0 of 1 held-out questions right, 1 of 1 unknown ones admitted"
    assert "capitals  0 of 1" in format_score(result)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "", "answers": ["Paris"]}, "`question` is ''"),
        ({"question": "Capital?", "answers": []}, "`answers` is"),
        ({"question": "Capital?"}, "`answers` is None"),
        ({"question": "Capital?", "answers": ["the"]}, "`answers` is"),
        ({"question": "Capital?", "unknown": "yes"}, "`unknown` is 'yes'"),
        ({}, "`kind` is None"),
    ],
)
def test_bad_line_is_named(tmp_path, record, message):
    with pytest.raises(PipelineError, match=f"questions.jsonl:1: {message}"):
        read_questions(write(tmp_path / "questions.jsonl", record))


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(PipelineError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(PipelineError, match="no questions"):
        read_questions(write(tmp_path / "empty.jsonl"))


def test_benchmark_scores_a_file_of_questions(tmp_path, capsys):
    import benchmark

    tokenizer = trained_tokenizer(tmp_path / "tokenizer")
    checkpoint = small_checkpoint(tmp_path / "run" / "checkpoint_best.pt", tokenizer, chat=True)
    file = write(
        tmp_path / "questions.jsonl", {"question": "Who?", "answers": ["me"]}, {"question": "?", "unknown": True}
    )
    settings = ["--set", f"paths.benchmark_dir={tmp_path}", "--tokenizer", str(tokenizer.directory), "--device", "cpu"]
    assert benchmark.main(["--checkpoint", f"small={checkpoint}", "--questions", str(file), *settings]) == 0
    assert "of 1 held-out questions right" in capsys.readouterr().out
    saved = json.loads(next(tmp_path.glob("questions_*.json")).read_text())
    assert [reply["question"] for reply in saved["small"]["replies"]] == ["Who?", "?"]


def test_a_base_model_is_not_asked(tmp_path):
    import benchmark

    tokenizer = trained_tokenizer(tmp_path / "tokenizer")
    checkpoint = small_checkpoint(tmp_path / "run" / "checkpoint_best.pt", tokenizer)
    file = write(tmp_path / "questions.jsonl", {"question": "Who?", "answers": ["me"]})
    with pytest.raises(PipelineError, match="is a base model"):
        benchmark.main(
            ["--checkpoint", str(checkpoint), "--questions", str(file), "--tokenizer", str(tokenizer.directory)]
        )


def test_a_model_answers_every_question(tmp_path):
    from model import load_model

    tokenizer = trained_tokenizer(tmp_path / "tokenizer")
    model = load_model(small_checkpoint(tmp_path / "run" / "checkpoint_best.pt", tokenizer, chat=True))
    replies = ask(model, tokenizer, [FRANCE, Question("Who?", ("me",))])
    assert len(replies) == 2
    assert replies == ask(model, tokenizer, [FRANCE, Question("Who?", ("me",))])
