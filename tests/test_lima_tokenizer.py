"""Preparing conversations: exact ids, counted removals, and incomplete data is detected."""

import json
import subprocess
import sys

import numpy as np
import pytest

import lima_tokenizer
from pipeline.configuration import CHECKOUT, load_config
from pipeline.formats.chat_template import encode_conversation
from pipeline.tuning.conversations import ConversationOptions
from pipeline.tuning.dataset import SftDataset
from pipeline.tuning.fetch_lima import fetch_lima
from pipeline.tuning.mixture import Source
from pipeline.tuning.write_dataset import prepare_conversations
from tests.fake_tokenizer import ByteTokenizer
from utils.cli import exit_code_of
from utils.errors import PipelineError
from utils.hub_connection import HubError

GOOD = {"conversations": ["Hi", "Hello.", "Why?", "Because."]}
LINES = [
    json.dumps(GOOD),
    json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hö."}]}),
    json.dumps({"conversations": ["Hi", "Hello.", "And now?"]}),  # odd: the last question is dropped
    json.dumps({"conversations": ["Only a question"]}),
    json.dumps({"conversations": ["Hi", "  "]}),
    json.dumps({"messages": [{"role": "tool", "content": "x"}]}),
    json.dumps({"conversations": [{"from": "human"}]}),
    json.dumps({"conversations": ["Hi", "long " * 40]}),
    "{not JSON",
    "",
]


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """Run the stage on `LINES` (or others); returns its exit code and output."""
    monkeypatch.setattr("pipeline.tuning.write_dataset.load_tokenizer", lambda *args, **options: ByteTokenizer())

    def run(*arguments, lines=LINES):
        source = tmp_path / "chats.jsonl"
        source.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
        settings = ["--set", f"paths.post_training_dir={tmp_path / 'data'}"]
        arguments = ["--input", str(source), "--max-length", "120", *settings, *arguments]
        code = exit_code_of(lambda: lima_tokenizer.main(arguments))
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_ids_and_masks_are_the_renderers_padded_with_eos(prepare, tmp_path):
    code, _ = prepare("--batch-size", "2")
    assert code == 0
    data = SftDataset.open(tmp_path / "data")
    messages = [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(GOOD["conversations"])]
    wanted = encode_conversation(ByteTokenizer(), messages)
    length = len(wanted.ids)
    assert data.ids.shape == data.masks.shape == (3, 120)
    assert data.lengths[0] == length
    np.testing.assert_array_equal(data.ids[0, :length], wanted.ids)
    np.testing.assert_array_equal(data.masks[0, :length], wanted.mask)
    assert set(data.ids[0, length:]) == {ByteTokenizer.eos_id}
    assert not data.masks[0, length:].any()
    assert data.metadata["learned_tokens"] == data.masks.sum()
    shown = json.loads((tmp_path / "data" / "example_conversations.json").read_text(encoding="utf-8"))
    assert shown[0]["text"] == "<s>User: Hi\nAssistant: Hello.</s><s>User: Why?\nAssistant: Because.</s>"


def test_output_does_not_depend_on_batch_size(prepare, tmp_path):
    contents = []
    for size in ("1", "100"):
        assert prepare("--batch-size", size)[0] == 0
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5


def test_skipped_conversations_are_counted_by_reason(prepare, tmp_path):
    _, output = prepare()
    assert "3 of 9 conversations kept (at most 120 tokens)" in output
    assert "1 with a final question without an answer, which was dropped" in output
    assert "1 skipped: nothing to learn (first: chats.jsonl:4)" in output
    metadata = SftDataset.open(tmp_path / "data").metadata
    assert metadata["left_out"] == {
        "empty turn": 1,
        "no conversation": 1,
        "not JSON": 1,
        "nothing to learn": 1,
        "too long": 1,
        "unknown role": 1,
    }


def test_unreadable_lines_are_skipped(prepare):
    latin = '{"conversations": ["Café?", "Oui."]}'.encode("latin-1")
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    code, output = prepare(lines=[latin, deep, json.dumps(GOOD)])
    assert code == 0
    assert "1 of 3 conversations kept" in output
    assert "1 skipped: not UTF-8 (first: chats.jsonl:1)" in output
    assert "1 skipped: not JSON (first: chats.jsonl:2)" in output
    code, output = prepare("--strict", lines=[latin])
    assert (code, "error: chats.jsonl:1: not UTF-8: invalid continuation byte at byte 23" in output) == (1, True)


