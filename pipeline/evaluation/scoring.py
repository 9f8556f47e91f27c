"""The log-probabilities that a model gives to continuations: batched, with the same results as one by one.

requests = encode_pairs(tokenizer, [("The capital of France is", " Paris")])
scores = Scorer(model).score(requests)
scores[0].total, scores[0].greedy_chance

Context and continuation are encoded together and then split, since a tokenizer may cut the seam differently. Every text
gets BOS before it, as in lm-evaluation-harness with ``add_bos_token=True``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from model import TransformerLM
from pipeline.modeling.kv_cache import KVCache
from pipeline.tokenization.interface import Tokenizer
from utils.errors import PipelineError

Ids = tuple[int, ...]

# Logits held at once: rows of the whole vocabulary. What fits the CPU's cache is fastest there.
_HEAD_ROWS = {"cpu": 256, "cuda": 4096, "mps": 1024}
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768, "mps": 8192}
MAX_RANK = 10  # far enough for top-10 accuracy; the exact rank would be one more pass over all logits
_SHARED_CONTEXT = 8  # shorter contexts are not worth a pass of their own


@dataclass(frozen=True)
class Request:
    """`continuation` is scored given `context`, which is never empty."""

    context: Ids
    continuation: Ids


@dataclass(frozen=True)
class Group:
    """Continuations of one context, and their places among the requests."""

    context: Ids
    continuations: list[Ids] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    @property
    def is_shared(self) -> bool:
        """Whether reading the context once, in a pass of its own, saves work."""
        return len(self.continuations) > 1 and len(self.context) >= _SHARED_CONTEXT

    @property
    def num_tokens(self) -> int:
        return len(self.context) + sum(map(len, self.continuations))

    def split(self) -> "list[Group]":
        """A group for each continuation."""
        pairs = zip(self.continuations, self.places, strict=True)
        return [Group(self.context, [continuation], [place]) for continuation, place in pairs]


@dataclass(frozen=True)
class Score:
    """The result for one continuation, (N,) arrays with a value for each token.

    Args:
        logprobs: float32, natural logarithm.
        ranks: how many tokens were likelier, MAX_RANK for more.
        tied: how many were as likely, the token itself included; exact for ranks below MAX_RANK.
    """

    logprobs: np.ndarray
    ranks: np.ndarray
    tied: np.ndarray

    @property
    def total(self) -> float:
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def greedy_chance(self) -> float:
        """The chance that greedy decoding, with ties broken at random, writes these tokens: without ties 1 or 0."""
        return float(self.top_chance(1).prod())

    def top_chance(self, k: int) -> np.ndarray:
        """(N,) each token's chance of being among the `k` likeliest; a fraction only if it ties for the last places."""
        chances: np.ndarray = (k - self.ranks) / self.tied
        return chances.clip(0.0, 1.0)


