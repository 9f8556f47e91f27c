"""Score continuations by their log-probabilities, in batches that give the same results as one by one.

requests = encode_pairs(tokenizer, [("The capital of France is", " Paris")])
scores = Scorer(model).score(requests)
scores[0].total, scores[0].greedy_chance

Context and continuation are encoded together and then split, because tokens can depend on both sides of the split.
Every text starts with BOS, as in lm-evaluation-harness with ``add_bos_token=True``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from model import TransformerLM
from pipeline.evaluation.packed_groups import Group, Ids, PackedGroups, split_group
from pipeline.tokenization.interface import Tokenizer
from utils.errors import PipelineError

# Rows of logits in memory at a time. On a CPU, it is fastest if they fit in the cache.
_HEAD_ROWS = {"cpu": 256, "cuda": 4096, "mps": 1024}
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768, "mps": 8192}
MAX_RANK = 10  # enough for top-10 accuracy; exact ranks would need another pass over all logits


@dataclass(frozen=True)
class Request:
    """`continuation` is scored given `context`, which is never empty."""

    context: Ids
    continuation: Ids


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
        batch_tokens: maximum number of tokens in a forward pass; a longer request gets its own pass.
    """

    def __init__(self, model: TransformerLM, *, batch_tokens: int | None = None) -> None:
        self.model = model.eval()
        self.window = model.config.context_length
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, 8192)
        self.head_rows = _HEAD_ROWS.get(model.device.type, 1024)

    @torch.inference_mode()
    def score(self, requests: Sequence[Request], *, label: str = "") -> list[Score]:
        """The scores in the order of `requests`.

        A context shared by several requests is read once. Equal requests are scored once, so that their scores tie.

        If a request is longer than the model's context, the start of its context is cut off, as in the harness.

        Args:
            label: the label of the progress bar.

        Raises:
            PipelineError: a continuation alone is longer than the model's context.
        """
        scores: dict[int, Score] = {}
        with tqdm(total=len(requests), desc=label, unit=" requests", leave=False, disable=None) as bar:
            for batch in self._batches(self._groups(requests)):
                found = self._score_groups(batch)
                places = [places for group in batch for places in group.places.values()]
                for score, same in zip(found, places, strict=True):
                    scores.update(dict.fromkeys(same, score))
                    bar.update(len(same))
        return [scores[place] for place in range(len(requests))]

    def _groups(self, requests: Sequence[Request]) -> list[Group]:
        groups: dict[Ids, Group] = {}
        for place, request in enumerate(requests):
            context = self._fitting_context(request)
            group = groups.setdefault(context, Group(context))
            group.places.setdefault(request.continuation, []).append(place)
        return [part for group in groups.values() for part in split_group(group, self.batch_tokens)]

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
        waiting = 0
        for group in sorted(groups, key=lambda group: group.num_tokens, reverse=True):
            if batch and waiting + group.num_tokens > self.batch_tokens:
                yield batch
                batch, waiting = [], 0
            batch.append(group)
            waiting += group.num_tokens
        if batch:
            yield batch

    def _score_groups(self, groups: Sequence[Group]) -> list[Score]:
        """The scores of all continuations, in one pass."""
        packed = PackedGroups(groups, self.model)
        hidden = self.model.hidden_states(packed.ids, cache=packed)[0]  # (N, C)
        return self._score_hidden(hidden[packed.predicting], [ids for group in groups for ids in group.places])

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
