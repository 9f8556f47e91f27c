"""Answers that are JSON and follow a schema, by llguidance: it finds the tokens that may come next.

    grammars = JsonGrammars(tokenizer)
    settings = GenerationSettings(constraint=grammars.compile({"type": "object"}))

The grammar is matched against the tokenizer's own bytes, so it holds for every tokenizer with `token_bytes`.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.tokenization.interface import Tokenizer
from utils.errors import PipelineError

if TYPE_CHECKING:
    import llguidance
    from llguidance._lib import JsonCompileOptions

INSTALL = "pip install -r requirements.txt (llguidance)"
# A model that is unsure would otherwise write spaces without end, or half of a surrogate pair as an escape.
FORMAT: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": '"\\bfnrt',
    "lenient": False,
    "coerce_one_of": False,
}


class JsonGrammars:
    """Compiles JSON schemas for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def compile(self, schema: Mapping[str, Any]) -> "JsonGrammar":
        """The constraint of answers that follow `schema`.

        Raises:
            PipelineError: the schema is invalid, or has a keyword that cannot be enforced.
        """
        try:
            import llguidance
        except ModuleNotFoundError:
            raise PipelineError(f"JSON schemas need a package that is not installed: {INSTALL}") from None
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=FORMAT)
        except ValueError as error:
            raise _refusal(str(error)) from None
        matcher = llguidance.LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        return JsonGrammar(matcher, self._tokenizer.vocab_size)

    @cached_property
    def _vocabulary(self) -> "llguidance.LLTokenizer":
        import llguidance

        wrapper = llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer))
        return llguidance.LLTokenizer(wrapper, n_vocab=self._tokenizer.vocab_size)


class JsonGrammar:
    """A compiled schema."""

    def __init__(self, matcher: "llguidance.LLMatcher", vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def start(self) -> "JsonAnswer":
        return JsonAnswer(self._matcher.deep_copy(), self._vocab_size)


class JsonAnswer:
    """One answer's place in the grammar."""

    def __init__(self, matcher: "llguidance.LLMatcher", vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def is_finished(self) -> bool:
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    def allowed(self) -> Tensor:
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise _refusal(self._matcher.get_error())
        bits = np.unpackbits(mask, bitorder="little", count=self._vocab_size)
        return torch.from_numpy(bits).bool()

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)


class _Vocabulary:
    """A tokenizer in the form that llguidance reads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = list(tokenizer.token_bytes())
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = [token for token, data in enumerate(self.tokens) if not data]
        for token in self.special_token_ids:
            self.tokens[token] = f"<special {token}>".encode()
        self._single_bytes = {data: token for token, data in enumerate(self.tokens) if len(data) == 1}

    def __call__(self, text: bytes) -> list[int]:
        """The ids of a text that follows another one, so without the space that begins a text."""
        ids = self._tokenizer.encode("\n" + text.decode("utf-8"))
        before = len(self._tokenizer.encode("\n"))
        after = ids[before:]
        if b"".join(self.tokens[token] for token in after) == text:
            return after
        return [self._single_bytes[bytes([value])] for value in text]


def _refusal(error: str) -> PipelineError:
    reason = " ".join(error.split())
    return PipelineError(f"the JSON schema cannot be enforced: {reason}")
