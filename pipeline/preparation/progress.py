"""The progress line: ``Documents processed: x docs [.., y docs/s]`` with tokens, MB/s and time left."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.preparation.shard_output import PartState
from utils.terminal import format_count, format_seconds


@dataclass(frozen=True)
class BatchDone:
    """The progress of one batch: documents read, tokens written, input bytes."""

    rows: int
    tokens: int
    size: int


class ProgressLine:
    """Adds up workers' progress. Rates are for this run; counts include earlier runs."""

    def __init__(
        self,
        states: Sequence[PartState] = (),
        *,
        total_size: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from tqdm import tqdm

        self.rows = sum(state.rows for state in states)
        self.tokens = sum(state.tokens for state in states)
        self.size = self._size_before = sum(state.size for state in states)
        self._total_size = total_size
        self._clock = clock
        self._begun = clock()
        self._bar = tqdm(
            desc="Documents processed",
            initial=self.rows,
            unit=" docs",
            bar_format="{desc}: {n:,} docs [{elapsed}, {rate_fmt}{postfix}]",
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
        )

    def add(self, batch: BatchDone) -> None:
        self.rows += batch.rows
        self.tokens += batch.tokens
        self.size += batch.size
        self._bar.set_postfix_str(self.postfix(), refresh=False)
        self._bar.update(batch.rows)

    def postfix(self) -> str:
        """``1.2M tokens, 34.5 MB/s, ETA 1m 15s``"""
        rate = (self.size - self._size_before) / max(self._clock() - self._begun, 1e-9)
        parts = [f"{format_count(self.tokens)} tokens", f"{rate / 1e6:.1f} MB/s"]
        if self._total_size and rate:
            parts.append(f"ETA {format_seconds(max(self._total_size - self.size, 0) / rate)}")
        return ", ".join(parts)

    def close(self) -> None:
        self._bar.close()

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
