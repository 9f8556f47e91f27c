"""fineweb_prep.py with a local fake hub that closes connections, answers 429 and 500, and truncates bodies."""

import gzip
import hashlib
import io
import json
import os
import random
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import fineweb_prep
from pipeline.formats.cleaned_text import to_line
from pipeline.formats.token_dataset import TokenDataset
from pipeline.preparation import downloads
from pipeline.preparation.config import FineWebConfig
from pipeline.preparation.downloads import RemoteFile, Retries, Server, Span
from pipeline.preparation.input_shards import record_shards
from pipeline.preparation.read_ahead import prefetched
from tokenizer import WikipediaTokenizer
from utils.cli import exit_code_of
from utils.errors import PipelineError

NAME = "someone/web-sample"


def _documents(count: int) -> list[dict]:
    text = "water that people have with them in the mountains runs to every sea and does not come back"
    words = text.split()
    choose = random.Random(7)
    return [
        {
            "text": f"Page {number}. " + " ".join(choose.choices(words, k=choose.randrange(5, 90))),
            "language_score": round(choose.uniform(0.5, 1.0), 3),
            "url": f"http://example.org/{number}",
        }
        for number in range(count)
    ]


class FaultyHub:
    """Serve the files in a folder as the dataset NAME. `faults` has the fault of each request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults = iter(())
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.ranges: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        with self.lock:
            fault = next(self.faults, "none")
            self.counts[fault] += 1
            self.ranges.append(request.headers.get("Range", ""))
        if fault == "close":
            request.close_connection = True
            return
        if fault in ("429", "500", "401"):
            request.send_response(int(fault))
            request.send_header("Retry-After", "0")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        status, body, content_range = self._content(request)
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        if content_range:
            request.send_header("Content-Range", content_range)
        request.end_headers()
        request.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def _content(self, request: BaseHTTPRequestHandler) -> tuple[int, bytes, str]:
        path = request.path.partition("?")[0]
        if path == f"/api/datasets/{NAME}":
            splits = [{"split": "train", "path": "sample/small/*"}]
            card = {"configs": [{"config_name": "small", "data_files": splits}]}
            return 200, json.dumps({"sha": "abc123", "cardData": card}).encode(), ""
        if path == f"/api/datasets/{NAME}/tree/abc123/sample/small":
            files = sorted((self.folder / "sample" / "small").iterdir())
            entries = [
                {"type": "file", "path": str(f.relative_to(self.folder)), "size": f.stat().st_size, "oid": f.name}
                for f in files
            ]
            return 200, json.dumps(entries).encode(), ""
        prefix = f"/datasets/{NAME}/resolve/abc123/"
        if not path.startswith(prefix):
            return 404, b"", ""
        first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
        content = (self.folder / path.removeprefix(prefix)).read_bytes()
        return 206, content[int(first) : int(last) + 1], f"bytes {first}-{last}/{len(content)}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub with 400 documents in two Parquet files of several row groups; small blocks make many requests."""
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "hub" / "sample" / "small"
    folder.mkdir(parents=True)
    documents = _documents(400)
    for number, part in enumerate((documents[:250], documents[250:])):
        parquet.write_table(pyarrow.Table.from_pylist(part), folder / f"00{number}.parquet", row_group_size=60)
    hub = FaultyHub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr(downloads, "BLOCK_BYTES", 3000)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def config(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(to_line(document["text"]) + "\n" for document in _documents(50)), encoding="utf-8")
    WikipediaTokenizer.train([text], 300, tmp_path / "tokenizer").save()
    content = {
        "paths": {"tokenizer_dir": "tokenizer"},
        "dataset": {"fineweb_test_dir": "test", "fineweb_full_dir": "full", "window": 32, "file_tokens": 5000},
        "fineweb": {"name": NAME, "subset": "small", "min_tokens": 30, "retry_seconds": 0.0},
        "model": {"vocab_size": 300},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    return tmp_path / "config.json"


def _run(config: Path, *arguments: str, into: str = "full") -> int:
    folders = f"dataset.fineweb_full_dir={config.parent / into}"
    return exit_code_of(lambda: fineweb_prep.main(["--config", str(config), "--set", folders, *arguments]))


def _sums(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def _wanted(tokenizer, documents, min_tokens=30) -> tuple[list[list[int]], Counter]:
    """A simple reference."""
    kept, rejected = [], Counter()
    for document in documents:
        ids = tokenizer.encode(document["text"])
        if document["language_score"] < 0.65:
            rejected["language_score"] += 1
        elif len(ids) < min_tokens:
            rejected["too_short"] += 1
        else:
            kept.append([tokenizer.bos_id, *ids, tokenizer.eos_id])
    return kept, rejected


def test_documents_are_filtered_and_counted(hub, config):
    assert _run(config) == 0
    dataset = TokenDataset.open(config.parent / "full")
    kept, rejected = _wanted(WikipediaTokenizer(config.parent / "tokenizer"), _documents(400))
    np.testing.assert_array_equal(np.concatenate(dataset.files), np.concatenate(kept))
    assert dataset.metadata["rejected"] == dict(rejected)
    assert min(rejected.values()) > 5
    assert len(dataset.files) > 1


def test_a_faulty_hub_gives_the_same_bytes(hub, config):
    assert _run(config, into="smooth") == 0
    assert hub.counts.total() == hub.counts["none"] > 20
    hub.counts.clear()
    kinds = ["none", "close", "429", "500", "cut", "cut"]
    hub.faults = iter(random.Random(3).choices(kinds, k=100_000))
    assert _run(config, "--set", "fineweb.retries=50", into="rough") == 0
    assert min(hub.counts[kind] for kind in kinds) > 5
    assert _sums(config.parent / "rough") == _sums(config.parent / "smooth")
    hub.faults = iter(random.Random(4).choices(kinds, k=100_000))
    assert _run(config, "--workers", "2", "--set", "fineweb.retries=50", into="shared") == 0
    assert _sums(config.parent / "shared") == _sums(config.parent / "smooth")


def test_run_stops_if_the_hub_dies_and_can_resume(hub, config, capsys):
    assert _run(config, into="smooth") == 0
    batch = ("--batch-size", "20", "--set", "fineweb.retries=3")
    for good in (3, 30, 45):
        hub.faults = iter(["none"] * good + ["close"] * 100_000)
        assert _run(config, *batch, into="stopped") == 1
        error = capsys.readouterr().err.splitlines()[-1]
        folder = config.parent / "stopped" / "unfinished"
        saved = sum(json.loads(path.read_text())["rows"] for path in folder.glob("shard_*.json"))
        told = f"{saved} documents are saved; run the same command" if saved else "nothing was saved"
        assert f"3 times in a row; {told}" in error
    assert 0 < saved < 400
    hub.faults = iter(())
    assert _run(config, *batch, into="stopped") == 0
    assert _sums(config.parent / "stopped") == _sums(config.parent / "smooth")


def test_the_test_mode_takes_the_first_documents(hub, config):
    assert _run(config, "--test", "--set", "dataset.test_documents=270") == 0
    dataset = TokenDataset.open(config.parent / "test")
    kept, _ = _wanted(WikipediaTokenizer(config.parent / "tokenizer"), _documents(400)[:270])
    np.testing.assert_array_equal(np.concatenate(dataset.files), np.concatenate(kept))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "fineweb.subset=smal"], "no configuration 'smal'; did you mean 'small'?"),
        (["--set", "fineweb.name=someone/nothing"], "returned 404"),
        (["--set", 'fineweb.quality_rules=["c5"]'], "c4"),
        (["--source", "nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(hub, config, capsys, arguments, message):
    assert _run(config, *arguments) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_dataset_inside_its_own_source_is_refused(config, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.jsonl").write_text('{"text": "x"}\n')
    for into in ("source", "source/full"):
        assert _run(config, "--source", str(tmp_path / "source"), into=into) == 1
        assert f"is inside --source {tmp_path / 'source'}; choose" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "source").iterdir()] == ["a.jsonl"]


def test_a_refused_login_is_not_tried_again(hub, config, capsys):
    hub.faults = iter(["401"] * 10)
    assert _run(config) == 1
    assert "set HF_TOKEN" in capsys.readouterr().err
    assert hub.counts["401"] == 1


def test_local_shards_of_every_kind_give_the_same_tokens(hub, config, tmp_path):
    assert _run(config) == 0
    streamed = np.concatenate(TokenDataset.open(config.parent / "full").files)
    parquet_folder = tmp_path / "hub" / "sample" / "small"
    jsonl_folder = tmp_path / "jsonl"
    jsonl_folder.mkdir()
    lines = [json.dumps(document) + "\n" for document in _documents(400)]
    (jsonl_folder / "a.jsonl").write_text("".join(lines[:200]))
    (jsonl_folder / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[200:]).encode()))
    for number, folder in enumerate((parquet_folder, jsonl_folder)):
        assert _run(config, "--source", str(folder), "--workers", "1", into=f"local_{number}") == 0
        dataset = TokenDataset.open(config.parent / f"local_{number}")
        np.testing.assert_array_equal(np.concatenate(dataset.files), streamed)


