"""A small world in which every stage runs in a fraction of a second: raw records, conversations, a configuration."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.tiny_model import model_section

WORDS = [
    "the",
    "old",
    "tower",
    "of",
    "a",
    "town",
    "is",
    "next",
    "to",
    "its",
    "river",
    "and",
    "nobody",
    "knows",
    "who",
    "built",
    "it",
    "or",
    "why",
    "they",
    "left",
]
PIECES, WINDOW = 300, 64

CONFIG = {
    "paths": {
        "raw_dir": "raw",
        "cleaned_dir": "cleaned",
        "tokenizer_dir": "tokenizer",
        "checkpoint_dir": "checkpoints",
        "log_dir": "logs",
        "post_training_dir": "conversations",
    },
    "cleaning": {"min_characters": 10},
    "dataset": {
        "source": "custom",
        "custom_dir": "dataset",
        "window": WINDOW,
        "file_tokens": 5000,
        "batch_size": 20,
        "workers": 1,
    },
    "model": model_section(vocab_size=PIECES, context=WINDOW),
    "training": {
        "device": "cpu",
        "compile": "off",
        "batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "max_steps": 6,
        "checkpoint_every_steps": 2,
        "keep_last": 1,
        "log_every_steps": 1,
        "val_tokens": 256,
        "validations_per_epoch": 25,
        "sample_prompts": ["the"],
        "sample_tokens": 2,
    },
    "sft": {
        "learning_rate": 5e-3,
        "batch_size": 9,
        "num_epochs": 2,
        "validations_per_epoch": 1,
        "max_length": 64,
        "sample_prompts": ["why?"],
        "sample_length": 2,
    },
}


def make_world(root: Path) -> None:
    """Write raw records, conversations and the configuration below `root`."""
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps(CONFIG, indent=2))
    (root / "raw").mkdir()
    random = Random(0)
    for name in ("a", "b"):
        lines = [json.dumps({"title": f"{name} {n}", "text": _text(random)}) for n in range(60)]
        lines[7] = '{"title": "without text"}'  # rejected
        (root / "raw" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    chats = [json.dumps({"conversations": turns}) for turns in _chats(random)]
    (root / "chats.jsonl").write_text("\n".join(chats) + "\n")


def _text(random: Random) -> str:
    return " ".join(random.choices(WORDS, k=40)) + ".\n\n" + " ".join(random.choices(WORDS, k=20)) + "."


def _chats(random: Random) -> Iterator[list[str]]:
    for _ in range(20):
        yield [" ".join(random.choices(WORDS, k=3)) + "?", " ".join(random.choices(WORDS, k=4))]
