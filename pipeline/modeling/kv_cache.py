"""A key-value cache in preallocated memory.

    cache = KVCache(config, batch_size=2, max_length=256, device="cpu", dtype=torch.float32)
    model.hidden_states(prompts, cache=cache)       # prefill, padded on the right
    cache.truncate([7, 12])                         # forget the padding
    model.hidden_states(next_tokens, cache=cache)   # one token per row, each at its own position

Every row starts at position 0 and is padded on the right. Causal attention never looks to the right, so a padded
prefill needs no mask, RoPE needs no offset, and rows can come and go independently.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.modeling.attention_kernels import Mask, attend
from pipeline.modeling.config import ModelConfig


class Cache(Protocol):
    """What the model needs: a `KVCache`, or a view of one such as `RaggedRows`."""

    def positions(self, num_tokens: int) -> Tensor: ...

    def mask(self, num_tokens: int) -> Tensor | None: ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor: ...

    def advance(self, num_tokens: int) -> None: ...


class KVCache:
    """Keys and values, (B, L, K, S, D): rows, layers, key-value heads, positions, head size.

    Rows are contiguous, so that they can be copied and passed on individually.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch_size: int,
        max_length: int,
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (batch_size, config.num_hidden_layers, config.num_key_value_heads, max_length, config.head_dim)
        # Zeros instead of empty: attention multiplies masked values by 0, and 0 times an uninitialized NaN is NaN.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._lengths = [0] * batch_size
        self._positions: tuple[list[int], Tensor] | None = None  # the previous result, and the lengths that it is for

    @property
    def lengths(self) -> list[int]:
        """The number of valid positions in each row; `truncate` sets them."""
        return self._lengths

    @property
    def batch_size(self) -> int:
        return len(self.keys)

    @property
    def max_length(self) -> int:
        return self.keys.shape[3]

    @property
    def device(self) -> torch.device:
        return self.keys.device

    def positions(self, num_tokens: int) -> Tensor:
        """Positions of the next `num_tokens` tokens: (T,) if all rows have the same length, else (B, T)."""
        lengths = self.lengths
        if self._positions and self._positions[0] == lengths and self._positions[1].shape[-1] == num_tokens:
            return self._positions[1]
        positions = torch.arange(num_tokens, device=self.device)  # (T,)
        if _are_equal(lengths):
            positions = positions + lengths[0]
        else:
            positions = torch.tensor(lengths, device=self.device)[:, None] + positions  # (B, T)
        self._positions = list(lengths), positions
        return positions

    def mask(self, num_tokens: int) -> Tensor | None:
        """A mask that is True where an incoming token may attend: (T, S) or (B, 1, T, S).

        None if no mask is needed: one token per row at equal lengths, or the causal prefill of an empty cache.
        """
        lengths = self.lengths
        if _are_equal(lengths) and (num_tokens == 1 or lengths[0] == 0):
            return None
        positions = self.positions(num_tokens)
        seen = torch.arange(max(lengths) + num_tokens, device=self.device) <= positions[..., None]
        return seen if seen.dim() == 2 else seen[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        """Store the new `k`, `v` (B, T, K, D) of a layer; attention of `q` over all positions so far, (B, T, H, D)."""
        keys, values = self.update(layer, k.transpose(1, 2), v.transpose(1, 2))
        return attend(q.transpose(1, 2), keys, values, mask).transpose(1, 2)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store `keys` and `values` (B, K, T, D) of a layer. Returns views of all of its positions, (B, K, S, D)."""
        num_tokens = keys.shape[2]
        lengths = self.lengths
        end = max(lengths) + num_tokens
        assert end <= self.max_length, f"{end} positions do not fit in a cache of {self.max_length}"
        if _are_equal(lengths):
            self.keys[:, layer, :, end - num_tokens : end] = keys
            self.values[:, layer, :, end - num_tokens : end] = values
        else:
            rows = torch.arange(self.batch_size, device=self.device)[:, None]
            positions = self.positions(num_tokens)
            # Indexed by (B, 1) and (B, T) around a slice, so the indexed part has the shape (B, T, K, D).
            self.keys[:, layer][rows, :, positions] = keys.transpose(1, 2)
            self.values[:, layer][rows, :, positions] = values.transpose(1, 2)
        return self.keys[:, layer, :, :end], self.values[:, layer, :, :end]

    def advance(self, num_tokens: int) -> None:
        """Advance every row by `num_tokens`; call this after the last layer has stored them."""
        self.truncate([length + num_tokens for length in self.lengths])

    def truncate(self, lengths: int | Sequence[int]) -> None:
        """Set the number of valid positions in each row. Later positions are overwritten before they are read."""
        self._lengths = [lengths] * self.batch_size if isinstance(lengths, int) else list(lengths)

    def rows(self, start: int, stop: int) -> "KVCache":
        """A view of rows `start` to `stop`; writing to it writes to this cache."""
        return _CacheRows(self, slice(start, stop))

    def swap_rows(self, first: int, second: int) -> None:
        """Exchange two rows."""
        if first == second:
            return
        lengths = list(self.lengths)
        longest = max(lengths[first], lengths[second])
        for part in (self.keys, self.values):
            # Indexing with a list makes a copy, which is complete before the first row is overwritten.
            part[[first, second], :, :, :longest] = part[[second, first], :, :, :longest]
        lengths[first], lengths[second] = lengths[second], lengths[first]
        self.truncate(lengths)

    def truncate_row(self, row: int, length: int) -> None:
        """Set the number of valid positions in one row."""
        lengths = list(self.lengths)
        lengths[row] = length
        self.truncate(lengths)

    def read_row(self, row: int, start: int, stop: int) -> Tensor:
        """A copy of the keys and values of these positions, (2, L, K, T, D)."""
        return torch.stack((self.keys[row, :, :, start:stop], self.values[row, :, :, start:stop]))

    def write_row(self, row: int, start: int, content: Tensor) -> None:
        """Store what `read_row` returned at the positions from `start`."""
        stop = start + content.shape[3]
        self.keys[row, :, :, start:stop], self.values[row, :, :, start:stop] = content


class _CacheRows(KVCache):
    """A view of some rows of another cache, sharing its memory and lengths."""

    def __init__(self, whole: KVCache, rows: slice) -> None:
        self.keys = whole.keys[rows]
        self.values = whole.values[rows]
        self._whole = whole
        self._rows = rows
        self._positions = None

    @property
    def lengths(self) -> list[int]:
        return self._whole.lengths[self._rows]

    def truncate(self, lengths: int | Sequence[int]) -> None:
        every = list(self._whole.lengths)
        every[self._rows] = [lengths] * self.batch_size if isinstance(lengths, int) else lengths
        self._whole.truncate(every)


def _are_equal(lengths: Sequence[int]) -> bool:
    return min(lengths) == max(lengths)
