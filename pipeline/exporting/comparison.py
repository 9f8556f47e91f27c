"""What an exported model is compared on: texts to tokenize, prompts to continue, and how much logits may differ."""

from typing import TypedDict

import torch
from torch import Tensor

from pipeline.tokenization.interface import Tokenizer

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces before,\ttabs\n\n\nnewlines and   runs  \n",
    "Zürich, naïve, Ελλάδα, 東京, 한국어, עברית, 🙂👩‍👩‍👧 and e\u0301",
    "def f(x):\n    return {'a': x ** 2, \"b\": [1, 2.5e-3]}  # comment",
    "",
)
NEW_TOKENS = 24  # greedy tokens after each prompt


class Comparison(TypedDict, total=False):
    """What was compared. A key is missing if the program that it needs is not installed."""

    tensors: int
    logit_difference: float  # the largest, as a share of the largest logit
    greedy_tokens: int


def greedy_prompts(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text, add_bos=True) for text in TEXTS[:2]]


def random_ids(vocab_size: int, shape: tuple[int, int], *, first: int = 0) -> Tensor:
    """(B, T) ids from `first` on, the same each time."""
    return torch.randint(first, vocab_size, shape, generator=torch.Generator().manual_seed(0))


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference between two tensors of logits, as a share of the largest logit."""
    return float(((expected - found).abs().max() / expected.abs().max().clamp(min=1)).item())
