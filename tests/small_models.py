"""Small checkpoints for tests: a trained tokenizer and a model with random weights, in the pipeline's format."""

import json
from pathlib import Path

import torch

from model import TransformerLM, create_model
from pipeline.configuration import config_from_dict
from pipeline.formats.chat_template import TEMPLATE_NAME
from pipeline.formats.checkpoint import write_checkpoint
from pipeline.formats.checkpoint_tokenizer import describe_tokenizer
from pipeline.modeling.config import ModelConfig
from tokenizer import WikipediaTokenizer

SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 96,
}
_WORDS = "the quick brown fox jumps over a lazy dog while User and Assistant talk about language models in Zürich"


def trained_tokenizer(directory: Path, *, vocab_size: int = 340) -> WikipediaTokenizer:
    """A tokenizer in `directory`, trained on a few sentences."""
    directory.mkdir(parents=True, exist_ok=True)
    words = _WORDS.split()
    lines = [" ".join(words[(i * step) % len(words)] for i in range(1, 9)) for step in range(1, 60)]
    text = directory.parent / "text.txt"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = WikipediaTokenizer.train([text], vocab_size, directory)
    tokenizer.save()
    return tokenizer


def decisive_model(*, vocab_size: int, context: int) -> TransformerLM:
    """Random weights, scaled up so that the most likely token is clear."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=context,
    )
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
    return model


def small_checkpoint(path: Path, tokenizer, *, chat: bool | str = False, weight_scale: float = 8.0, **shape) -> Path:
    """A checkpoint with random weights, scaled up so that every part of the model affects the logits.

    `chat` is whether it has a chat template, or the template's name.
    """
    settings = {
        "paths": {"tokenizer_dir": str(tokenizer.directory)},
        "model": {**SHAPE, "vocab_size": tokenizer.vocab_size, **shape},
        "dataset": {"window": 32},
    }
    config = config_from_dict(settings, origin="test")
    torch.manual_seed(0)
    model = create_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(weight_scale if parameter.dim() > 1 else 1).add_(torch.randn_like(parameter) * 0.02)
    content = {
        "model": model.state_dict(),
        "config": json.loads(json.dumps(config.to_dict())),
        "tokenizer": describe_tokenizer(tokenizer),
        "step": 12,
        "tokens_seen": 3456,
        "best": {"loss": 2.5},
        "name": "small",
    }
    write_checkpoint(path, content | ({"chat_template": TEMPLATE_NAME if chat is True else chat} if chat else {}))
    return path
