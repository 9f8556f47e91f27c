"""Different numbers of tokens for different rows of a cache, in one pass over the weights and without padding.

    rows = RaggedRows(cache, counts=[1, 1, 1, 40, 7])     # three rows generate, two read their prompts
    hidden = model.hidden_states(ids, cache=rows)         # (1, 50) → (1, 50, C), row after row

All products see one sequence of N tokens; only attention treats the rows separately.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.modeling.attention_kernels import Mask, attend
from pipeline.modeling.kv_cache import KVCache


class RaggedRows:
    """A view of the first rows of `cache`, for `counts[i]` new tokens in row i.

    Rows with a single token should come first: those before the first longer one share a kernel call.
    """

    def __init__(self, cache: KVCache, counts: Sequence[int]) -> None:
        self._cache = cache
        self._counts = counts
        starts = cache.lengths[: len(counts)]
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        assert max(ends) <= cache.max_length, f"{max(ends)} positions do not fit in a cache of {cache.max_length}"
        num_singles = sum(1 for _ in itertools.takewhile(lambda count: count == 1, counts))
        self._num_singles = num_singles
        self._end = max(ends[:num_singles], default=0)  # of the longest of these rows
        self._singles_mask = self._additive(cache.rows(0, num_singles).mask(1)) if num_singles else None
        # Of each longer row: its number, its tokens' place in the sequence, its length with them, and its mask.
        self._longer: list[tuple[int, slice, int, Tensor | None]] = []
        first = num_singles
        for row in range(num_singles, len(counts)):
            place = slice(first, first + counts[row])
            self._longer.append((row, place, ends[row], self._causal_mask(starts[row], counts[row])))
            first = place.stop
        positions = itertools.chain.from_iterable(map(range, starts, ends))
        self._positions = torch.tensor(list(positions), device=cache.device)  # (N,)
        numbers = itertools.chain.from_iterable([row] * count for row, count in enumerate(counts))
        self._rows = torch.tensor(list(numbers), device=cache.device)  # (N,)

    def positions(self, num_tokens: int) -> Tensor:
        """The position of every token in its row, (N,)."""
        assert num_tokens == len(self._positions)
        return self._positions

    def mask(self, num_tokens: int) -> None:
        """None, because no mask fits all rows; `attend` has one for each."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        """Store the new `k`, `v` (1, N, K, D); attention of `q` (1, N, H, D) within each row → (1, N, H, D)."""
        keys, values = self._cache.keys[:, layer], self._cache.values[:, layer]  # (B, K, S, D)
        keys[self._rows, :, self._positions] = k[0]
        values[self._rows, :, self._positions] = v[0]
        results = []  # (…, H, D) each
        count = self._num_singles
        if count:
            queries = q[0, :count, :, None]  # (count, H, 1, D)
            y = attend(queries, keys[:count, :, : self._end], values[:count, :, : self._end], self._singles_mask)
            results.append(y[:, :, 0])
        for row, place, end, row_mask in self._longer:
            queries = q[:, place].transpose(1, 2)  # (1, H, T, D)
            y = attend(queries, keys[row : row + 1, :, :end], values[row : row + 1, :, :end], row_mask)
            results.append(y[0].transpose(0, 1))
        return torch.cat(results)[None] if len(results) > 1 else results[0][None]

    def advance(self, num_tokens: int) -> None:
        """Lengthen every row by its tokens; call this after the last layer has stored them."""
        rows = self._cache.rows(0, len(self._counts))
        rows.truncate([length + count for length, count in zip(rows.lengths, self._counts, strict=True)])

    def _causal_mask(self, start: int, count: int) -> Tensor | None:
        """For `count` tokens from position `start`, (count, start + count); None where `attend` needs none."""
        if start == 0 or count == 1:
            return None
        seen = torch.ones(count, start + count, dtype=torch.bool, device=self._cache.device).tril(start)
        return self._additive(seen)

    def _additive(self, mask: Tensor | None) -> Tensor | None:
        """The mask as what attention adds to its scores, converted once for all layers."""
        if mask is None:
            return None
        return torch.zeros(mask.shape, dtype=self._cache.keys.dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
