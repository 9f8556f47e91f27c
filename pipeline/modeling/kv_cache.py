"""The keys and values of what a model has already read, in memory that is allocated once.

    cache = KVCache(config, batch_size=2, max_length=256, device="cpu", dtype=torch.float32)
    model.hidden_states(prompts, cache=cache)       # prefill, padded on the right
    cache.truncate([7, 12])                         # forget the padding
    model.hidden_states(next_tokens, cache=cache)   # one token a row, each at its own position

Every row counts its positions from 0 and is padded on the right. Causal attention never sees what stands to the right,
so a padded prefill needs no mask, RoPE needs no offset, and rows may come and go independently.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.modeling.config import ModelConfig


class KVCache:
    """Keys and values, (B, L, K, S, D): rows, layers, key-value heads, positions, head size.

    A row lies in one piece, so that it can be copied and handed on alone.
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
        # Zeros, not empty: attention multiplies what it masks by 0, and 0 times an uninitialised NaN is NaN.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = [0] * batch_size
        self._positions: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return len(self.lengths)

    @property
    def max_length(self) -> int:
        return self.keys.shape[3]

    @property
    def device(self) -> torch.device:
        return self.keys.device

    def positions(self, num_tokens: int) -> Tensor:
        """Positions of the `num_tokens` tokens to come: (T,) where all rows stand equally far, else (B, T)."""
        if self._positions is None or self._positions.shape[-1] != num_tokens:
            steps = torch.arange(num_tokens, device=self.device)
            if self._is_even():
                self._positions = steps + self.lengths[0]
            else:
                self._positions = torch.tensor(self.lengths, device=self.device)[:, None] + steps
        return self._positions

    def mask(self, num_tokens: int) -> Tensor | None:
        """What each incoming token may see, True for yes: (T, S) or (B, 1, T, S).

        None where plain attention is right: one token a row at even lengths, or the causal prefill of an empty cache.
        """
        if self._is_even() and (num_tokens == 1 or self.lengths[0] == 0):
            return None
        positions = self.positions(num_tokens)
        seen = torch.arange(max(self.lengths) + num_tokens, device=self.device) <= positions[..., None]
        return seen if seen.dim() == 2 else seen[:, None]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores `keys` and `values` (B, K, T, D) of one layer; gives all of it so far, (B, K, S, D) views."""
        num_tokens = keys.shape[2]
        end = max(self.lengths) + num_tokens
        assert end <= self.max_length, f"cache of {self.max_length} positions asked to hold {end}"
        if self._is_even():
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
        """Counts `num_tokens` tokens as read, after the last layer has stored them."""
        self.truncate([length + num_tokens for length in self.lengths])

    def truncate(self, lengths: int | Sequence[int]) -> None:
        """Each row's number of valid positions; what stands after them is overwritten before it is ever seen."""
        self.lengths = [lengths] * self.batch_size if isinstance(lengths, int) else list(lengths)
        self._positions = None

    def rows(self, start: int, stop: int) -> "KVCache":
        """A cache over rows `start` to `stop` of the same memory, with lengths of its own."""
        view = object.__new__(KVCache)
        view.keys, view.values = self.keys[start:stop], self.values[start:stop]
        view.lengths, view._positions = self.lengths[start:stop], None
        return view

    def copy_row(self, other: "KVCache", source: int, target: int, *, length: int) -> None:
        """The first `length` positions of `other`'s row `source` become row `target` here; both may be one cache."""
        self.keys[target, :, :, :length] = other.keys[source, :, :, :length]
        self.values[target, :, :, :length] = other.values[source, :, :, :length]
        self.lengths[target] = length
        self._positions = None

    def _is_even(self) -> bool:
        return min(self.lengths) == max(self.lengths)
