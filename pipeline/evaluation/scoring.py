"""The log-probabilities that a model gives to continuations, in batches, the same as one by one.

scores = Scorer(model).score(requests)
scores[0].total, scores[0].greedy_chance
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from model import TransformerLM
from pipeline.evaluation.requests import Ids, Request
from pipeline.modeling.kv_cache import KVCache
from utils.errors import PipelineError

# Logits held at once: rows of the whole vocabulary. What fits the CPU's cache is fastest there.
_HEAD_ROWS = {"cpu": 256, "cuda": 4096, "mps": 1024}
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768, "mps": 8192}
MAX_RANK = 10  # far enough for top-10 accuracy; the exact rank would be one more pass over all logits
_SHARED_CONTEXT = 8  # shorter contexts are not worth a pass of their own


@dataclass(frozen=True)
class Score:
    """Of each scored token: `logprobs` float32; `ranks`, how many tokens were likelier, MAX_RANK for more; `tied`, how
    many were as likely, the token itself included, exact below MAX_RANK."""

    logprobs: np.ndarray
    ranks: np.ndarray
    tied: np.ndarray

    @property
    def total(self) -> float:
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def greedy_chance(self) -> float:
        """How likely greedy decoding writes these tokens if it picks at random among equals: without ties 1 or 0."""
        return float(self.top_chance(1).prod())

    def top_chance(self, k: int) -> np.ndarray:
        """For each token the chance to be among the `k` likeliest: below 1 only if it ties for the last places."""
        return np.clip((k - self.ranks) / self.tied, 0.0, 1.0)


class Scorer:
    """Scores requests with one model, gradients off.

    Args:
        batch_tokens: padded tokens of a forward pass at most, a longer request passes alone.
    """

    def __init__(self, model: TransformerLM, *, batch_tokens: int | None = None) -> None:
        self.model = model.eval()
        self.window = model.config.context_length
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, 8192)
        self.head_rows = _HEAD_ROWS.get(model.device.type, 1024)

    @torch.inference_mode()
    def score(self, requests: Sequence[Request], *, label: str = "") -> list[Score]:
        """The scores in the order of `requests`. A context that several share is read once.

        What is longer than the model's context loses the beginning of its own context, as in the harness.

        Raises:
            PipelineError: a continuation alone is longer than the model's context.
        """
        groups = defaultdict(list)
        for index, request in enumerate(requests):
            groups[self._cut(request).context].append(index)
        alone = [index for context, group in groups.items() if not self._is_shared(context, group) for index in group]
        shared = [(context, group) for context, group in groups.items() if self._is_shared(context, group)]
        scores: dict[int, Score] = {}
        with tqdm(total=len(requests), desc=label, unit=" requests", leave=False, disable=None) as bar:
            for batch in self._batches(alone, [len(r.context) + len(r.continuation) for r in requests]):
                scores.update(zip(batch, self._score_alone([self._cut(requests[i]) for i in batch]), strict=True))
                bar.update(len(batch))
            lengths = [len(c) + sum(len(requests[i].continuation) for i in g) for c, g in shared]
            for batch in self._batches(range(len(shared)), lengths):
                indices = [index for group in batch for index in shared[group][1]]
                contexts = [shared[group][0] for group in batch]
                continuations = [[requests[index].continuation for index in shared[group][1]] for group in batch]
                scores.update(zip(indices, self._score_shared(contexts, continuations), strict=True))
                bar.update(len(indices))
        return [scores[index] for index in range(len(requests))]

    def _cut(self, request: Request) -> Request:
        """The last continuation token is predicted but never read, so window + 1 tokens fit."""
        surplus = len(request.context) + len(request.continuation) - (self.window + 1)
        if surplus <= 0:
            return request
        if surplus >= len(request.context):
            length = len(request.continuation)
            raise PipelineError(
                f"a continuation of {length:,} tokens is to be scored; the model's context holds {self.window:,}"
            )
        return Request(request.context[surplus:], request.continuation)

    @staticmethod
    def _is_shared(context: Ids, group: Sequence[int]) -> bool:
        return len(group) > 1 and len(context) >= _SHARED_CONTEXT

    def _batches(self, indices: Iterable[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        """`indices` by length, the longest first: a batch that is too large for the memory shows at once."""
        batch: list[int] = []
        for index in sorted(indices, key=lambda each: -lengths[each]):
            if batch and lengths[batch[0]] * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _score_alone(self, requests: Sequence[Request]) -> list[Score]:
        rows = [(*request.context, *request.continuation)[:-1] for request in requests]
        hidden = self.model.hidden_states(self._padded(rows))  # (B, T, C)
        wanted = [
            hidden[row, len(ids) - len(request.continuation) : len(ids)]
            for row, (ids, request) in enumerate(zip(rows, requests, strict=True))
        ]
        return self._score_hidden(torch.cat(wanted), [request.continuation for request in requests])

    def _score_shared(self, contexts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]) -> list[Score]:
        """Each context is read once; its continuations go on from its cache, a row each."""
        longest = max(len(continuation) for group in continuations for continuation in group) - 1
        if len(contexts) > 1 and max(map(len, contexts)) + longest > self.window:
            # Padding would go beyond the context, as one group's long continuations meet another's long context.
            alone = zip(contexts, continuations, strict=True)
            return [score for context, group in alone for score in self._score_shared([context], [group])]
        cache = self._cache(len(contexts), max(map(len, contexts)))
        hidden = self.model.hidden_states(self._padded(contexts), cache=cache)  # (B, T, C)
        owners = [owner for owner, group in enumerate(continuations) for _ in group]
        flat = [continuation for group in continuations for continuation in group]
        first = torch.stack([hidden[owner, len(contexts[owner]) - 1] for owner in owners])  # (N, C)
        if longest == 0:
            return self._score_hidden(first, flat)
        wide = self._cache(len(flat), cache.max_length + longest)
        wide.keys[..., : cache.max_length, :] = cache.keys[owners]
        wide.values[..., : cache.max_length, :] = cache.values[owners]
        wide.truncate([len(contexts[owner]) for owner in owners])
        rest = self.model.hidden_states(self._padded([ids[:-1] for ids in flat], longest), cache=wide)  # (N, T, C)
        wanted = [torch.cat([first[row : row + 1], rest[row, : len(ids) - 1]]) for row, ids in enumerate(flat)]
        return self._score_hidden(torch.cat(wanted), flat)

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
        """`hidden` (N, C) are the positions that predict the tokens of `continuations`, one after another."""
        targets = torch.tensor([each for ids in continuations for each in ids], device=hidden.device)
        logprobs, ranks, tied = [], [], []
        for start in range(0, len(targets), self.head_rows):
            target = targets[start : start + self.head_rows]
            logits = self.model.project(hidden[start : start + self.head_rows]).float()  # (n, V)
            logprobs.append(-F.cross_entropy(logits, target, reduction="none"))
            likelier, equal = _ranks(logits, target)
            ranks.append(likelier)
            tied.append(equal)
        found = [torch.cat(values).cpu().numpy() for values in (logprobs, ranks, tied)]
        ends = list(accumulate(len(ids) for ids in continuations))
        spans = [slice(end - len(ids), end) for end, ids in zip(ends, continuations, strict=True)]
        return [Score(*(values[span] for values in found)) for span in spans]


def _ranks(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How many of `logits` (N, V) are above each target's, MAX_RANK for more, and how many equal it; (N,) each."""
    chosen = logits.gather(1, targets[:, None])
    best = logits.topk(min(MAX_RANK + 1, logits.shape[1]), dim=1).values  # a tie of the tenth shows in the eleventh
    likelier, tied = (best > chosen).sum(1).clamp(max=MAX_RANK), (best == chosen).sum(1).clamp(min=1)
    unsure = torch.nonzero(tied > 1).squeeze(1)  # more may follow below the eleven
    if len(unsure):
        tied[unsure] = (logits[unsure] == chosen[unsure]).sum(1)
    return likelier, tied
