"""Conversations in the field's formats, mixed by weight, without duplicates and evaluation texts."""

import json
from fractions import Fraction

import pyarrow
import pytest
from pyarrow import parquet

import lima_tokenizer
from pipeline.formats.chat_template import ConversationError
from pipeline.tuning.dataset import SftDataset
from pipeline.tuning.mixture import Source, apportion, parse_source
from pipeline.tuning.record_formats import messages_of
from tests.fake_tokenizer import ByteTokenizer
from utils.cli import exit_code_of

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
SYSTEM = {"role": "system", "content": "Be brief."}
SHARED = "one two three four five six seven eight nine ten eleven twelve thirteen"


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.tuning.write_dataset.load_tokenizer", lambda *args, **options: ByteTokenizer())

    def run(*arguments):
        settings = ["--max-length", "200", "--set", f"paths.post_training_dir={tmp_path / 'data'}"]
        code = exit_code_of(lambda: lima_tokenizer.main([*settings, *map(str, arguments)]))
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def chats(path, *questions):
    path.write_text("".join(json.dumps({"conversations": [question, "Yes."]}) + "\n" for question in questions))
    return path


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"messages": CHAT, "source": "smol-magpie"}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, CHAT[1]]}, "messages"),
        ({"messages": [{"role": "system", "content": " "}, *CHAT]}, "messages"),
        ({"conversation": CHAT}, "messages"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}, "ShareGPT"),
        ({"conversations": ["Hi", "Hello."]}, "LIMA"),
        ({"instruction": "Hi", "input": "", "output": "Hello."}, "Alpaca"),
    ],
)
def test_each_format_gives_the_same_messages(record, name):
    assert messages_of(record) == (name, CHAT)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [SYSTEM, *CHAT]},
        {"messages": [{**SYSTEM, "role": "developer"}, *CHAT]},
        {"messages": CHAT, "system": "Be brief."},
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello."},
            ]
        },
        {"system": "Be brief.", "instruction": "Hi", "output": "Hello."},
    ],
)
def test_system_messages_come_first(record):
    assert messages_of(record)[1] == [SYSTEM, *CHAT]


def test_an_alpaca_input_follows_its_instruction():
    record = {"instruction": "Add these.", "input": "2, 3", "output": "5"}
    assert messages_of(record)[1][0]["content"] == "Add these.\n\n2, 3"


def test_images_are_not_text():
    with pytest.raises(ConversationError, match="no text: a message with role user has no text"):
        messages_of({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, CHAT[1]]})


def test_a_file_is_told_by_its_content_not_its_name(prepare, tmp_path):
    records = [{"messages": CHAT}, {"messages": [SYSTEM, *CHAT]}]
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(map(json.dumps, records)))
    array = tmp_path / "array.parquet"
    array.write_text(json.dumps(records, indent=1))
    table = tmp_path / "table.json"
    parquet.write_table(pyarrow.Table.from_pylist(records), table)
    examples = []
    for path in (lines, array, table):
        assert prepare("--input", path)[0] == 0
        examples.append((tmp_path / "data" / "tokenized_examples.npy").read_bytes())
    assert examples[0] == examples[1] == examples[2]


def test_a_file_without_conversations_names_its_fields(prepare, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"id": 1, "text": "x"}\n')
    code, output = prepare("--input", path)
    assert code == 1
    assert f"error: {path}:1: found the fields id, text; expected `messages` or `conversations`" in output


def test_repeated_conversations_are_dropped_and_listed(prepare, tmp_path):
    first, second = chats(tmp_path / "a.jsonl", "Hi", "Why?"), chats(tmp_path / "b.jsonl", "Hi", "How?")
    _, output = prepare("--input", first, "--input", second)
    assert "1 skipped: duplicate (first: b.jsonl:1)" in output
    listed = json.loads((tmp_path / "data" / "left_out.jsonl").read_text())
    assert listed == {"where": "b.jsonl:1", "reason": "duplicate", "detail": "the same texts as a.jsonl:1"}
    prepare("--input", first, "--input", second, "--set", "sft.deduplicate=false")
    assert SftDataset.open(tmp_path / "data").metadata["examples"] == 4


def test_texts_of_evaluation_sets_are_dropped(prepare, tmp_path):
    (tmp_path / "eval" / "lambada").mkdir(parents=True)
    (tmp_path / "eval" / "lambada" / "test.jsonl").write_text(json.dumps({"text": SHARED}))
    path = chats(tmp_path / "a.jsonl", "Hi", f"Say {SHARED.title()}!")
    _, output = prepare("--input", path, "--decontaminate", tmp_path / "eval")
    assert "1 skipped: shares 13 words with lambada (first: a.jsonl:2)" in output
    assert SHARED in (tmp_path / "data" / "left_out.jsonl").read_text()
    assert SftDataset.open(tmp_path / "data").metadata["decontamination"]["sets"][0]["name"] == "lambada"


def test_weights_are_exact_shares_of_the_examples(prepare, tmp_path):
    first = chats(tmp_path / "a.jsonl", *(f"a {number}" for number in range(40)))
    second = chats(tmp_path / "b.jsonl", *(f"b {number}" for number in range(9)))
    sources = ["--input", f"{first}=0.7", "--input", f"{second}=0.3"]
    contents = []
    for _ in range(2):
        assert prepare(*sources)[0] == 0
        contents.append((tmp_path / "data" / "tokenized_examples.npy").read_bytes())
    assert contents[0] == contents[1]
    metadata = SftDataset.open(tmp_path / "data").metadata
    assert [file["examples"] for file in metadata["sources"]] == [21, 9]
    prepare(*sources, "--set", "sft.seed=1")
    assert (tmp_path / "data" / "tokenized_examples.npy").read_bytes() != contents[0]


@pytest.mark.parametrize(
    ("available", "weights", "counts"),
    [([100, 100], [1, 1], [100, 100]), ([100, 10], [1, 2], [5, 10]), ([5, 5, 5], [1, 1, 2], [3, 2, 5])],
)
def test_the_scarcest_file_limits_the_mixture(available, weights, counts):
    assert apportion(available, [Fraction(weight) for weight in weights]) == counts


def test_a_name_may_contain_an_equals_sign(tmp_path):
    path = chats(tmp_path / "a=1", "Hi")
    assert parse_source(str(path)) == Source(path)
    assert parse_source(f"{path}=0.5") == Source(path, Fraction(1, 2))


@pytest.mark.parametrize(
    ("weights", "problem"),
    [(("=0",), "expected a number above 0"), (("=1", ""), "has no weight"), (("", ""), "is given 2 times")],
)
def test_wrong_weights_are_refused(prepare, tmp_path, weights, problem):
    paths = [chats(tmp_path / "a.jsonl", "Hi"), chats(tmp_path / "b.jsonl", "Why?")]
    if problem == "is given 2 times":
        paths[1] = paths[0]
    arguments = [text for path, weight in zip(paths, weights, strict=False) for text in ("--input", f"{path}{weight}")]
    code, output = prepare(*arguments)
    assert (code, problem in output) == (2, True)
