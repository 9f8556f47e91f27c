"""The progress line: ``Documents processed: x docs [.., y docs/s]`` with tokens, MB/s and time left."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.preparation.shard_output import PartState
from utils.terminal import format_count, format_seconds, terminal_width
from utils.text_layout import join_fitting


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
        self._bar.set_postfix_str(self.postfix(self._room()), refresh=False)
        self._bar.update(batch.rows)

    def _room(self) -> int | None:
        """The columns left on the terminal; None if it is not a terminal."""
        if not sys.stderr.isatty():
            return None
        return terminal_width() - len(f"Documents processed: {self.rows:,} docs [00:00:00, 99999.99 docs/s, ]") - 1

    def postfix(self, width: int | None = None) -> str:
        """``1.2M tokens, ETA 1m 15s, 34.5 MB/s``, as much as fits into `width` columns."""
        rate = (self.size - self._size_before) / max(self._clock() - self._begun, 1e-9)
        parts = [f"{format_count(self.tokens)} tokens", f"{rate / 1e6:.1f} MB/s"]
        if self._total_size and rate:
            parts.insert(1, f"ETA {format_seconds(max(self._total_size - self.size, 0) / rate)}")
        return ", ".join(parts) if width is None else join_fitting(parts, width)

    def close(self) -> None:
        self._bar.close()

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
