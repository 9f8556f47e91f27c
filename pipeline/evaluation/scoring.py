"""Score continuations by their log-probabilities, in batches that give the same results as one by one.

requests = encode_pairs(tokenizer, [("The capital of France is", " Paris")])
scores = Scorer(model).score(requests)
scores[0].total, scores[0].greedy_chance

Context and continuation are encoded together and then split, because tokens can depend on both sides of the split.
Every text starts with BOS, as in lm-evaluation-harness with ``add_bos_token=True``.
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

# Rows of logits in memory at a time. On a CPU, it is fastest if they fit in the cache.
_HEAD_ROWS = {"cpu": 256, "cuda": 4096, "mps": 1024}
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768, "mps": 8192}
MAX_RANK = 10  # enough for top-10 accuracy; exact ranks would need another pass over all logits
_SHARED_CONTEXT = 8  # a separate pass does not pay off for shorter contexts


@dataclass(frozen=True)
class Request:
    """`continuation` is scored given `context`, which is never empty."""

    context: Ids
    continuation: Ids


@dataclass(frozen=True)
class Group:
    """Continuations of the same context, and their indices among the requests."""

    context: Ids
    continuations: list[Ids] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    @property
    def is_shared(self) -> bool:
        """Whether reading the context once in a separate pass saves work."""
        return len(self.continuations) > 1 and len(self.context) >= _SHARED_CONTEXT

    @property
    def num_tokens(self) -> int:
        return len(self.context) + sum(map(len, self.continuations))

    def split(self) -> "list[Group]":
        """Split into one group per continuation."""
        pairs = zip(self.continuations, self.places, strict=True)
        return [Group(self.context, [continuation], [place]) for continuation, place in pairs]


@dataclass(frozen=True)
class Score:
    """The result for one continuation, as (N,) arrays with one value per token.

    Args:
        logprobs: float32, natural logarithm.
        ranks: the number of more likely tokens, capped at MAX_RANK.
        tied: the number of equally likely tokens, including the token itself; exact for ranks below MAX_RANK.
    """

    logprobs: np.ndarray
    ranks: np.ndarray
    tied: np.ndarray

    @property
    def total(self) -> float:
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def greedy_chance(self) -> float:
        """The chance that greedy decoding, with ties broken at random, generates these tokens: 1 or 0 without ties."""
        return float(self.top_chance(1).prod())

    def top_chance(self, k: int) -> np.ndarray:
        """(N,) each token's chance of being in the top `k`; fractional only if it ties for the last places."""
        chances: np.ndarray = (k - self.ranks) / self.tied
        return chances.clip(0.0, 1.0)


class Scorer:
    """Score requests with a model, without gradients.

    Args:
        batch_tokens: maximum number of padded tokens in a forward pass; a longer request gets its own pass.
    """

    def __init__(self, model: TransformerLM, *, batch_tokens: int | None = None) -> None:
        self.model = model.eval()
        self.window = model.config.context_length
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, 8192)
        self.head_rows = _HEAD_ROWS.get(model.device.type, 1024)

    @torch.inference_mode()
    def score(self, requests: Sequence[Request], *, label: str = "") -> list[Score]:
        """The scores in the order of `requests`. A context shared by several requests is read once.

        If a request is longer than the model's context, the start of its context is cut off, as in the harness.

        Args:
            label: the label of the progress bar.

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
        """The last continuation token is predicted but not read, so window + 1 tokens fit."""
        surplus = len(request.context) + len(request.continuation) - (self.window + 1)
        if surplus <= 0:
            return request.context
        if surplus >= len(request.context):
            length = len(request.continuation)
            raise PipelineError(
                f"a continuation has {length:,} tokens, but the model's context is only {self.window:,}"
            )
        return request.context[surplus:]

    def _batches(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        """Sort the longest groups first, so that a batch that does not fit into memory fails immediately."""
        batch: list[Group] = []
        for group in sorted(groups, key=lambda group: group.num_tokens, reverse=True):
            if batch and batch[0].num_tokens * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(group)
        if batch:
            yield batch

    def _score_alone(self, groups: Sequence[Group]) -> list[Score]:
        """Score groups of one continuation; each is a row with its context and continuation."""
        continuations = [continuation for group in groups for continuation in group.continuations]
        rows = [(*group.context, *continuation)[:-1] for group, continuation in zip(groups, continuations, strict=True)]
        hidden = self.model.hidden_states(self._padded(rows))  # (B, T, C)
        predicting = [
            hidden[row, len(ids) - len(continuation) : len(ids)]
            for row, (ids, continuation) in enumerate(zip(rows, continuations, strict=True))
        ]
        return self._score_hidden(torch.cat(predicting), continuations)

    def _score_shared(self, groups: Sequence[Group]) -> list[Score]:
        """Read each context once, and score its continuations, one per row, from its cache."""
        contexts = [group.context for group in groups]
        continuations = [continuation for group in groups for continuation in group.continuations]
        longest_context = max(map(len, contexts))
        longest = max(map(len, continuations)) - 1  # the last token is predicted but not read
        if len(groups) > 1 and longest_context + longest > self.window:
            # Padding long continuations of one group to another's long context would exceed the model's context.
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
        """(B, T), with shorter rows padded on the right, which causal attention ignores."""
        ids = np.zeros((len(rows), length or max(map(len, rows))), dtype=np.int64)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
        return torch.from_numpy(ids).to(self.model.device)

    def _score_hidden(self, hidden: Tensor, continuations: Sequence[Ids]) -> list[Score]:
        """Scores from the concatenated hidden states (N, C) that predict the tokens of `continuations`."""
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
    """For each target, how many of `logits` (N, V) are larger, capped at MAX_RANK, and how many are equal; (N,)
    each."""
    chosen = logits.gather(1, targets[:, None])
    best = logits.topk(min(MAX_RANK + 1, logits.shape[1]), dim=1).values  # the eleventh reveals ties with the tenth
    likelier = (best > chosen).sum(1).clamp(max=MAX_RANK)
    tied = (best == chosen).sum(1).clamp(min=1)
    unsure = torch.nonzero(tied > 1).squeeze(1)  # there may be more ties below the eleventh
    if len(unsure):
        tied[unsure] = (logits[unsure] == chosen[unsure]).sum(1)
    return likelier, tied


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """A request for each (context, continuation). White space at the end of the context moves to the continuation.

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
            raise PipelineError(
                f"the continuation {continuation!r} after {context[-40:]!r} contains no tokens to score"
            )
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