def test_too_long_ones_can_be_cut_off(prepare, tmp_path):
    _, output = prepare("--too-long", "truncate")
    assert "1 of them truncated to 120 tokens" in output
    data = SftDataset.open(tmp_path / "data")
    assert data.lengths[3] == 120
    assert data.ids[3, -1] != ByteTokenizer.eos_id


def test_truncation_without_an_answer_is_refused(prepare):
    lines = [json.dumps(GOOD), json.dumps({"conversations": ["long " * 40, "answer"]})]
    _, output = prepare("--too-long", "truncate", lines=lines)
    assert "1 skipped: nothing to learn" in output


@pytest.mark.parametrize("line", LINES[2:7] + LINES[8:9])
def test_strict_stops_at_the_first_malformed_conversation(prepare, line):
    code, output = prepare("--strict", lines=[json.dumps(GOOD), line])
    assert code == 1
    assert "error: chats.jsonl:2: " in output


def test_nothing_to_learn_from_at_all_is_an_error(prepare):
    code, output = prepare(lines=[json.dumps({"conversations": ["Hi", " "]})])
    assert code == 1
    assert "no usable conversation" in output


def test_preview_shows_the_learned_tokens(prepare):
    _, output = prepare("--preview", "1")
    assert "<s> User: Hi\nAssistant:⟦ Hello.</s>⟧<s> User: Why?\nAssistant:⟦ Because.</s>⟧" in output


def test_data_without_metadata_is_incomplete(prepare, tmp_path):
    prepare()
    (tmp_path / "data" / "metadata.json").unlink()
    with pytest.raises(PipelineError, match=r"metadata\.json is missing.*lima_tokenizer\.py"):
        SftDataset.open(tmp_path / "data")


def test_own_output_is_refused_as_input(prepare, tmp_path):
    prepare()
    path = tmp_path / "data" / "metadata.json"
    content = path.read_bytes()
    code, output = prepare("--input", str(path))
    assert (code, path.read_bytes()) == (1, content)
    assert "metadata.json is an input file and would be overwritten" in output


def test_a_missing_input_is_named(prepare, capsys):
    code, output = prepare("--input", "nowhere.jsonl")
    assert code == 1
    assert "nowhere.jsonl does not exist" in output


@pytest.mark.parametrize("refused", [True, False])
def test_lima_without_access_says_how_to_get_in(tmp_path, monkeypatch, refused):
    def refuse(*args, **options):
        raise HubError("403 or no network", refused=refused)

    monkeypatch.setattr("pipeline.tuning.fetch_lima.download", refuse)
    with pytest.raises(PipelineError, match=r"gated: accept its terms.*hf auth login.*--input FILE\.jsonl"):
        fetch_lima(tmp_path / "lima_train.jsonl")
    assert not list(tmp_path.iterdir())


def test_lima_is_fetched_once_and_kept(tmp_path, monkeypatch):
    contents = iter([b"{}"])
    monkeypatch.setattr("pipeline.tuning.fetch_lima.download", lambda *args, **options: next(contents))
    for _ in range(2):
        assert fetch_lima(tmp_path / "lima_train.jsonl").read_bytes() == b"{}"


def test_batched_conversations_equal_single_ones_on_real_data(real_data, tmp_path):
    from tokenizer import load_tokenizer

    model = real_data / "tokenizer" / "codellama_reconstructed.model"
    (tmp_path / "tokenizer.model").write_bytes(model.read_bytes())
    config = load_config(settings=[f"paths.tokenizer_dir={tmp_path}", f"paths.post_training_dir={tmp_path}"])
    source = real_data / "lima" / "lima_sample_100.jsonl"
    metadata = prepare_conversations(config, ConversationOptions(512, too_long="truncate"), sources=[Source(source)])
    assert (metadata["read"], metadata["examples"], metadata["truncated"], metadata["turns"]) == (100, 100, 55, 127)
    tokenizer, data = load_tokenizer(tmp_path), SftDataset.open(tmp_path)
    for row, line in enumerate(source.read_text(encoding="utf-8").splitlines()):
        texts = json.loads(line)["conversations"]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        wanted = encode_conversation(tokenizer, messages)
        length = min(len(wanted.ids), 512)
        assert data.ids[row, :length].tolist() == wanted.ids[:length]
        assert data.masks[row, :length].tolist() == wanted.mask[:length]


def test_torch_is_not_imported():
    code = "import sys, lima_tokenizer; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT).returncode == 0
