"""Parts of the evaluation with fakes: completion, speed, contamination, questions, and tokenized conversations."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.evaluation import completion, speed
from pipeline.evaluation.contamination import contamination
from pipeline.evaluation.hellaswag import HellaSwag
from pipeline.evaluation.questions import Answered, Count, Question, Score, admits, format_score, score_values
from pipeline.evaluation.wikitext_perplexity import Page, rolling_requests
from pipeline.formats.chat_template import Turn
from pipeline.tokenization import report as tokenizer_report
from pipeline.tokenization.vocabulary import BYTE_PIECES, SPECIAL_PIECES, Vocabulary
from pipeline.tuning.conversations import ConversationOptions, ConversationReport, prepare_examples
from pipeline.tuning.dataset import SftDataset, write_sft_dataset
from tests.fake_tokenizer import ByteTokenizer
from utils.errors import PipelineError

BYTES = ByteTokenizer()


def test_passages_have_words_enough_for_prompt_and_reference():
    words = [f"w{number}" for number in range(65)]
    lines = [" ".join(words[:63]), " ".join(words[:64]), f"= {' '.join(words)}", " ".join(words)]
    passages = completion.passages_of([Page("\n".join(lines)), Page(lines[1])], 9)
    assert [(passage.prompt, passage.reference) for passage in passages] == [
        (" ".join(words[:32]), " ".join(words[32:64]))
    ] * 3
    assert len(completion.passages_of([Page("\n".join(lines))], 1)) == 1


def test_completion_scores_are_points(monkeypatch):
    passages = [
        completion.Passage("p", "the cat sat on the mat today"),
        completion.Passage("p", "a dog ran over the road"),
    ]
    monkeypatch.setattr(
        completion, "_continuations", lambda *_: [passages[0].reference, "nothing alike here at all now"]
    )
    result = completion.score_completion(None, None, passages)
    assert [result.figures[name].x for name in ("rouge1", "rouge2", "rougeL")] == [[100, 0]] * 3
    assert 0 < result.figures["bleu"].value < 100
    monkeypatch.setattr(completion, "_continuations", lambda *_: [passage.reference for passage in passages])
    assert completion.score_completion(None, None, passages).figures["bleu"].value == pytest.approx(100)


@pytest.mark.parametrize(("context", "new_tokens", "kept"), [(1_000, 96, 12), (24, 12, 12), (20, 10, 10)])
def test_prompts_leave_room_for_the_continuation(monkeypatch, context, new_tokens, kept):
    asked = {}

    def generate(model, prompts, settings, *, tokenizer):
        asked.update(prompts=prompts, settings=settings)
        return [BYTES.encode("one " * 40)]

    monkeypatch.setattr(completion, "generate_batch", generate)
    monkeypatch.setattr(completion, "encode_prompt", lambda tokenizer, prompt: list(range(12)))
    model = SimpleNamespace(config=SimpleNamespace(context_length=context))
    texts = completion._continuations(model, BYTES, [completion.Passage("p", "r")])
    assert texts == [" ".join(["one"] * 32)]
    assert asked["prompts"] == [list(range(12))[-kept:]]
    assert (asked["settings"].max_length, asked["settings"].temperature) == (new_tokens, 0)


def test_speed_is_the_median_without_the_first_round(monkeypatch):
    times = iter([0.0, 100.0, 200.0, 205.0, 300.0, 301.0, 400.0, 403.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    assert speed._median_seconds(lambda: None, torch.device("cpu")) == 3.0


DATA = SimpleNamespace(name="wikitext", files={"a.txt": "sum"})
STAMPED = {"decontamination": {"sets": [{"name": "wikitext", "files": {"x": "sum"}}]}}


@pytest.mark.parametrize(
    ("content", "known"),
    [
        ({}, "not checked"),
        ({"data": STAMPED}, "clean"),
        ({"data": STAMPED, "init_from": "x"}, "pretraining data clean, training before --init-from not checked"),
        ({"chat_template": "t", "base": {"data": STAMPED}}, "pretraining data clean, conversations not checked"),
        ({"chat_template": "t", "data": STAMPED}, "not checked"),
        ({"chat_template": "t", "base": {"data": STAMPED | {"training_conversations": 5}}}, "not checked"),
        (
            {"config": {"dataset": {"source": "wikipedia"}}},
            "contaminated: trained on Wikipedia, the source of WikiText",
        ),
        ({"config": {"dataset": {"source": "fineweb"}}}, "not checked"),
        ({"data": {"decontamination": {"sets": [{"name": "lambada", "files": {"x": "sum"}}]}}}, "not checked"),
    ],
)
def test_what_is_known_about_the_training_data_is_told(content, known):
    assert contamination(content, DATA) == known


def test_only_wikitext_consists_of_wikipedia():
    content = {"config": {"dataset": {"source": "wikipedia"}}}
    assert contamination(content, SimpleNamespace(name="lambada", files={})) == "not checked"


ANSWERED = (
    Answered(Question("Q1?", ("a",), "capital"), "a", True),
    Answered(Question("Q2?", ("b",)), "c", False),
    Answered(Question("Q3?", (), "x", unknown=True), "no", False),
)


def test_questions_are_counted_by_kind():
    score = Score(ANSWERED)
    assert (score.known, score.unknown) == (Count(1, 2), Count(0, 1))
    assert format_score(score).splitlines() == [
        "  capital    1 of 1 (21% to 100%)",
        "  questions  0 of 1 (0% to 79%)",
        "  total: 1 of 2 (9% to 91%)",
        "1 of 2 held-out questions right, 0 of 1 unknown ones admitted",
    ]
    assert format_score(score, num_examples=1).splitlines()[2] == "  wrong: Q2? c"
    assert format_score(Score(ANSWERED[2:])) == "0 of 0 held-out questions right, 0 of 1 unknown ones admitted"
    values = score_values(score)
    assert (values["known"]["right"], values["known"]["total"]) == (1, 2)
    assert [reply["right"] for reply in values["replies"]] == [True, False, False]


def test_the_last_block_of_a_text_has_the_most_context():
    tokenizer = SimpleNamespace(bos_id=1, encode_batch=lambda texts: [np.arange(2, 2 + len(text)) for text in texts])
    requests = rolling_requests(tokenizer, "x" * 11, window=5)  # twelve tokens with the BOS
    assert [request.continuation for request in requests] == [(1, 2, 3, 4, 5), (6, 7, 8, 9, 10), (11, 12)]
    assert [request.context for request in requests] == [(1,), (5,), (7, 8, 9, 10)]
    assert len(rolling_requests(tokenizer, "x" * 9, window=5)) == 2
    assert len(rolling_requests(tokenizer, "x" * 4, window=5)) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"endings": ["a"]}, "endings is .* expected at least two strings"),
        ({"endings": ["a", ""]}, "endings is"),
        ({"label": 2}, "label is 2; expected the index"),
        ({"label": "-1"}, "label is '-1'"),
        ({"ctx_b": None}, "ctx_b is None; expected a string"),
    ],
)
def test_hellaswag_records_are_validated(tmp_path, change, said):
    row = {"activity_label": "A", "ctx_a": "b", "ctx_b": "c", "endings": ["x", "y"], "label": "1"} | change
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    if said is None:
        (choice,) = HellaSwag().items(HellaSwag().read(path), is_whole_set=True)
        assert (choice.context, choice.endings, choice.label) == ("A: b C", ("x", "y"), 1)
    else:
        with pytest.raises(PipelineError, match=f"a.jsonl, line 1: {said}"):
            HellaSwag().read(path)


def test_only_encoding_counts_as_encoding_time(monkeypatch):
    vocabulary = Vocabulary((*SPECIAL_PIECES, *BYTE_PIECES), ())
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    monkeypatch.setattr(tokenizer_report, "_BATCH", 2)

    def encode_batch(texts):
        clock.now += len(texts)
        return [np.array([byte + 3 for byte in text.encode()]) for text in texts]

    def texts():
        for text in ("a\n", "é", "b"):
            clock.now += 100
            yield text

    found = tokenizer_report.measure(texts(), vocabulary, encode_batch)
    assert (found.documents, found.bytes, found.characters, found.tokens) == (3, 5, 4, 5)
    assert (found.newline_tokens, found.fallback_tokens, found.seconds) == (1, 4, 3.0)


TURNS = [Turn("Hi", "Yes.")]
LENGTH = len(BYTES.encode("User: Hi\nAssistant:")) + len(BYTES.encode("Yes.")) + 2


@pytest.mark.parametrize(
    ("max_length", "too_long", "kept", "truncated"),
    [(LENGTH, "drop", 1, 0), (LENGTH - 1, "drop", 0, 0), (LENGTH - 1, "truncate", 1, 1), (LENGTH, "truncate", 1, 0)],
)
def test_a_conversation_of_exactly_the_length_is_kept(max_length, too_long, kept, truncated):
    report = ConversationReport(ConversationOptions(max_length, too_long))
    examples = list(prepare_examples([("a:1", TURNS)], BYTES, report, batch_size=2))
    assert (len(examples), report.kept, report.truncated, report.refused["too long"]) == (
        kept,
        kept,
        truncated,
        1 - kept,
    )


def test_written_conversations_are_padded_and_described(tmp_path):
    report = ConversationReport(ConversationOptions(LENGTH + 3), read=7)
    examples = list(prepare_examples([(f"a:{number}", TURNS) for number in range(7)], BYTES, report, batch_size=3))
    metadata = write_sft_dataset(tmp_path, examples, BYTES, report, sources=[])
    data = SftDataset.open(tmp_path)
    assert data.ids.shape == (7, LENGTH + 3)
    assert data.lengths.tolist() == [LENGTH] * 7
    assert data.ids[0, LENGTH - 1 :].tolist() == [BYTES.eos_id] * 4
    counts = {name: metadata[name] for name in ("examples", "turns", "tokens", "learned_tokens", "read")}
    learned = len(BYTES.encode("Yes.")) + 1
    assert counts == {"examples": 7, "turns": 7, "tokens": 7 * LENGTH, "learned_tokens": 7 * learned, "read": 7}
    assert len(json.loads((tmp_path / "example_conversations.json").read_text())) == 5


@pytest.mark.parametrize(("reply", "expected"), [("I don’t know.", True), ("No idea!", True), ("I know it.", False)])
def test_an_admission_is_recognized(reply, expected):
    assert admits(reply) == expected
