"""The quickstart from raw text to a tuned model, through main.py, with a tiny model and little text."""

import json

import pytest

import quickstart


@pytest.mark.slow
def test_the_whole_quickstart_with_a_tiny_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {
        "raw_dir": "out/raw", "cleaned_dir": "out/cleaned", "tokenizer_dir": "out/tokenizer", "log_dir": "out/logs",
        "checkpoint_dir": "out/checkpoints", "benchmark_dir": "out/results", "post_training_dir": "out/post-training",
    }  # fmt: skip
    overlay = json.loads("\n".join(line.split("//")[0] for line in quickstart.DEFAULT_CONFIG.read_text().splitlines()))
    overlay["paths"] = paths
    overlay["dataset"]["custom_dir"] = "out/dataset"
    overlay["model"] |= {"vocab_size": 600, "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 1}
    overlay["training"] |= {"compile": "off", "max_steps": 6, "warmup_steps": 2, "val_tokens": 2000}
    overlay["sft"] |= {"max_length": 24, "val_split": 0.1}  # only few conversations are this short
    (tmp_path / "tiny.json").write_text(json.dumps(overlay))
    arguments = ["--config", str(tmp_path / "tiny.json"), "--characters", "600000"]
    assert quickstart.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    before = lines[: lines.index("━━ Summary")]
    for stage in ("corpus", "cleanup", "tokenize", "prepare", "lima", "train", "sft", "benchmark", "inference"):
        assert any(line.startswith(f"✓ {stage}") for line in before)
    assert len(before) <= 30
    assert max(map(len, lines)) <= 80
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert "of 300 held-out questions right" in summary
    assert "of 50 unknown ones admitted" in summary
    for picture in ("loss.png", "score.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")
    assert quickstart.main(arguments) == 0
    assert "use --again to train it again" in capsys.readouterr().out