class Scorer:
    """Scores requests with one model, without gradients.

    Args:
        batch_tokens: the most padded tokens in a forward pass; a longer request gets a pass to itself.
    """

    def __init__(self, model: TransformerLM, *, batch_tokens: int | None = None) -> None:
        self.model = model.eval()
        self.window = model.config.context_length
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, 8192)
        self.head_rows = _HEAD_ROWS.get(model.device.type, 1024)

    @torch.inference_mode()
    def score(self, requests: Sequence[Request], *, label: str = "") -> list[Score]:
        """The scores in the order of `requests`. A context that several requests share is read once.

        A request longer than the model's context loses the beginning of its own context, as in the harness.

        Args:
            label: what the progress bar calls them.

        Raises:
            PipelineError: a continuation alone is longer than the model's context.
        """
        groups = self._groups(requests)
        shared = [group for group in groups if group.is_shared]
        alone = [single for group in groups if not group.is_shared for single in group.split()]
        passes: list[tuple[Callable[[Sequence[Group]], list[Score]], list[Group]]] = [
            (self._score_alone, alone),
            (self._score_shared, shared),
        ]
        scores: dict[int, Score] = {}
        with tqdm(total=len(requests), desc=label, unit=" requests", leave=False, disable=None) as bar:
            for score_batch, waiting in passes:
                for batch in self._batches(waiting):
                    places = [place for group in batch for place in group.places]
                    scores.update(zip(places, score_batch(batch), strict=True))
                    bar.update(len(places))
        return [scores[place] for place in range(len(requests))]

    def _groups(self, requests: Sequence[Request]) -> list[Group]:
        groups: dict[Ids, Group] = {}
        for place, request in enumerate(requests):
            context = self._fitting_context(request)
            group = groups.setdefault(context, Group(context))
            group.continuations.append(request.continuation)
            group.places.append(place)
        return list(groups.values())

    def _fitting_context(self, request: Request) -> Ids:
        """The last continuation token is predicted but never read, so window + 1 tokens fit."""
        surplus = len(request.context) + len(request.continuation) - (self.window + 1)
        if surplus <= 0:
            return request.context
        if surplus >= len(request.context):
            length = len(request.continuation)
            raise PipelineError(
                f"a continuation of {length:,} tokens is to be scored; the model's context holds {self.window:,}"
            )
        return request.context[surplus:]

    def _batches(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        """The longest groups first: a batch that is too large for the memory shows at once."""
        batch: list[Group] = []
        for group in sorted(groups, key=lambda group: group.num_tokens, reverse=True):
            if batch and batch[0].num_tokens * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(group)
        if batch:
            yield batch

    def _score_alone(self, groups: Sequence[Group]) -> list[Score]:
        """Groups of one continuation, each a row of its context and its continuation."""
        continuations = [continuation for group in groups for continuation in group.continuations]
        rows = [(*group.context, *continuation)[:-1] for group, continuation in zip(groups, continuations, strict=True)]
        hidden = self.model.hidden_states(self._padded(rows))  # (B, T, C)
        predicting = [
            hidden[row, len(ids) - len(continuation) : len(ids)]
            for row, (ids, continuation) in enumerate(zip(rows, continuations, strict=True))
        ]
        return self._score_hidden(torch.cat(predicting), continuations)

    def _score_shared(self, groups: Sequence[Group]) -> list[Score]:
        """Each context is read once; its continuations, a row each, continue from its cache."""
        contexts = [group.context for group in groups]
        continuations = [continuation for group in groups for continuation in group.continuations]
        longest_context = max(map(len, contexts))
        longest = max(map(len, continuations)) - 1  # the last token is predicted but never read
        if len(groups) > 1 and longest_context + longest > self.window:
            # Padding would exceed the context, as one group's long continuations meet another's long context.
            return [score for group in groups for score in self._score_shared([group])]
        cache = self._cache(len(groups), longest_context)
        hidden = self.model.hidden_states(self._padded(contexts), cache=cache)  # (B, T, C)
        owners = [owner for owner, group in enumerate(groups) for _ in group.continuations]
        first = torch.stack([hidden[owner, len(contexts[owner]) - 1] for owner in owners])  # (N, C)
        if longest == 0:
            return self._score_hidden(first, continuations)
        wide = self._cache(len(continuations), cache.max_length + longest)
        wide.keys[..., : cache.max_length, :] = cache.keys[owners]
        wide.values[..., : cache.max_length, :] = cache.values[owners]
        wide.truncate([len(contexts[owner]) for owner in owners])
        read = self._padded([ids[:-1] for ids in continuations], longest)
        rest = self.model.hidden_states(read, cache=wide)  # (N, T, C)
        predicting = [
            torch.cat([first[row : row + 1], rest[row, : len(ids) - 1]]) for row, ids in enumerate(continuations)
        ]
        return self._score_hidden(torch.cat(predicting), continuations)

    def _cache(self, rows: int, length: int) -> KVCache:
        model = self.model
        return KVCache(model.config, batch_size=rows, max_length=length, device=model.device, dtype=model.dtype)

    def _padded(self, rows: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
        """(B, T), shorter rows filled up on the right, where causal attention does not look."""
        ids = np.zeros((len(rows), length or max(map(len, rows))), dtype=np.int64)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
        return torch.from_numpy(ids).to(self.model.device)

    def _score_hidden(self, hidden: Tensor, continuations: Sequence[Ids]) -> list[Score]:
        """Scores from the hidden states (N, C) that predict the tokens of `continuations`, one after another."""
        targets = torch.tensor([token for ids in continuations for token in ids], device=hidden.device)
        logprobs: list[Tensor] = []
        ranks: list[Tensor] = []
        tied: list[Tensor] = []
        for start in range(0, len(targets), self.head_rows):
            target = targets[start : start + self.head_rows]
            logits = self.model.project(hidden[start : start + self.head_rows]).float()  # (n, V)
            logprobs.append(-F.cross_entropy(logits, target, reduction="none"))
            likelier, equal = _ranks(logits, target)
            ranks.append(likelier)
            tied.append(equal)
        scored = Score(*(torch.cat(values).cpu().numpy() for values in (logprobs, ranks, tied)))
        ends = list(accumulate(len(ids) for ids in continuations))
        spans = [slice(end - len(ids), end) for end, ids in zip(ends, continuations, strict=True)]
        return [Score(scored.logprobs[span], scored.ranks[span], scored.tied[span]) for span in spans]


def _ranks(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How many of `logits` (N, V) are above each target's, MAX_RANK for more, and how many equal it; (N,) each."""
    chosen = logits.gather(1, targets[:, None])
    best = logits.topk(min(MAX_RANK + 1, logits.shape[1]), dim=1).values  # a tie of the tenth shows in the eleventh
    likelier = (best > chosen).sum(1).clamp(max=MAX_RANK)
    tied = (best == chosen).sum(1).clamp(min=1)
    unsure = torch.nonzero(tied > 1).squeeze(1)  # more may follow below the eleven
    if len(unsure):
        tied[unsure] = (logits[unsure] == chosen[unsure]).sum(1)
    return likelier, tied


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """A request for each (context, continuation). White space at the context's end goes to the continuation.

    Raises:
        PipelineError: a continuation has no tokens.
    """
    pairs = [_move_spaces(*pair) for pair in pairs]
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    encoded = dict(zip(contexts, encode_with_bos(tokenizer, contexts), strict=True))
    wholes = encode_with_bos(tokenizer, [context + continuation for context, continuation in pairs])
    requests = []
    for (context, continuation), whole in zip(pairs, wholes, strict=True):
        given = encoded[context]
        if len(whole) <= len(given):
            raise PipelineError(f"the continuation {continuation!r} of {context[-40:]!r} has no tokens to score")
        requests.append(Request(given, whole[len(given) :]))
    return requests


def encode_with_bos(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    return [(tokenizer.bos_id, *ids.tolist()) for ids in tokenizer.encode_batch(texts)]


def regroup(flat: Sequence[Score], sizes: Sequence[int]) -> list[list[Score]]:
    """`flat` cut into lists of `sizes`."""
    iterator = iter(flat)
    return [[next(iterator) for _ in range(size)] for size in sizes]


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation
