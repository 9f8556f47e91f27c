"""Keep the keys and values of earlier prompts and answers, so that a shared beginning is not read again.

    prefixes = PrefixCache(max_bytes=256_000_000)
    prefixes.store(ids, cache, row)                 # after `ids` were read into that row of a KVCache
    length = prefixes.load(other_ids, cache, row)   # how many of `other_ids` need not be read

Sequences are cut into blocks of 16 tokens. A block is found by its tokens and the block before it, so sequences that
begin alike share their first blocks, and one lookup per block finds the longest known beginning (as in vLLM: Kwon et
al. 2023, arXiv:2309.06180). Not thread-safe.
"""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.modeling.kv_cache import KVCache

BLOCK = 16  # tokens

_Key = tuple[int, tuple[int, ...]]  # the number of the block before (0: none), and the block's tokens


@dataclass(frozen=True)
class _Block:
    number: int  # never reused, so that the successors of an evicted block cannot be found under another
    content: Tensor  # (2, L, K, BLOCK, D): keys and values


class PrefixCache:
    """Blocks of one model's keys and values in at most `max_bytes`; the least recently used are evicted."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()  # least recently used first
        self._numbers = itertools.count(1)

    def known_length(self, ids: Sequence[int]) -> int:
        """How many of `ids` are known. The last one never counts, because reading it gives the first logits."""
        return len(self._find(ids[:-1])) * BLOCK

    def load(self, ids: Sequence[int], cache: KVCache, row: int) -> int:
        """Copy the longest known beginning of `ids` to `row`, and return its length (see `known_length`)."""
        found = self._find(ids[:-1])
        for index, key in enumerate(found):
            cache.write_row(row, index * BLOCK, self._blocks[key].content)
        self._touch(found)
        return len(found) * BLOCK

    def store(self, ids: Sequence[int], cache: KVCache, row: int) -> None:
        """Keep the whole blocks of `ids`, whose keys and values are at the start of `row`."""
        keys = self._find(ids)
        before = self._blocks[keys[-1]].number if keys else 0
        for start in range(len(keys) * BLOCK, len(ids) - BLOCK + 1, BLOCK):
            key = before, tuple(ids[start : start + BLOCK])
            before = next(self._numbers)
            content = cache.read_row(row, start, start + BLOCK)
            self._blocks[key] = _Block(before, content)
            self.num_bytes += content.nbytes
            keys.append(key)
        self._touch(keys)
        while self.num_bytes > self.max_bytes:
            _, evicted = self._blocks.popitem(last=False)
            self.num_bytes -= evicted.content.nbytes

    def _find(self, ids: Sequence[int]) -> list[_Key]:
        """The keys of the blocks that `ids` begin with."""
        found: list[_Key] = []
        before = 0
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = before, tuple(ids[start : start + BLOCK])
            if key not in self._blocks:
                break
            before = self._blocks[key].number
            found.append(key)
        return found

    def _touch(self, keys: Sequence[_Key]) -> None:
        """Mark a sequence as used. Its first block counts as the latest, so no block outlives those before it."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)