def test_malformed_lines_are_counted(config, tmp_path):
    good = [json.dumps({"text": f"The quick brown fox jumps over the lazy dog {n} times " * 9}) for n in range(40)]
    lines = [*good[:20], '{"text": "cut', "[1]", '{"text": null}', '{"no text": 1}', '{"text": ""}', *good[20:]]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.jsonl").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    assert _run(config, "--source", str(tmp_path / "source"), "--workers", "1") == 0
    metadata = TokenDataset.open(config.parent / "full").metadata
    assert metadata["rejected"] == {"malformed": 4, "empty": 1}
    assert metadata["totals"]["documents"] == 40


def test_a_file_name_that_is_not_utf8_is_read_too(config, tmp_path):
    (tmp_path / "source").mkdir()
    text = "The quick brown fox jumps over the lazy dog. " * 9
    path = tmp_path / "source" / os.fsdecode(b"caf\xe9.jsonl")
    path.write_text(json.dumps({"text": text}) + "\n")
    assert _run(config, "--source", str(path.parent), "--workers", "1") == 0
    [made_of] = TokenDataset.open(config.parent / "full").metadata["inputs"]
    assert made_of["name"] == "caf%E9.jsonl"


def test_shards_can_be_entered_at_every_row(hub, tmp_path):
    folder = tmp_path / "hub" / "sample" / "small"
    lines = [json.dumps(document) + "\n" for document in _documents(50)]
    (folder / "x.jsonl").write_text("".join(lines))
    (folder / "y.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    for shard in record_shards(sorted(folder.iterdir()), lambda fields: None):
        texts = [row.text for row in shard.rows(0, None)]
        assert len(texts) >= 50
        for start in range(0, len(texts) + 2, 7):
            assert [row.text for row in shard.rows(start, None)] == texts[start:]
            assert [row.text for row in shard.rows(start, start + 9)] == texts[start : start + 9]


def test_rejection_reasons():
    fineweb = FineWebConfig(quality_rules=("gopher_stop_words",))
    assert fineweb_prep.rejection_reason({"text": "x", "language_score": 0.64}, fineweb) == "language_score"
    assert fineweb_prep.rejection_reason({"text": "buy now", "language_score": 0.65}, fineweb) == "gopher_stop_words"
    assert fineweb_prep.rejection_reason({"text": "that is what they have to be"}, fineweb) is None
    assert fineweb_prep.rejection_reason({"text": "buy now"}, FineWebConfig()) is None


def test_stream_documents_yields_accepted_texts(hub):
    fineweb = FineWebConfig(name=NAME, subset="small")
    wanted = [document["text"] for document in _documents(100) if document["language_score"] >= 0.65]
    assert list(fineweb_prep.stream_documents(fineweb, limit=100)) == wanted


def _server(hub, waits: list, attempts: int = 10) -> Server:
    return Server(hub.endpoint, Retries(attempts, 1.0, sleep=waits.append))


def test_without_a_network_it_fails_fast(config, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    assert _run(config) == 1
    first, second, error = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{address.removeprefix('http://')} cannot be reached ([Errno 111] Connection refused)")
    assert first.endswith("; retrying in 0.0 s (attempt 2 of 3)")
    assert second.endswith("; retrying in 0.0 s (attempt 3 of 3)")
    assert error.endswith("3 times in a row; check the network, or use downloaded files with --source DIR")


def test_a_remote_file_reads_like_the_file(hub):
    path = hub.folder / "sample" / "small" / "000.parquet"
    content = path.read_bytes()
    remote = RemoteFile(_server(hub, []), f"/datasets/{NAME}/resolve/abc123/sample/small/000.parquet", len(content))
    local = io.BytesIO(content)
    choose = random.Random(0)
    for _ in range(200):
        place, length = choose.randrange(len(content) + 10), choose.randrange(5000)
        remote.seek(place)
        local.seek(place)
        assert remote.read(length) == local.read(length)
    assert remote.seek(-5, io.SEEK_END) == len(content) - 5
    assert remote.read() == content[-5:]


def test_request_resumes_at_the_last_byte(hub):
    waits = []
    hub.faults = iter(["cut", "cut", "none"])
    path = f"/datasets/{NAME}/resolve/abc123/sample/small/000.parquet"
    content = (hub.folder / "sample" / "small" / "000.parquet").read_bytes()
    assert _server(hub, waits).range(path, Span(100, 1100)) == content[100:1100]
    assert hub.ranges == ["bytes=100-1099", "bytes=600-1099", "bytes=850-1099"]
    assert all(0.5 <= wait <= 1.0 for wait in waits)  # each got bytes, so each is a first failure


def test_waits_double_with_jitter_and_end(hub):
    waits = []
    hub.faults = iter(["500"] * 100)
    with pytest.raises(PipelineError, match="500 Internal Server Error 9 times in a row"):
        _server(hub, waits, attempts=9).range(f"/datasets/{NAME}/resolve/abc123/sample/small/000.parquet", Span(0, 10))
    longest = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(0.5 * most <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len(set(waits)) == len(waits)


def test_prefetching_keeps_order_errors_and_ends_early():
    assert list(prefetched(iter(range(100)))) == list(range(100))

    def broken():
        yield 1
        raise ValueError("here")

    items = prefetched(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="here"):
        next(items)
    taken = []
    endless = prefetched(taken.append(number) or number for number in range(10**9))
    assert [next(endless) for _ in range(3)] == [0, 1, 2]
    endless.close()
    assert len(taken) < 10
