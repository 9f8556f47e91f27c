"""Continuations grouped by their context, in one pass over the model, without padding.

    packed = PackedGroups(groups, model)
    hidden = model.hidden_states(packed.ids, cache=packed)[0]     # (N, C)
    predicting = hidden[packed.predicting]                        # one row for each token to score

All groups are one sequence. Each has its context once, followed by its continuations without their last tokens, which
are predicted but not read. A continuation sees the context and itself; its positions follow those of the context. The
model takes this for a cache, because a cache decides about positions and attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from model import TransformerLM
from pipeline.modeling.attention_kernels import Mask, attend

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Different continuations of the same context, with the indices of the requests that ask for each."""

    context: Ids
    places: dict[Ids, list[int]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """The tokens that the model reads."""
        return len(self.context) + sum(len(continuation) - 1 for continuation in self.places)


class PackedGroups:
    """One sequence of all tokens of `groups`; N in all."""

    def __init__(self, groups: Sequence[Group], model: TransformerLM) -> None:
        self._device, self._dtype = model.device, model.dtype
        ids: list[int] = []
        positions: list[int] = []
        predicting: list[int] = []
        self._parts: list[tuple[slice, Tensor | None]] = []
        for group in groups:
            start, length = len(ids), len(group.context)
            ids += group.context
            positions += range(length)
            for continuation in group.places:
                predicting += [start + length - 1, *range(len(ids), len(ids) + len(continuation) - 1)]
                ids += continuation[:-1]
                positions += range(length, length + len(continuation) - 1)
            self._parts.append((slice(start, len(ids)), self._mask(group)))
        self.ids = torch.tensor([ids], device=self._device)  # (1, N)
        self.predicting = torch.tensor(predicting, device=self._device)
        self._positions = torch.tensor(positions, device=self._device)  # (N,)

    def positions(self, num_tokens: int) -> Tensor:
        """The position of every token in its text, (N,)."""
        assert num_tokens == len(self._positions)
        return self._positions

    def mask(self, num_tokens: int) -> None:
        """None, because no mask fits all groups; `attend` has one for each."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        """Attention of `q` (1, N, H, D) over `k`, `v` (1, N, K, D) within each group → (1, N, H, D)."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (1, H, N, D), and (1, K, N, D) twice
        results = [attend(q[:, :, part], k[:, :, part], v[:, :, part], group_mask) for part, group_mask in self._parts]
        return torch.cat([y.transpose(1, 2) for y in results], dim=1)

    def advance(self, num_tokens: int) -> None:
        """Nothing is kept for a later pass."""

    def _mask(self, group: Group) -> Tensor | None:
        """What attention adds to its scores, (T, T): -inf between continuations. None if causal attention is right."""
        if len(group.places) == 1:
            return None
        lengths = [len(group.context), *(len(continuation) - 1 for continuation in group.places)]
        segments = torch.repeat_interleave(torch.tensor(lengths))  # (T,), 0 for the context
        same = (segments[:, None] == segments) | (segments == 0)
        seen = same.tril()
        mask = torch.zeros(seen.shape, dtype=self._dtype).masked_fill_(~seen, -torch.inf)
        return mask.to(self._device)


def split_group(group: Group, limit: int) -> list[Group]:
    """Parts of `group` that read at most `limit` tokens each, but at least one continuation."""
    room = max(0, limit - len(group.context))
    ends = list(accumulate(len(continuation) - 1 for continuation in group.places))
    parts: list[Group] = []
    used = 0  # tokens of the continuations in earlier parts
    for continuation, end in zip(group.places, ends, strict=True):
        if not parts or end - used > room:
            used = end - (len(continuation) - 1)
            parts.append(Group(group.context))
        parts[-1].places[continuation] = group.places[continuation]
    return parts
