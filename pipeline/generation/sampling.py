"""From logits to the next token, for a whole batch at once, each row with its own settings and its own randomness.

    tokens = sample_next_token(logits, settings, uniform=uniform)       # (B, V), B settings, (B,) → (B,)

Drawn by inverting the cumulative distribution at one uniform number a row. So a row's token depends on its logits, its
settings and its number alone, whoever shares the batch with it and whatever the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.generation.settings import GenerationSettings


def sample_next_token(
    logits: Tensor, settings: Sequence[GenerationSettings], *, uniform: Tensor, seen: Tensor | None = None
) -> Tensor:
    """One token a row.

    Args:
        logits: (B, V).
        settings: one for each row.
        uniform: (B,), numbers in [0, 1); greedy rows leave theirs unused.
        seen: (B, V), True for the tokens that a repetition penalty applies to; None: no row has a penalty.
    """
    logits = logits.float()
    if seen is not None:
        logits = penalise_repetition(logits, seen, _column(settings, "repetition_penalty", logits))
    tokens = logits.argmax(dim=-1)
    for way, rows in _rows_by_way(settings).items():
        chosen = [settings[row] for row in rows]
        everyone = len(rows) == len(settings)
        index = slice(None) if everyone else torch.tensor(rows, device=logits.device)
        tokens[index] = _draw(logits[index], chosen, uniform[index], way=way)
    return tokens


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Positive logits of seen tokens divided by `penalty` (B, 1), negative ones multiplied (Keskar et al. 2019)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _rows_by_way(settings: Sequence[GenerationSettings]) -> dict[str, list[int]]:
    """Rows by how their candidates are found: ``top_k`` of them, all ``sorted`` (for top-p), or ``all`` as they lie."""
    ways: dict[str, list[int]] = {}
    for row, each in enumerate(settings):
        if not each.is_greedy:
            way = "top_k" if each.top_k else "sorted" if each.top_p < 1 else "all"
            ways.setdefault(way, []).append(row)
    return ways


def _draw(logits: Tensor, settings: Sequence[GenerationSettings], uniform: Tensor, *, way: str) -> Tensor:
    # The largest becomes 0, so that no temperature, however low, overflows.
    scores = (logits - logits.amax(-1, keepdim=True)) / _column(settings, "temperature", logits)
    ids = None
    if way == "top_k":
        # Before top-p: 50 candidates are found and summed in 0.3 ms for 16 rows of 32,016; sorting all takes 19.
        most = min(max(each.top_k for each in settings), logits.shape[-1])
        scores, ids = scores.topk(most)  # (B, most), best first
        rank = torch.arange(most, device=logits.device)
        scores = scores.masked_fill(rank >= _column(settings, "top_k", logits), -torch.inf)
    elif way == "sorted":
        scores, ids = scores.sort(descending=True)
    probabilities = scores.softmax(-1)
    if ids is not None and any(each.top_p < 1 for each in settings):
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= _column(settings, "top_p", logits), 0.0)
    if any(each.min_p for each in settings):
        least = _column(settings, "min_p", logits) * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    place = _invert(probabilities, uniform)
    return place if ids is None else ids.gather(-1, place[:, None]).squeeze(-1)


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The first place of each row where the running sum exceeds `uniform` times the row's whole sum."""
    running = probabilities.cumsum(-1)
    # Kept off 1, where rounding would put the target on the sum itself, behind the last candidate.
    target = uniform.to(running).clamp(max=1 - 1e-6)[:, None] * running[:, -1:]
    return torch.searchsorted(running, target, right=True).squeeze(-1).clamp(max=probabilities.shape[-1] - 1)


def _column(settings: Sequence[GenerationSettings], name: str, like: Tensor) -> Tensor:
    """One value a row, (B, 1)."""
    return torch.tensor([[getattr(each, name)] for each in settings], dtype=torch.float32, device=like.device)
