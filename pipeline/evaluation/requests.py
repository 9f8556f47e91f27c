"""Texts → token ids to score: a context that is given, a continuation that is scored.

Context and continuation are encoded together and split, since a tokenizer may cut the seam differently. Every text gets
BOS before it (lm-evaluation-harness with ``add_bos_token=True``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.errors import PipelineError

if TYPE_CHECKING:
    from tokenizer import WikipediaTokenizer

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """`continuation` is scored given `context`, which is never empty."""

    context: Ids
    continuation: Ids


def encode_pairs(tokenizer: "WikipediaTokenizer", pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """A request for each (context, continuation). White space at the context's end goes to the continuation."""
    pairs = [_move_spaces(*pair) for pair in pairs]
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    encoded = dict(zip(contexts, _encode(tokenizer, contexts), strict=True))
    wholes = _encode(tokenizer, [context + continuation for context, continuation in pairs])
    requests = []
    for (context, continuation), whole in zip(pairs, wholes, strict=True):
        given = encoded[context]
        if len(whole) <= len(given):
            raise PipelineError(f"the continuation {continuation!r} of {context[-40:]!r} has no tokens to score")
        requests.append(Request(given, whole[len(given) :]))
    return requests


def rolling_requests(tokenizer: "WikipediaTokenizer", text: str, *, window: int) -> list[Request]:
    """A whole text, every token scored once: blocks of `window` tokens, each given the token before it.

    The last block is shorter and gets as much context as the window has room for. The text's own BOS is scored as if it
    were text, given another BOS: so does the harness with ``add_bos_token=True`` (0.4.13). It is the first token of the
    first block; the corrected figures leave it out.
    """
    tokens = _encode(tokenizer, [text])[0]
    requests = [Request((tokenizer.bos_id,), tokens[:window])]
    for start in range(window, len(tokens), window):
        end = min(start + window, len(tokens))
        requests.append(Request(tokens[end - window - 1 : start], tokens[start:end]))
    return requests


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _encode(tokenizer: "WikipediaTokenizer", texts: Sequence[str]) -> list[Ids]:
    return [(tokenizer.bos_id, *ids.tolist()) for ids in tokenizer.encode_batch(texts)]
