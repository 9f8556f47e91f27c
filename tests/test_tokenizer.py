"""The tokenizer: SentencePiece's ids, lossless round trips, and the same fingerprint for both file formats."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pydoc_data.topics import topics
from threading import Thread

import pytest
from sentencepiece.sentencepiece_model_pb2 import ModelProto

import tokenizer as tokenizer_stage
from pipeline.formats.cleaned_text import to_line
from pipeline.tokenization.bulk_encoding import PROBES
from pipeline.tokenization.vocabulary import BYTE_PIECES, SPECIAL_PIECES, Vocabulary
from tokenizer import WikipediaTokenizer, load_tokenizer, main
from utils.errors import PipelineError, UsageError

CHECKOUT = Path(tokenizer_stage.__file__).parent
TEXT = "The quick brown fox jumps over the lazy dog. def main(argv):\n    return 0  # naïve café\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> WikipediaTokenizer:
    folder = tmp_path_factory.mktemp("trained")
    corpus = folder / "cleaned_a.txt"
    corpus.write_text("".join(to_line(topic) + "\n" for topic in list(topics.values())[:30]), encoding="utf-8")
    tokenizer = WikipediaTokenizer.train([corpus], 400, folder / "mine")
    tokenizer.save()
    return tokenizer


def test_a_trained_tokenizer_has_codellamas_layout(trained):
    pieces = trained.vocabulary.pieces
    assert pieces[:4] == ("<unk>", "<s>", "</s>", "<0x00>")
    assert pieces[258] == "<0xFF>"
    assert (trained.vocab_size, trained.unk_id, trained.bos_id, trained.eos_id) == (400, 0, 1, 2)
    assert {"▁the", "▁▁▁▁"} <= set(pieces)
    assert all(set(piece) == {"▁"} for piece in pieces if "▁" in piece[1:]), "a piece that spans two words"


def test_training_is_repeatable_and_saves_what_it_trained(trained, tmp_path):
    again = WikipediaTokenizer.train([trained.directory.parent / "cleaned_a.txt"], 400, tmp_path)
    assert again.fingerprint == trained.fingerprint
    assert load_tokenizer(trained.directory).fingerprint == trained.fingerprint
    assert load_tokenizer(trained.directory).encode(TEXT) == trained.encode(TEXT)


@pytest.mark.parametrize("text", [probe for probe in PROBES if "▁" not in probe])
def test_every_text_comes_back_and_the_bulk_engine_agrees(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert trained.encode_batch([text])[0].tolist() == ids
    assert not set(ids) & {0, 1, 2}


def test_bos_and_eos_are_optional_and_never_decoded(trained):
    ids = trained.encode(TEXT, add_bos=True, add_eos=True)
    assert ids == [1, *trained.encode(TEXT), 2]
    assert trained.decode(ids) == TEXT


def test_token_bytes_joined_are_the_text(trained):
    ids = trained.encode(TEXT)
    assert b"".join(trained.token_bytes()[i] for i in ids) == b" " + TEXT.encode()
    assert sum(trained.token_byte_lengths()[ids]) == len(TEXT.encode()) + 1
    assert trained.token_byte_lengths()[[0, 1, 2]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("encode", [lambda t, x: t.encode(x), lambda t, x: t.encode_batch(["ok", x])])
def test_a_lone_surrogate_is_refused_clearly(trained, encode):
    with pytest.raises(PipelineError, match=r"lone surrogate U\+D800 at character 2"):
        encode(trained, "ab\ud800c")


@pytest.mark.parametrize("wrong", [400, -1])
def test_an_id_outside_the_vocabulary_is_named(trained, wrong):
    with pytest.raises(PipelineError, match=f"id {wrong} is not in the vocabulary; expected 0 to 399"):
        trained.decode([5, wrong])


def test_missing_tokenizer_lists_three_remedies(tmp_path):
    with pytest.raises(PipelineError) as caught:
        load_tokenizer(tmp_path)
    for way in (f"tokenizer.model in {tmp_path}", "--load DIR", "--train"):
        assert way in str(caught.value)


def test_unreachable_hub_is_a_one_line_error(tmp_path):
    command = [sys.executable, "tokenizer.py", "--set", f"paths.tokenizer_dir={tmp_path}", "--encode", "x"]
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "could not be fetched from the Hugging Face hub" in done.stderr
    assert "--load DIR" in done.stderr


def model_proto(vocabulary: Vocabulary) -> ModelProto:
    """`vocabulary` as a SentencePiece file."""
    proto = ModelProto()
    for i, piece in enumerate(vocabulary.pieces):
        proto.pieces.add(
            piece=piece, score=min(0.0, 259.0 - i), type=2 if i == 0 else 3 if i < 3 else 6 if i < 259 else 1
        )
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = 2, True
    proto.normalizer_spec.name, proto.normalizer_spec.remove_extra_whitespaces = "identity", False
    return proto


class Hub(BaseHTTPRequestHandler):
    """A hub that has only a tokenizer.model, or a fixed page for every address."""

    content: bytes
    any_path: bool

    def do_GET(self):
        found = self.any_path or self.path == "/codellama/CodeLlama-7b-hf/resolve/main/tokenizer.model"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(self.content if found else b"")

    def log_message(self, *args):
        pass


def run_with_hub(folder: Path, content: bytes, *, any_path: bool) -> subprocess.CompletedProcess:
    handler = type("ThisHub", (Hub,), {"content": content, "any_path": any_path})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(folder),
            "no_proxy": "127.0.0.1",
        }
        command = [sys.executable, "tokenizer.py", "--set", f"paths.tokenizer_dir={folder}", "--encode", "the dog"]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
        server.shutdown()
    return done


def test_tokenizer_is_downloaded_once(trained, tmp_path):
    model = model_proto(trained.vocabulary).SerializeToString()
    done = run_with_hub(tmp_path, model, any_path=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ",".join(map(str, trained.encode("the dog")))
    assert (tmp_path / "tokenizer.model").read_bytes() == model
    assert run_with_hub(tmp_path, b"", any_path=False).returncode == 0


def test_invalid_tokenizer_download_is_not_kept(tmp_path):
    done = run_with_hub(tmp_path, b"<html>please log in</html>", any_path=True)
    assert done.returncode == 1
    assert "is not a valid tokenizer.json" in done.stderr
    assert not list(tmp_path.glob("tokenizer*"))


def test_the_command_line_encodes_on_its_last_line_and_decodes(trained, capsys):
    assert main(["--load", str(trained.directory), "--encode", "Hello dog"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert [int(number) for number in line.split(",")] == trained.encode("Hello dog")
    main(["--load", str(trained.directory), "--decode", line])
    assert capsys.readouterr().out.splitlines()[-1] == "Hello dog"


@pytest.mark.parametrize(
    "arguments", [["--train", "x"], ["--vocab-size", "400"], ["--train", "x", "--vocab-size", "4", "--load", "y"]]
)
def test_arguments_that_do_not_fit_are_usage_errors(arguments):
    with pytest.raises(UsageError):
        main(arguments)


def test_too_little_text_says_which_size_would_do(tmp_path):
    (tmp_path / "a.txt").write_text("ab ab ab\n")
    with pytest.raises(
        PipelineError, match=r"yields only \d+ distinct pieces, but the vocabulary size is 5,000; .*--vocab-size \d+"
    ):
        WikipediaTokenizer.train([tmp_path / "a.txt"], 5000, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", b"{", "is not a valid tokenizer.json"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "byte_fallback": false}}', "without byte fallback"),
        (
            "tokenizer.json",
            b'{"model": {"type": "BPE", "byte_fallback": true}}',
            "does not encode a space as the prefix",
        ),
        ("tokenizer.model", b"no protobuf at all", "is not a SentencePiece model"),
        ("tokenizer.model", b"", "contains no pieces"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PipelineError, match=said) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


def test_starting_imports_neither_torch_nor_transformers(trained):
    code = (
        "import sys, tokenizer; t = tokenizer.load_tokenizer(sys.argv[1]); t.encode('x'); t.encode_batch(['x']);"
        "print({'torch', 'transformers', 'datasets', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, trained.directory], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_report_counts_match_the_text(trained, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the dog\u2028the é東\nthe dog\n", encoding="utf-8")
    main(["--load", str(trained.directory), "--report", str(tmp_path / "a.txt")])
    cells = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines()[1:])
    cells = {key.strip(): value.strip() for key, value in cells.items()}
    tokens = len(trained.encode("the dog\nthe é東")) + len(trained.encode("the dog"))
    assert (cells["documents"], cells["bytes"], cells["characters"]) == ("2", "24", "21")
    assert cells["tokens"] == str(tokens)
    assert cells["bytes per token"] == f"{24 / tokens:.3f}"
    assert cells["byte fallback, newlines"] == f"{1 / tokens:.2%}"
    assert cells["byte fallback, other characters"] == f"{5 / tokens:.2%}"


def test_json_with_merges_in_id_order_is_refused(tmp_path):
    pieces = (*SPECIAL_PIECES, *BYTE_PIECES, "▁▁", "▁t", "er", "▁", "t", "e", "r")
    right, wrong = ((("▁", "t"), ("e", "r"), ("▁", "▁")), (("▁", "▁"), ("▁", "t"), ("e", "r")))
    path = tmp_path / "tokenizer.json"
    path.write_text(Vocabulary(pieces, right).to_json(added_tokens=True))
    assert load_tokenizer(tmp_path).vocab_size == 266
    path.write_text(Vocabulary(pieces, wrong).to_json(added_tokens=True))
    with pytest.raises(PipelineError, match="orders merges by id instead of score"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_too_large_for_uint16_is_refused():
    pieces = (*SPECIAL_PIECES, *BYTE_PIECES, *map(chr, range(0x20000, 0x20000 + 65_300)))
    assert "65,559 pieces; expected at most 65,536" in Vocabulary(pieces, ()).problem()


def test_a_file_in_place_of_its_folder_is_named(trained):
    with pytest.raises(PipelineError, match=r"tokenizer\.json is a file; pass the folder that contains it"):
        load_tokenizer(trained.directory / "tokenizer.json")


def test_a_tokenizer_is_not_saved_where_another_would_be_read(trained, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(model_proto(trained.vocabulary).SerializeToString())
    with pytest.raises(PipelineError, match=r"tokenizer\.model in .* would be loaded instead of the saved file"):
        main(["--train", "never read", "--vocab-size", "400", "--output", str(tmp_path)])
    with pytest.raises(PipelineError, match="choose a different folder"):
        trained.save(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


def test_training_text_is_not_overwritten(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("a cleaned article\n")
    with pytest.raises(PipelineError, match=r"tokenizer\.json is an input file and would be overwritten"):
        main(["--train", str(path), "--vocab-size", "300", "--output", str(tmp_path)])
    assert path.read_text() == "a cleaned article\n"
