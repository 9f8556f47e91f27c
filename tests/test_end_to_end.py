"""From raw text to a tuned model that answers: the quickstart, through the router, with a tiny model on little text."""

import json

import pytest

import quickstart


@pytest.mark.slow
def test_the_whole_quickstart_with_a_tiny_model(tmp_path):
    paths = {
        "raw_dir": "out/raw", "cleaned_dir": "out/cleaned", "tokenizer_dir": "out/tokenizer", "log_dir": "out/logs",
        "checkpoint_dir": "out/checkpoints", "benchmark_dir": "out/results", "post_training_dir": "out/post-training",
    }  # fmt: skip
    overlay = json.loads("\n".join(line.split("//")[0] for line in quickstart.DEFAULT_CONFIG.read_text().splitlines()))
    overlay["paths"] = paths
    overlay["dataset"]["custom_dir"] = "out/dataset"
    overlay["model"] |= {"vocab_size": 600, "hidden_size": 48, "num_hidden_layers": 1}
    overlay["training"] |= {"max_steps": 6, "warmup_steps": 2, "val_tokens": 2000}
    (tmp_path / "tiny.json").write_text(json.dumps(overlay))
    assert quickstart.main(["--config", str(tmp_path / "tiny.json"), "--corpus-bytes", "900000"]) == 0
    summary = (tmp_path / "out" / "summary.txt").read_text()
    for stage in ("corpus", "cleanup", "tokenize", "prepare", "train", "inference", "benchmark", "lima", "sft"):
        assert stage in summary
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")
