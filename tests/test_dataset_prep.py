"""dataset_prep.py as a user runs it, with a freshly trained tokenizer."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dataset_prep
from pipeline.formats.cleaned_text import to_line
from pipeline.formats.token_dataset import TokenDataset
from tokenizer import WikipediaTokenizer
from utils.cli import exit_code_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def articles():
    text = "the old tower of a town stands beside its river and nobody knows who built it"
    words = text.split()
    return [
        " ".join(words[(number * step) % len(words)] for step in range(1, 60)) + f".\n\nNumber {number}."
        for number in range(300)
    ]


@pytest.fixture
def config(tmp_path, articles):
    """A config file for two cleaned files and a tokenizer of 300 pieces, next to its dataset folders."""
    cleaned = tmp_path / "cleaned"
    cleaned.mkdir()
    for number, part in enumerate((articles[:200], articles[200:])):
        text = "".join(to_line(article) + "\n" for article in part)
        (cleaned / f"cleaned_{number}.txt").write_text(text, encoding="utf-8", newline="\n")
    WikipediaTokenizer.train(sorted(cleaned.iterdir()), 300, tmp_path / "tokenizer").save()
    content = {
        "paths": {"cleaned_dir": "cleaned", "tokenizer_dir": "tokenizer"},
        "dataset": {
            "wikipedia_test_dir": "test",
            "wikipedia_full_dir": "full",
            "custom_dir": "custom",
            "window": 32,
            "file_tokens": 2000,
            "test_documents": 50,
        },
        "model": {"vocab_size": 300},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    return tmp_path / "config.json"


def test_the_test_mode_takes_the_first_articles(config, articles, capsys):
    assert dataset_prep.main(["--config", str(config), "--test"]) == 0
    dataset = TokenDataset.open(config.parent / "test")
    tokenizer = WikipediaTokenizer(config.parent / "tokenizer")
    ids = np.concatenate([tokenizer.encode(text, add_bos=True, add_eos=True) for text in articles[:50]])
    np.testing.assert_array_equal(np.concatenate(dataset.files), ids)
    assert (dataset.window, dataset.stride) == (32, 16)
    assert dataset.metadata["tokenizer"]["fingerprint"] == tokenizer.fingerprint
    assert str(config.parent) not in (config.parent / "test" / "metadata.json").read_text()
    assert "documents" in capsys.readouterr().out


def test_flags_reach_the_dataset(config):
    flags = ["--window", "16", "--overlap", "0.25", "--batch", "7", "--max-files", "2", "--workers", "1"]
    assert dataset_prep.main(["--config", str(config), *flags]) == 0
    dataset = TokenDataset.open(config.parent / "full")
    assert (dataset.window, dataset.stride, len(dataset.files)) == (16, 12, 2)
    assert dataset.metadata["totals"]["documents"] == 300


def test_own_text_goes_to_its_own_folder(config):
    assert dataset_prep.main(["--config", str(config), "--set", "dataset.source=custom", "--workers", "1"]) == 0
    assert TokenDataset.open(config.parent / "custom").num_windows > 0


def test_iter_articles_gives_the_articles_back(config, articles):
    assert list(dataset_prep.iter_articles(config.parent / "cleaned")) == articles
    assert list(dataset_prep.iter_articles(config.parent / "cleaned", limit=250)) == articles[:250]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "model.vocab_size=301"], "300 tokens, but model.vocab_size is 301; use the right tokenizer"),
        (["--set", "paths.cleaned_dir=nowhere"], "nowhere does not exist; run: python3 cleaner.py"),
        (["--window", "1"], "dataset.window is 1; expected at least 2"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(config, capsys, arguments, message):
    assert exit_code_of(lambda: dataset_prep.main(["--config", str(config), *arguments])) == 1
    assert message in capsys.readouterr().err


def test_a_complete_dataset_is_not_made_again(config, capsys):
    run = ["--config", str(config), "--test"]
    dataset_prep.main(run)
    before = (config.parent / "test" / "tokens_0.npy").stat().st_mtime_ns
    assert dataset_prep.main(run) == 0
    assert "already complete" in capsys.readouterr().out
    assert dataset_prep.main([*run, "--window", "16"]) == 0
    assert "windows of 16, one every 8 tokens, instead of 32 and 16" in capsys.readouterr().out
    assert (config.parent / "test" / "tokens_0.npy").stat().st_mtime_ns == before
    assert dataset_prep.main([*run, "--restart"]) == 0
    assert (config.parent / "test" / "tokens_0.npy").stat().st_mtime_ns > before


def test_nothing_heavy_is_imported():
    code = "import dataset_prep, sys; print({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


def test_contaminated_documents_are_removed_and_listed(config, articles):
    evaluation = config.parent / "evaluation"
    (evaluation / "lambada").mkdir(parents=True)
    (evaluation / "lambada" / "test.jsonl").write_text(json.dumps({"text": articles[7].split("\n")[0].upper()}) + "\n")
    run = ["--config", str(config), "--workers", "1"]
    assert dataset_prep.main([*run, "--decontaminate", str(evaluation)]) == 0
    dataset = TokenDataset.open(config.parent / "full")
    removed = [json.loads(line) for line in (config.parent / "full" / "contaminated.jsonl").read_text().splitlines()]
    assert articles[7][:200] in [row["document"] for row in removed]
    assert {row["reason"] for row in removed} == {"contaminated_lambada"}
    assert all(row["source"].startswith("cleaned_") and len(row["words"].split()) == 13 for row in removed)
    assert dataset.metadata["rejected"] == {"contaminated_lambada": len(removed)}
    assert dataset.metadata["totals"]["documents"] == 300 - len(removed) > 0
    assert dataset.metadata["decontamination"]["sets"][0]["name"] == "lambada"
    # Without the flag it is a different dataset.
    assert exit_code_of(lambda: dataset_prep.main(run)) == 1


def test_inspect_reports_and_finds_damage(config, articles, capsys):
    run = ["--config", str(config)]
    dataset_prep.main([*run, "--workers", "1"])
    directory = config.parent / "full"
    capsys.readouterr()
    assert dataset_prep.main([*run, "--inspect", str(directory), "--documents", "4"]) == 0
    report = capsys.readouterr().out
    shown = [article for article in articles if article in report]
    assert len(shown) == 4
    assert f"sha256 verified for all {len(TokenDataset.open(directory).files)} files" in report
    assert (directory / "document_lengths.png").read_bytes().startswith(b"\x89PNG")
    with (directory / "tokens_1.npy").open("r+b") as stream:
        stream.seek(-2, 2)
        stream.write(b"\x05\x00")
    assert exit_code_of(lambda: dataset_prep.main([*run, "--inspect", str(directory)])) == 1
    assert "sha256 does not match metadata.json for tokens_1.npy" in capsys.readouterr().err


def test_an_inspection_fits_one_screen(config, articles, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run = ["--config", str(config)]
    dataset_prep.main([*run, "--workers", "1"])
    monkeypatch.chdir(config.parent)
    capsys.readouterr()
    dataset_prep.main([*run, "--inspect", "full"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("document ") for line in lines) == 5
    assert exit_code_of(lambda: dataset_prep.main([*run, "--documents", "4"])) == 2


def test_inspect_gives_every_document_whole(config, articles):
    from pipeline.preparation.inspection import document, document_starts

    dataset_prep.main(["--config", str(config), "--workers", "1"])
    dataset = TokenDataset.open(config.parent / "full")
    tokenizer = WikipediaTokenizer(config.parent / "tokenizer")
    starts = document_starts(dataset, tokenizer.bos_id)
    assert [tokenizer.decode(document(dataset, starts, number)) for number in range(300)] == articles


@pytest.mark.parametrize("metadata", ['{"tokenizer": "codellama"}', '{"files": 3}', '{"vocab_size": "300"}', "[]", ""])
def test_inspect_describes_an_older_tools_dataset(config, capsys, metadata):
    directory = config.parent / "old"
    directory.mkdir()
    tokenizer = WikipediaTokenizer(config.parent / "tokenizer")
    ids = np.array(tokenizer.encode("the old tower of a town " * 20)[:96], dtype=np.uint16)
    np.save(directory / "tokens_0.npy", ids.reshape(6, 16))
    (directory / "metadata.json").write_text(metadata)
    inspect = ["--config", str(config), "--inspect", str(directory)]
    assert dataset_prep.main(inspect) == 0
    report = capsys.readouterr().out
    assert "windows of 16" in report
    assert "the old tower of a town" in report
    np.save(directory / "tokens_0.npy", ids)  # a stream without a fixed window
    if metadata:
        assert dataset_prep.main(inspect) == 0
        assert "windows of 32" in capsys.readouterr().out
    np.save(directory / "tokens_0.npy", np.full((6, 16), 300, dtype=np.uint16))
    assert exit_code_of(lambda: dataset_prep.main(inspect)) == 1
    assert (
        "tokens_0.npy contains token id 300 at position 0; expected ids below the vocabulary size of 300"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("signal_name", "code"), [("SIGKILL", -9), ("SIGINT", 130), pytest.param("SIGTERM", 143, marks=pytest.mark.slow)]
)
def test_killed_run_resumes_to_the_same_bytes(config, articles, signal_name, code):
    """With real processes: the worker dies with its parent, and the next run continues."""
    cleaned = config.parent / "cleaned" / "cleaned_1.txt"
    lines = (to_line(article) + f" {number}\n" for number in range(8) for article in articles)
    cleaned.write_text("".join(lines), encoding="utf-8", newline="\n")
    command = [sys.executable, "dataset_prep.py", "--config", str(config), "--workers", "2", "--batch", "50"]

    def folder(name: str) -> list[str]:
        return ["--set", f"dataset.wikipedia_full_dir={config.parent / name}"]

    process = subprocess.Popen([*command, *folder("stopped")], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    state = config.parent / "stopped" / "unfinished" / "shard_000001.json"
    while not state.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(getattr(signal, signal_name))
    output, errors = process.communicate()
    assert process.returncode == code, errors
    assert (b"run the same command again to continue" in output) == (signal_name != "SIGKILL")
    assert not (config.parent / "stopped" / "metadata.json").exists()
    for name in ("stopped", "whole"):
        subprocess.run([*command, *folder(name)], cwd=ROOT, check=True, capture_output=True)
    whole, stopped = (
        {path.name: path.read_bytes() for path in (config.parent / name).iterdir()} for name in ("whole", "stopped")
    )
    assert whole == stopped
